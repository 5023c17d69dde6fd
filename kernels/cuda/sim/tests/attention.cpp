// Attention: decode with its fold, prefill and f32 against f64, over pages in any order; and the same bits from each kernel, in any chunks.
#include "check.h"

#define kThreads kDecodeThreads
#include "../../cu/attention_decode.cu"
#undef MAKE
#undef MAKE_DIM
#undef kThreads
#define kThreads kPrefillThreads
#include "../../cu/attention_prefill.cu"
#undef MAKE
#undef MAKE_DIM
#include "../../cu/attention_f32.cu"

/// Some sequences with all their keys and values in a pool of shuffled pages; what no sequence holds is poison.
template <typename T>
struct World {
    u32 query_heads, kv_heads, head_dim, layers = 2, layer = 1, window;
    std::vector<u32> lengths, first_table, tables;
    std::vector<T> pool;
    std::vector<std::vector<T>> q;  // per sequence [length][query_heads][head_dim]
    float scale;

    World(u32 query_heads, u32 kv_heads, u32 head_dim, u32 window, std::vector<u32> lengths)
        : query_heads(query_heads), kv_heads(kv_heads), head_dim(head_dim), window(window), lengths(lengths),
          scale(1.0f / std::sqrt(static_cast<float>(head_dim))) {
        u32 pages = 3;
        for (u32 length : lengths) pages += divide_up(length, 16);
        std::vector<u32> order(pages);
        for (u32 page = 0; page < pages; ++page) order[page] = page;
        for (u32 page = 0; page < pages; ++page) std::swap(order[page], order[below(pages)]);
        KvShape shape{kv_heads, layers, head_dim};
        pool = unwritten<T>(shape.tile(pages, 0, 0, false));
        for (u32 length : lengths) {
            first_table.push_back(static_cast<u32>(tables.size()));
            q.push_back(normals<T>(size_t{length} * query_heads * head_dim, 2));
            for (u32 key = 0; key < length; ++key) {
                if (key % 16 == 0) {
                    tables.push_back(order.back());
                    order.pop_back();
                }
                for (u32 head = 0; head < kv_heads; ++head) {
                    for (bool values : {false, true}) {
                        T* to = &pool[shape.tile(tables.back(), head, layer, values) + key % 16 * head_dim];
                        for (u32 element = 0; element < head_dim; ++element) to[element] = made_of<T>(normal());
                    }
                }
            }
        }
    }

    /// All heads of one token.
    std::vector<double> expected(u32 sequence, u32 position) const {
        std::vector<double> out;
        KvShape shape{kv_heads, layers, head_dim};
        for (u32 head = 0; head < query_heads; ++head) {
            const T* query = &q[sequence][(position * query_heads + head) * head_dim];
            u32 kv_head = head / (query_heads / kv_heads);
            std::vector<double> context(head_dim);
            double sum = 0;
            for (u32 key = window == 0 || position + 1 < window ? 0 : position + 1 - window; key <= position; ++key) {
                u32 page = tables[first_table[sequence] + key / 16];
                const T* row = &pool[shape.tile(page, kv_head, layer, false) + key % 16 * head_dim];
                const T* value = &pool[shape.tile(page, kv_head, layer, true) + key % 16 * head_dim];
                double score = 0;
                for (u32 element = 0; element < head_dim; ++element) score += double{widen(query[element])} * widen(row[element]);
                double share = std::exp(score * scale);
                sum += share;
                for (u32 element = 0; element < head_dim; ++element) context[element] += share * widen(value[element]);
            }
            for (double value : context) out.push_back(value / sum);
        }
        return out;
    }
};

/// One token of a batch.
struct Asked {
    u32 sequence, position;
};

template <typename T, u32 kHeadDim>
struct Kernels;
#define KERNELS(name, T, head_dim)                                                        \
    template <>                                                                           \
    struct Kernels<T, head_dim> {                                                         \
        static constexpr auto decode = vl_attention_decode_##name##_d##head_dim;          \
        static constexpr auto prefill = vl_attention_prefill_##name##_d##head_dim;        \
        static constexpr auto combine = vl_attention_combine_##name;                      \
    };
