// Attention of single new tokens over paged keys and values. Bound by memory: 512 bytes of keys and values for each key and KV head at
// D = 128, used by all query heads of the group at once as the rows of one matrix instruction. Work is cut into splits of 256 keys, so
// one long sequence fills all processors; blocks walk over the work, and the copies of a split begin while the one before is still
// computed: at D = 128 a block has 64 KiB under way, a processor 128 KiB, several times what latency asks for. A block's four warps
// each make all scores (cheap beside the copies) and a quarter of the context's elements, and meet once a tile.
#include "attention.h"

constexpr u32 kThreads = 128;
constexpr u32 kStages = 3;
/// Partials under way while splits are folded.
constexpr u32 kFoldLoads = 16;

struct DecodeItem {
    u32 query, split;
};

template <typename T>
struct Decode {
    const T* q;
    const T* pool;
    const u32* tables;
    const DecodeQuery* queries;
    const DecodeItem* items;
    const u32* counts;
    float* partial_out;
    float* partial_ml;
    T* context;
    u32 query_heads;
    KvShape shape;
    u32 layer;
    float scale;
    u32 window;
};

/// One split of one query and KV head, and the tile of it that is next.
struct Work {
    u32 index, count;
    DecodeQuery query;
    u32 split, kv_head;
    u32 first;  // key that the query sees
    u32 tile, tile_end;

    template <typename T>
    VL_DEVICE void open(const Decode<T>& decode) {
        if (index >= count) return;
        DecodeItem item = decode.items[index / decode.shape.kv_heads];
        kv_head = index % decode.shape.kv_heads;
        query = decode.queries[item.query];
        split = item.split;
        first = first_visible(query.position, decode.window);
        tile = larger(split * kSplitKeys, first) / kTileKeys;
        tile_end = divide_up(smaller((split + 1) * kSplitKeys, query.position + 1), kTileKeys);
    }
    VL_DEVICE bool is_open() const { return index < count; }
    VL_DEVICE bool is_last_tile() const { return tile + 1 >= tile_end; }
    template <typename T>
    VL_DEVICE void advance(const Decode<T>& decode) {
        if (!is_last_tile()) {
            ++tile;
            return;
        }
        index += gridDim.x;
        open(decode);
    }
};

template <typename T, u32 kHeadDim>
struct DecodeWarp {
    using Shape = TileShape<kHeadDim>;
    static constexpr u32 kOwn = divide_up(Shape::kPieces, kThreads / kWarp);

    u32 q[Shape::kSteps][4];
    RowStates rows;
    float out[kOwn][4];

    /// Fetches the queries of the group's heads, zeros in rows beyond them, and begins from nothing.
    VL_DEVICE void begin(const Decode<T>& decode, const Work& work) {
        u32 lane = threadIdx.x % kWarp, group = decode.query_heads / decode.shape.kv_heads;
        u64 head = static_cast<u64>(work.query.token) * decode.query_heads + work.kv_head * group;
        VL_UNROLL
        for (u32 step = 0; step < Shape::kSteps; ++step) {
            VL_UNROLL
            for (u32 word = 0; word < 4; ++word) {
                u32 row = lane / 4 + word % 2 * 8;
                const T* from = decode.q + (head + row) * kHeadDim + step * 16 + word / 2 * 8 + lane % 4 * 2;
                q[step][word] = row < group ? *reinterpret_cast<const u32*>(from) : 0;
            }
        }
        rows = RowStates{};
        VL_UNROLL
        for (u32 own = 0; own < kOwn; ++own) {
            VL_UNROLL
            for (u32 element = 0; element < 4; ++element) out[own][element] = 0.0f;
        }
    }

    VL_DEVICE void take(const Decode<T>& decode, const Work& work, const Words* keys) {
        float scores[8][4] = {};
        multiply_keys<T, kHeadDim>(scores, keys, [&](u32 step, u32(&a)[4]) {
            VL_UNROLL
            for (u32 word = 0; word < 4; ++word) a[word] = q[step][word];
        });
        u32 position[2] = {work.query.position, work.query.position};
        u32 start = work.tile * kTileKeys;
        bool is_whole = start >= work.first && start + kTileKeys <= work.query.position + 1;
        float keep[2];
        exponentiate(scores, rows, keep, decode.scale * kLog2E, work.tile, is_whole, decode.window, position);
        u32 shares[4][4];
        pack_shares<T>(shares, scores);
        VL_UNROLL
        for (u32 own = 0; own < kOwn; ++own) {
            u32 piece = threadIdx.x / kWarp * kOwn + own;
            // No branch where every warp has as many: pieces are then worked on side by side.
            bool is_there = Shape::kPieces % (kThreads / kWarp) == 0 || piece < Shape::kPieces;
            if (is_there) multiply_values<T, kHeadDim>(out[own], shares, keep, keys + Shape::kWords, piece);
        }
    }

