// Attention of runs of new tokens over paged keys and values, causal, with the tokens' own keys already in their blocks. A block takes
// 128 rows: the query heads of one KV head for as many tokens as fit, so a tile of keys and values, once in shared memory, serves them all
// (at D = 128: 64 KiB/us a processor for 128 rows at the rate of the matrix instructions, well below what the second cache gives). A warp
// has 16 rows and their context in registers. The next tile is copied while one is computed. Shared memory: queries 256 D, two stages of keys
// and values 512 D, totals 512 D bytes.
#include "attention.h"

constexpr u32 kThreads = 256;
constexpr u32 kRows = 128;

struct PrefillItem {
    u32 first_token, tokens, first_position, table;
};

template <typename T>
struct Prefill {
    const T* q;
    const T* pool;
    const u32* tables;
    const PrefillItem* items;
    const u32* count;
    T* context;
    u32 query_heads;
    KvShape shape;
    u32 layer;
    float scale;
    u32 window;
};

/// A warp's 16 rows.
template <typename T, u32 kHeadDim>
struct PrefillWarp {
    using Shape = TileShape<kHeadDim>;

    u32 position[2];  // of a lane's rows
    u32 first_position, last_position;  // of the warp's rows
    RowStates rows;
    float total_max[2] = {minus_infinity(), minus_infinity()};
    float total_sum[2] = {0.0f, 0.0f};
    float out[Shape::kPieces][4] = {};
    // The splits before this one, in shared memory because it is touched every 256 keys only and would fill the registers. Only the
    // thread itself reads and writes its elements.
    float* totals;

    VL_DEVICE float& total(u32 piece, u32 element) { return totals[(piece * 4 + element) * kThreads + threadIdx.x]; }

    VL_DEVICE PrefillWarp(const PrefillItem& item, u32 group, float* totals) : totals(totals) {
        u32 first_row = threadIdx.x / kWarp * 16, lane = threadIdx.x % kWarp;
        // Rows beyond the last token look where it looks, and are thrown away.
        auto position_of = [&](u32 row) { return item.first_position + smaller(row / group, item.tokens - 1); };
        position[0] = position_of(first_row + lane / 4);
        position[1] = position_of(first_row + lane / 4 + 8);
        first_position = position_of(first_row);
        last_position = position_of(first_row + 15);
        VL_UNROLL
        for (u32 piece = 0; piece < Shape::kPieces; ++piece) {
            VL_UNROLL
            for (u32 element = 0; element < 4; ++element) total(piece, element) = 0.0f;
        }
    }

    VL_DEVICE void take(const Prefill<T>& prefill, const Words* queries, const Words* keys, u32 tile) {
        u32 start = tile * kTileKeys, end = start + kTileKeys;
        // Nobody of the warp sees any of it.
        if (start > last_position || end <= first_visible(first_position, prefill.window)) return;
        float scores[8][4] = {};
        u32 first_row = threadIdx.x / kWarp * 16, lane = threadIdx.x % kWarp;
        multiply_keys<T, kHeadDim>(scores, keys, [&](u32 step, u32(&a)[4]) {
            // Matrices in the order of the words: rows 0..7 and 8..15 of the first piece, then of the second.
            load_matrices(a, queries + Shape::place(first_row + lane % 16, 2 * step + lane / 16));
        });
        float keep[2];
        bool is_whole = start >= first_visible(last_position, prefill.window) && end <= first_position + 1;
        exponentiate(scores, rows, keep, prefill.scale * kLog2E, tile, is_whole, prefill.window, position);
        u32 shares[4][4];
        pack_shares<T>(shares, scores);
        VL_UNROLL
        for (u32 piece = 0; piece < Shape::kPieces; ++piece) {
            multiply_values<T, kHeadDim>(out[piece], shares, keep, keys + Shape::kWords, piece);
        }
    }

    /// Ends a split.
    VL_DEVICE void fold() {
        VL_UNROLL
        for (u32 half = 0; half < 2; ++half) {
            Fold by = Fold::of(total_max[half], rows.max[half]);
            total_sum[half] = by.join(total_sum[half], row_sum(rows.sum[half]));
            VL_UNROLL
            for (u32 piece = 0; piece < Shape::kPieces; ++piece) {
                VL_UNROLL
                for (u32 element = half * 2; element < half * 2 + 2; ++element) {
                    total(piece, element) = by.join(total(piece, element), out[piece][element]);
                    out[piece][element] = 0.0f;
                }
            }
        }
        rows = RowStates{};
    }