#define ALL_KERNELS(name, T) VL_HEAD_DIMS(KERNELS, name, T)
VL_HALVES(ALL_KERNELS)

template <typename T>
std::vector<T> queries_of(const World<T>& world, const std::vector<Asked>& batch) {
    size_t width = size_t{world.query_heads} * world.head_dim;
    std::vector<T> q;
    for (Asked asked : batch) {
        auto start = world.q[asked.sequence].begin() + asked.position * width;
        q.insert(q.end(), start, start + width);
    }
    return q;
}

template <typename T>
std::vector<DecodeQuery> plan(const World<T>& world, const std::vector<Asked>& batch, std::vector<DecodeItem>& items, u32& partials) {
    std::vector<DecodeQuery> queries;
    partials = 0;
    for (u32 token = 0; token < batch.size(); ++token) {
        u32 position = batch[token].position;
        queries.push_back({token, position, world.first_table[batch[token].sequence], partials});
        u32 first = (world.window == 0 || position + 1 < world.window ? 0 : position + 1 - world.window) / kSplitKeys;
        for (u32 split = first; split <= position / kSplitKeys; ++split, ++partials) items.push_back({token, split});
    }
    return queries;
}

template <typename T, u32 kHeadDim>
std::vector<T> decode(const World<T>& world, const std::vector<Asked>& batch, u32 blocks, u64 seed) {
    std::vector<DecodeItem> work;
    u32 partials;
    Exact<DecodeQuery> queries(plan(world, batch, work, partials));
    Exact<DecodeItem> items(work);
    u32 count = static_cast<u32>(batch.size());
    Exact<u32> counts(std::vector<u32>{count, static_cast<u32>(work.size())}), tables(world.tables);
    Exact<T> q(queries_of(world, batch)), pool(world.pool), context(unwritten<T>(q.count));
    Exact<float> out(unwritten<float>(size_t{partials} * world.query_heads * kHeadDim)), ml(unwritten<float>(partials * world.query_heads * 2));
    using K = Kernels<T, kHeadDim>;
    sim::launch({blocks}, {128}, 3 * 64 * kHeadDim * 2 * 2, seed, [&] {
        K::decode(q, pool, tables, queries, items, counts, out, ml, context, world.query_heads, world.kv_heads, world.layers,
                  world.layer, world.scale, world.window);
    });
    // The grid of a larger bucket.
    sim::launch({count + 1, world.query_heads}, {128}, 0, seed,
                [&] { K::combine(queries, counts, out, ml, context, world.query_heads, kHeadDim, world.window); });
    return context.read();
}

/// Tokens of one sequence that follow each other, cut into items of at most `most` tokens.
template <typename T, u32 kHeadDim>
std::vector<T> prefill(const World<T>& world, const std::vector<Asked>& batch, u32 most, u64 seed) {
    std::vector<PrefillItem> work;
    most = smaller(most, 128 / (world.query_heads / world.kv_heads));
    for (u32 token = 0; token < batch.size(); ++token) {
        bool follows = !work.empty() && batch[token].sequence == batch[token - 1].sequence && work.back().tokens < most &&
                       batch[token].position == batch[token - 1].position + 1;
        if (follows) {
            ++work.back().tokens;
        } else {
            work.push_back({token, 1, batch[token].position, world.first_table[batch[token].sequence]});
        }
    }
    Exact<PrefillItem> items(work);
    Exact<u32> count(std::vector<u32>{static_cast<u32>(work.size())}), tables(world.tables);
    Exact<T> q(queries_of(world, batch)), pool(world.pool), context(unwritten<T>(q.count));
    sim::launch({static_cast<u32>(work.size()) + 1, world.kv_heads}, {256}, 1280 * kHeadDim, seed, [&] {
        Kernels<T, kHeadDim>::prefill(q, pool, tables, items, count, context, world.query_heads, world.kv_heads, world.layers, world.layer,
                                      world.scale, world.window);
    });
    return context.read();
}

template <typename T>
std::vector<double> expected(const World<T>& world, const std::vector<Asked>& batch) {
    std::vector<double> all;
    for (Asked asked : batch) {
        auto one = world.expected(asked.sequence, asked.position);
        all.insert(all.end(), one.begin(), one.end());
    }
    return all;
}

