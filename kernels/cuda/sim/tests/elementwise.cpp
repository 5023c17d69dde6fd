// Embedding, norm, pooling, rotation and KV append against plain loops in f64.
#include "check.h"

#include "../../cu/embed.cu"
#undef MAKE
#include "../../cu/rms_norm.cu"
#undef MAKE
#include "../../cu/pool.cu"
#undef MAKE
#include "../../cu/rotary.cu"

template <typename T, typename K>
void embeds(K kernel, u32 hidden) {
    u32 vocabulary = 50, count = 7;
    Exact<T> table(normals<T>(vocabulary * hidden));
    std::vector<u32> ids(count);
    for (u32& id : ids) id = below(vocabulary);
    ids[0] = vocabulary - 1;
    Exact<u32> tokens(ids);
    Exact<float> x(unwritten<float>(count * hidden));
    sim::launch({count}, {128}, 0, 1, [&] { kernel(table, tokens, x, count, hidden); });
    for (u32 row = 0; row < count; ++row) {
        for (u32 element = 0; element < hidden; ++element) {
            if (x[row * hidden + element] != widen(table[ids[row] * hidden + element])) wrong("an embedding");
        }
    }
}

std::vector<double> norm_of(const float* row, const float* weight, u32 hidden, float epsilon) {
    double sum = 0;
    for (u32 element = 0; element < hidden; ++element) sum += static_cast<double>(row[element]) * row[element];
    double scale = 1 / std::sqrt(sum / hidden + epsilon);
    std::vector<double> out(hidden);
    for (u32 element = 0; element < hidden; ++element) out[element] = row[element] * scale * weight[element];
    return out;
}

template <typename T, typename K>
void norms(K kernel, u32 hidden) {
    u32 rows = 5;
    Exact<float> x(normals<float>(rows * hidden, 3));
    Exact<float> weight(normals<float>(hidden));
    std::vector<u32> picked = {4, 0, 2, 4};
    Exact<u32> index(picked);
    for (bool gathers : {false, true}) {
        u32 count = gathers ? 4 : rows;
        std::vector<double> expected;
        for (u32 row = 0; row < count; ++row) {
            auto one = norm_of(x + (gathers ? picked[row] : row) * hidden, weight, hidden, 1e-5f);
            expected.insert(expected.end(), one.begin(), one.end());
        }
        for (u64 seed : kSeeds) {
            Exact<T> out(unwritten<T>(count * hidden));
            sim::launch({count}, {256}, 0, seed,
                        [&] { kernel(x, weight, gathers ? static_cast<u32*>(index) : nullptr, out, count, hidden, 1e-5f); });
            expect_close(out.read(), expected, sizeof(T) == 4 ? 1e-6 : bound_of<T>(), "a norm");
        }
    }
}

void pools() {
    u32 hidden = 264, tokens = 9;
    Exact<float> x(normals<float>(tokens * hidden, 2));
    Exact<float> weight(normals<float>(hidden));
    std::vector<PoolItem> items = {{0, 3}, {3, 6}};
    Exact<PoolItem> asked(items);
    std::vector<double> start(2 * hidden), expected;
    for (double& value : start) value = normal();
    expected = start;
    for (u32 pool = 0; pool < 2; ++pool) {
        for (u32 token = items[pool].first_token; token < items[pool].first_token + items[pool].tokens; ++token) {
            auto one = norm_of(x + token * hidden, weight, hidden, 1e-6f);
            for (u32 element = 0; element < hidden; ++element) expected[pool * hidden + element] += one[element];
        }
    }
    for (u64 seed : kSeeds) {
        Exact<double> sums(start);
        sim::launch({2}, {256}, 0, seed, [&] { vl_pool(x, weight, asked, sums, 2, hidden, 1e-6f); });
        std::vector<float> found;
        for (double value : sums.read()) found.push_back(static_cast<float>(value));
        expect_close(found, expected, 1e-6, "a sum of states");
    }
}