    /// Writes what the split made: to its partial, or at once to the context when it is the query's only one.
    VL_DEVICE void finish(const Decode<T>& decode, const Work& work) {
        u32 lane = threadIdx.x % kWarp, group = decode.query_heads / decode.shape.kv_heads;
        u32 first_split = work.first / kSplitKeys;
        bool is_only = first_split == work.query.position / kSplitKeys;
        u64 partial = static_cast<u64>(work.query.partial) + (work.split - first_split);
        VL_UNROLL
        for (u32 half = 0; half < 2; ++half) {
            float sum = row_sum(rows.sum[half]);
            u32 row = lane / 4 + half * 8;
            if (row >= group) continue;
            u32 head = work.kv_head * group + row;
            u64 at = partial * decode.query_heads + head;
            if (!is_only && threadIdx.x / kWarp == 0 && lane % 4 == 0) {
                decode.partial_ml[at * 2] = rows.max[half];
                decode.partial_ml[at * 2 + 1] = sum;
            }
            VL_UNROLL
            for (u32 own = 0; own < kOwn; ++own) {
                u32 piece = threadIdx.x / kWarp * kOwn + own;
                if (piece >= Shape::kPieces) continue;
                u32 element = piece * 8 + lane % 4 * 2;
                float first = out[own][half * 2], second = out[own][half * 2 + 1];
                if (is_only) {
                    // As the fold of one split: times one.
                    float share = share_of(sum);
                    T* to = decode.context + (static_cast<u64>(work.query.token) * decode.query_heads + head) * kHeadDim + element;
                    store_pair(to, __fmul_rn(first, share), __fmul_rn(second, share));
                } else {
                    decode.partial_out[at * kHeadDim + element] = first;
                    decode.partial_out[at * kHeadDim + element + 1] = second;
                }
            }
        }
    }
};

template <typename T, u32 kHeadDim>
VL_DEVICE void attention_decode(const Decode<T>& decode) {
    using Shape = TileShape<kHeadDim>;
    VL_SHARED_DYNAMIC(memory);
    Words* stages = reinterpret_cast<Words*>(memory);
    grid_wait();
    grid_release();
    Work here;
    here.index = blockIdx.x;
    here.count = decode.counts[1] * decode.shape.kv_heads;
    here.open(decode);
    Work ahead = here;
    u32 filled = 0;
    auto fill = [&] {
        if (ahead.is_open()) {
            Words* keys = stages + filled % kStages * (2 * Shape::kWords);
            copy_tile<T, kHeadDim, kThreads>(keys, keys + Shape::kWords, decode.pool, decode.tables + ahead.query.table, decode.shape,
                                             ahead.kv_head, decode.layer, ahead.tile, ahead.first, ahead.query.position);
            ahead.advance(decode);
        }
        ++filled;
        copy_commit();
    };
    for (u32 stage = 0; stage < kStages - 1; ++stage) fill();
    DecodeWarp<T, kHeadDim> warp;
    u32 taken = 0;
    bool is_new = true;
    while (here.is_open()) {
        if (is_new) warp.begin(decode, here);
        copy_wait<kStages - 2>();
        // This tile has come for all, and all are done with the one that is now overwritten.
        __syncthreads();
        fill();
        warp.take(decode, here, stages + taken % kStages * (2 * Shape::kWords));
        ++taken;
        is_new = here.is_last_tile();
        if (is_new) warp.finish(decode, here);
        here.advance(decode);
    }
    copy_wait<0>();
}