    VL_DEVICE void finish(const Prefill<T>& prefill, const PrefillItem& item, u32 kv_head, u32 group) {
        u32 lane = threadIdx.x % kWarp;
        VL_UNROLL
        for (u32 half = 0; half < 2; ++half) {
            u32 row = threadIdx.x / kWarp * 16 + lane / 4 + half * 8;
            if (row >= item.tokens * group) continue;
            float share = share_of(total_sum[half]);
            u64 head = static_cast<u64>(item.first_token + row / group) * prefill.query_heads + kv_head * group + row % group;
            VL_UNROLL
            for (u32 piece = 0; piece < Shape::kPieces; ++piece) {
                store_pair(prefill.context + head * kHeadDim + piece * 8 + lane % 4 * 2, __fmul_rn(total(piece, half * 2), share),
                           __fmul_rn(total(piece, half * 2 + 1), share));
            }
        }
    }
};

template <typename T, u32 kHeadDim>
VL_DEVICE void attention_prefill(const Prefill<T>& prefill) {
    using Shape = TileShape<kHeadDim>;
    VL_SHARED_DYNAMIC(memory);
    Words* queries = reinterpret_cast<Words*>(memory);
    Words* stages = queries + kRows * Shape::kPieces;
    grid_wait();
    grid_release();
    if (blockIdx.x >= prefill.count[0]) return;
    PrefillItem item = prefill.items[blockIdx.x];
    u32 kv_head = blockIdx.y, group = prefill.query_heads / prefill.shape.kv_heads;
    VL_UNROLL
    for (u32 round = 0; round < kRows * Shape::kPieces / kThreads; ++round) {
        u32 index = round * kThreads + threadIdx.x;
        u32 row = index / Shape::kPieces, piece = index % Shape::kPieces;
        bool valid = row < item.tokens * group;
        u64 head = static_cast<u64>(item.first_token + row / group) * prefill.query_heads + kv_head * group + row % group;
        copy_async(queries + Shape::place(row, piece), valid ? prefill.q + head * kHeadDim + piece * 8 : prefill.q, valid);
    }
    u32 first = first_visible(item.first_position, prefill.window);
    u32 last = item.first_position + item.tokens - 1;
    auto fill = [&](u32 tile) {
        Words* keys = stages + tile % 2 * (2 * Shape::kWords);
        copy_tile<T, kHeadDim, kThreads>(keys, keys + Shape::kWords, prefill.pool, prefill.tables + item.table, prefill.shape, kv_head,
                                         prefill.layer, tile, first, last);
        copy_commit();
    };
    u32 tile_end = last / kTileKeys + 1;
    fill(first / kTileKeys);
    PrefillWarp<T, kHeadDim> warp(item, group, reinterpret_cast<float*>(stages + 2 * 2 * Shape::kWords));
    for (u32 tile = first / kTileKeys; tile < tile_end; ++tile) {
        copy_wait<0>();
        // This tile has come for all, and all are done with the one that is now overwritten.
        __syncthreads();
        if (tile + 1 < tile_end) fill(tile + 1);
        warp.take(prefill, queries, stages + tile % 2 * (2 * Shape::kWords), tile);
        if (tile % kSplitTiles == kSplitTiles - 1 || tile + 1 == tile_end) warp.fold();
    }
    warp.finish(prefill, item, kv_head, group);
}

#define MAKE_DIM(name, T, head_dim)                                                                                              \
    VL_KERNEL(256, 1) void vl_attention_prefill_##name##_d##head_dim(                                                          \
        const T* q, const T* pool, const u32* tables, const PrefillItem* items, const u32* count, T* context,                 \
        u32 query_heads, u32 kv_heads, u32 layers, u32 layer, float scale, u32 window) {                                      \
        attention_prefill<T, head_dim>(Prefill<T>{q, pool, tables, items, count, context, query_heads,                        \
                                                  KvShape{kv_heads, layers, head_dim}, layer, scale, window});                \
    }
#define MAKE(name, T) VL_HEAD_DIMS(MAKE_DIM, name, T)
VL_HALVES(MAKE)