template <typename T, typename K>
void rotates(K kernel, u32 head_dim, u32 query_heads, u32 kv_heads, bool has_norm) {
    u32 tokens = 6, layers = 3, layer = 1, blocks = 5;
    u32 heads = query_heads + 2 * kv_heads;
    Exact<float> qkv(normals<float>(tokens * heads * head_dim));
    std::vector<float> table(head_dim / 2);
    for (u32 pair = 0; pair < head_dim / 2; ++pair) table[pair] = std::pow(10000.0f, -2.0f * pair / head_dim);
    Exact<float> frequencies(table);
    Exact<float> query_norm(normals<float>(head_dim)), key_norm(normals<float>(head_dim));
    // Both ends of a page, a far position, and padding.
    std::vector<u32> at = {0, 15, 16, 131071, 33, 7}, in = {4, 4, 0, 2, 3, kNone};
    Exact<u32> positions(at), token_block(in);
    size_t pool_size = static_cast<size_t>(blocks) * kv_heads * layers * 2 * 16 * head_dim;
    for (u64 seed : kSeeds) {
        Exact<T> q(unwritten<T>(tokens * query_heads * head_dim));
        Exact<T> pool(unwritten<T>(pool_size));
        sim::launch({tokens, divide_up(heads, 4)}, {128}, 0, seed, [&] {
            kernel(qkv, q, pool, frequencies, has_norm ? static_cast<float*>(query_norm) : nullptr,
                   has_norm ? static_cast<float*>(key_norm) : nullptr, positions, token_block, tokens, query_heads, kv_heads,
                   head_dim, layers, layer, 1e-6f, 1e-5f);
        });
        std::vector<double> expected;
        std::vector<T> found;
        std::vector<bool> is_written(pool_size);
        for (u32 token = 0; token < tokens; ++token) {
            for (u32 head = 0; head < heads; ++head) {
                bool is_query = head < query_heads, is_value = head >= query_heads + kv_heads;
                const float* from = qkv + (token * heads + head) * head_dim;
                std::vector<double> row(from, from + head_dim);
                if (!is_value) {
                    if (has_norm) row = norm_of(from, is_query ? query_norm : key_norm, head_dim, is_query ? 1e-6f : 1e-5f);
                    for (u32 pair = 0; pair < head_dim / 2; ++pair) {
                        double angle = static_cast<float>(at[token]) * table[pair];
                        double first = row[pair], second = row[pair + head_dim / 2];
                        row[pair] = first * std::cos(angle) - second * std::sin(angle);
                        row[pair + head_dim / 2] = second * std::cos(angle) + first * std::sin(angle);
                    }
                }
                if (!is_query && in[token] == kNone) continue;
                size_t start = (token * query_heads + head) * head_dim;
                if (!is_query) {
                    u32 kv_head = (head - query_heads) % kv_heads;
                    start = (((in[token] * kv_heads + kv_head) * layers + layer) * 2 + is_value) * 16 * head_dim;
                    start += at[token] % 16 * head_dim;
                }
                for (u32 element = 0; element < head_dim; ++element) {
                    expected.push_back(row[element]);
                    found.push_back(is_query ? q[start + element] : pool[start + element]);
                    if (!is_query) is_written[start + element] = true;
                }
            }
        }
        expect_close(found, expected, sizeof(T) == 4 ? 1e-6 : bound_of<T>(), "a rotation");
        for (size_t element = 0; element < pool_size; ++element) {
            if (!is_written[element] && widen(pool[element]) == widen(pool[element])) wrong("a write beside the slots");
        }
    }
}

int main() {
    for (u32 hidden : {64u, 200u, 1032u}) {
        embeds<Bf16>(vl_embed_bf16, hidden);
        embeds<F16>(vl_embed_f16, hidden);
        embeds<float>(vl_embed_f32, hidden);
        norms<Bf16>(vl_rms_norm_bf16, hidden);
        norms<F16>(vl_rms_norm_f16, hidden);
        norms<float>(vl_rms_norm_f32, hidden);
    }
    pools();
    for (u32 head_dim : {16u, 64u, 96u, 128u, 256u}) {
        rotates<Bf16>(vl_rotary_append_bf16, head_dim, 8, 2, false);
        rotates<F16>(vl_rotary_append_f16, head_dim, 3, 3, true);
        rotates<float>(vl_rotary_append_f32, head_dim, 4, 1, true);
    }
    std::puts("elementwise: ok");
}