/// Folds the splits of the queries that have several. One block a query and head, one thread an element. The factors follow from
/// the splits' maxima alone, so they are made for 128 splits at a time, side by side: what is left in order is two products and a sum.
template <typename T>
VL_DEVICE void attention_combine(const DecodeQuery* queries, const u32* counts, const float* partial_out, const float* partial_ml,
                                 T* context, u32 query_heads, u32 head_dim, u32 window) {
    VL_SHARED(float, keeps, kThreads);
    VL_SHARED(float, adds, kThreads);
    VL_SHARED(float, sums, kThreads);
    VL_SHARED(float, warp_max, kThreads / kWarp);
    grid_wait();
    grid_release();
    if (blockIdx.x >= counts[0]) return;
    DecodeQuery query = queries[blockIdx.x];
    u32 first_split = first_visible(query.position, window) / kSplitKeys;
    u32 count = query.position / kSplitKeys - first_split + 1;
    if (count == 1) return;
    u32 head = blockIdx.y, element = threadIdx.x, lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    u64 first = static_cast<u64>(query.partial) * query_heads + head;
    float max = minus_infinity(), sum = 0.0f, out = 0.0f;
    for (u32 start = 0; start < count; start += kThreads) {
        u32 split = start + threadIdx.x;
        bool valid = split < count;
        u64 at = first + static_cast<u64>(valid ? split : start) * query_heads;
        float own = valid ? partial_ml[at * 2] : minus_infinity();
        float running = own;
        VL_UNROLL
        for (u32 distance = 1; distance < kWarp; distance *= 2) {
            float below = shuffle_up(running, distance);
            if (lane >= distance) running = maximum(running, below);
        }
        if (lane == kWarp - 1) warp_max[warp] = running;
        __syncthreads();
        float before = max;
        for (u32 index = 0; index < warp; ++index) before = maximum(before, warp_max[index]);
        float below = shuffle_up(running, 1);
        if (lane > 0) before = maximum(before, below);
        Fold fold = Fold::of(before, own);
        keeps[threadIdx.x] = fold.keep;
        adds[threadIdx.x] = fold.add;
        sums[threadIdx.x] = valid ? partial_ml[at * 2 + 1] : 0.0f;
        for (u32 index = 0; index < kThreads / kWarp; ++index) max = maximum(max, warp_max[index]);
        __syncthreads();
        u32 here = smaller(kThreads, count - start);
        for (u32 index = 0; index < here; index += kFoldLoads) {
            float loaded[kFoldLoads];
            VL_UNROLL
            for (u32 inside = 0; inside < kFoldLoads; ++inside) {
                u64 place = (first + static_cast<u64>(start + index + inside) * query_heads) * head_dim + element;
                loaded[inside] = index + inside < here && element < head_dim ? partial_out[place] : 0.0f;
            }
            VL_UNROLL
            for (u32 inside = 0; inside < kFoldLoads; ++inside) {
                if (index + inside >= here) break;
                Fold by{keeps[index + inside], adds[index + inside]};
                sum = by.join(sum, sums[index + inside]);
                out = by.join(out, loaded[inside]);
            }
        }
        // The next 128 may overwrite the factors.
        __syncthreads();
    }
    if (element >= head_dim) return;
    narrow(__fmul_rn(out, share_of(sum)), context[(static_cast<u64>(query.token) * query_heads + head) * head_dim + element]);
}

#define MAKE_DIM(name, T, head_dim)                                                                                              \
    VL_KERNEL(128, 2) void vl_attention_decode_##name##_d##head_dim(                                                           \
        const T* q, const T* pool, const u32* tables, const DecodeQuery* queries, const DecodeItem* items, const u32* counts, \
        float* partial_out, float* partial_ml, T* context, u32 query_heads, u32 kv_heads, u32 layers, u32 layer, float scale, \
        u32 window) {                                                                                                         \
        attention_decode<T, head_dim>(Decode<T>{q, pool, tables, queries, items, counts, partial_out, partial_ml, context,    \
                                                query_heads, KvShape{kv_heads, layers, head_dim}, layer, scale, window});     \
    }
#define MAKE(name, T)                                                                                                            \
    VL_HEAD_DIMS(MAKE_DIM, name, T)                                                                                            \
    VL_KERNEL(128, 1) void vl_attention_combine_##name(const DecodeQuery* queries, const u32* counts, const float* partial_out, \
                                                       const float* partial_ml, T* context, u32 query_heads, u32 head_dim,    \
                                                       u32 window) {                                                          \
        attention_combine<T>(queries, counts, partial_out, partial_ml, context, query_heads, head_dim, window);               \
    }
VL_HALVES(MAKE)