std::vector<Asked> run_of(u32 sequence, u32 first, u32 end) {
    std::vector<Asked> batch;
    for (u32 position = first; position < end; ++position) batch.push_back({sequence, position});
    return batch;
}

/// Single tokens of several sequences at the edges of pages, tiles and splits.
template <typename T, u32 kHeadDim>
void decodes(u32 query_heads, u32 kv_heads, u32 window, std::vector<u32> lengths) {
    World<T> world(query_heads, kv_heads, kHeadDim, window, lengths);
    std::vector<Asked> batch;
    for (u32 sequence = 0; sequence < lengths.size(); ++sequence) batch.push_back({sequence, lengths[sequence] - 1});
    std::vector<double> wanted = expected(world, batch);
    std::vector<T> first;
    u32 blocks[] = {1, 3, 40};
    for (u32 index = 0; index < 3; ++index) {
        std::vector<T> found = decode<T, kHeadDim>(world, batch, blocks[index], kSeeds[index]);
        expect_close(found, wanted, bound_of<T>(), "attention of single tokens");
        if (index == 0) first = found;
        expect_same(found, first, "attention over another number of blocks");
    }
    expect_same(prefill<T, kHeadDim>(world, batch, 1, 4), first, "attention of single tokens by the other kernel");
}

/// Runs of tokens, in chunks of several sizes and in the decode kernel.
template <typename T, u32 kHeadDim>
void prefills(u32 query_heads, u32 kv_heads, u32 window, u32 first, u32 end) {
    World<T> world(query_heads, kv_heads, kHeadDim, window, {end, 20});
    std::vector<Asked> batch = run_of(0, first, end);
    std::vector<Asked> with_other = run_of(1, 3, 20);
    batch.insert(batch.end(), with_other.begin(), with_other.end());
    std::vector<T> whole = prefill<T, kHeadDim>(world, batch, 128, 1);
    expect_close(whole, expected(world, batch), bound_of<T>(), "attention of runs");
    expect_same(prefill<T, kHeadDim>(world, batch, 7, 2), whole, "attention of runs in other chunks");
    expect_same(decode<T, kHeadDim>(world, batch, 11, 3), whole, "attention of runs token by token");
}

void plain(u32 head_dim, u32 window) {
    World<float> world(4, 2, head_dim, window, {70, 1, 33});
    std::vector<Asked> batch = {{0, 69}, {1, 0}, {2, 31}, {2, 32}, {0, 15}};
    std::vector<DecodeItem> work;
    u32 partials;
    Exact<DecodeQuery> queries(plan(world, batch, work, partials));
    Exact<u32> counts(std::vector<u32>{5, 0}), tables(world.tables);
    for (u64 seed : kSeeds) {
        Exact<float> q(queries_of(world, batch)), pool(world.pool), context(unwritten<float>(q.count));
        sim::launch({6, 4}, {32}, 0, seed, [&] {
            vl_attention_f32(q, pool, tables, queries, counts, context, 4, 2, head_dim, world.layers, world.layer, world.scale, window);
        });
        expect_close(context.read(), expected(world, batch), 1e-5, "attention in f32");
    }
}

int main() {
    decodes<Bf16, 128>(4, 1, 0, {1, 16, 17, 64, 65, 256, 257, 700});
    decodes<Bf16, 64>(8, 1, 0, {300, 63, 1030});
    decodes<F16, 64>(2, 2, 100, {90, 101, 355, 600});
    decodes<Bf16, 32>(14, 2, 0, {270, 5});
    decodes<Bf16, 16>(4, 2, 0, {33, 260});
    decodes<F16, 96>(3, 1, 300, {290, 900});
    prefills<Bf16, 128>(4, 1, 0, 230, 300);
    prefills<Bf16, 64>(8, 1, 0, 0, 40);
    prefills<Bf16, 64>(1, 1, 70, 10, 200);
    prefills<F16, 32>(6, 2, 0, 500, 530);
    prefills<Bf16, 16>(4, 2, 20, 0, 50);
    prefills<F16, 96>(3, 1, 0, 60, 110);
    plain(64, 0);
    plain(24, 17);
    std::puts("attention: ok");
}
