// Normalises (if asked) and rotates query and key heads, hands queries to attention, and writes keys and values into their KV block.
// A warp takes one head of one token: D floats are read once, 2 D bytes written. Bound by memory; small beside the projections.
#include "kv.h"

/// Elements of the largest head, over the lanes of a warp, two halves each.
constexpr u32 kMostPairs = 256 / 2 / kWarp;

struct Turn {
    float cosine, sine;
};

/// Cosine and sine of an f32 angle of any size. The quarter turns are taken off in f64, where an angle of up to 2^31 keeps 10 digits after
/// the point; the rest, at most pi/4, goes through the usual polynomials. No local memory, and the same bits everywhere.
VL_DEVICE Turn turn(float angle) {
    constexpr double kTwoOverPi = 0.63661977236758134308;
    constexpr double kHalfPi = 1.57079632679489661923;
    /// 1.5 x 2^52: adding it rounds to an integer.
    constexpr double kRounder = 6755399441055744.0;
    double wide = angle;
    double quarters = __dadd_rn(__dadd_rn(__dmul_rn(wide, kTwoOverPi), kRounder), -kRounder);
    float rest = static_cast<float>(__fma_rn(-quarters, kHalfPi, wide));
    u32 quadrant = static_cast<u32>(static_cast<long long>(quarters)) & 3;
    float square = __fmul_rn(rest, rest);
    float sine = -1.9515295891e-4f;
    sine = __fmaf_rn(sine, square, 8.3321608736e-3f);
    sine = __fmaf_rn(sine, square, -1.6666654611e-1f);
    sine = __fmaf_rn(__fmul_rn(sine, square), rest, rest);
    float cosine = 2.443315711809948e-5f;
    cosine = __fmaf_rn(cosine, square, -1.388731625493765e-3f);
    cosine = __fmaf_rn(cosine, square, 4.166664568298827e-2f);
    cosine = __fmaf_rn(__fmul_rn(cosine, square), square, __fmaf_rn(-0.5f, square, 1.0f));
    float first = quadrant & 1 ? sine : cosine;
    float second = quadrant & 1 ? cosine : sine;
    // cos: + - - +, sin: + + - - over the quadrants.
    return {quadrant == 1 || quadrant == 2 ? -first : first, quadrant >= 2 ? -second : second};
}

template <typename T>
VL_DEVICE void rotary_append(const float* qkv, T* q, T* pool, const float* frequencies, const float* query_norm,
                             const float* key_norm, const u32* positions, const u32* token_block, u32 tokens, KvShape shape,
                             u32 query_heads, u32 layer, float query_epsilon, float key_epsilon) {
    grid_wait();
    grid_release();
    u32 token = blockIdx.x;
    u32 heads = query_heads + 2 * shape.kv_heads;
    u32 head = blockIdx.y * (blockDim.x / kWarp) + threadIdx.x / kWarp;
    u32 lane = threadIdx.x % kWarp;
    if (token >= tokens || head >= heads) return;
    u32 pairs = shape.head_dim / 2;
    const float* from = qkv + (static_cast<u64>(token) * heads + head) * shape.head_dim;
    float low[kMostPairs], high[kMostPairs];
    float squares = 0.0f;
    VL_UNROLL
    for (u32 index = 0; index < kMostPairs; ++index) {
        u32 pair = lane + index * kWarp;
        low[index] = pair < pairs ? from[pair] : 0.0f;
        high[index] = pair < pairs ? from[pair + pairs] : 0.0f;
        squares = __fmaf_rn(high[index], high[index], __fmaf_rn(low[index], low[index], squares));
    }
    bool is_query = head < query_heads;
    bool is_value = head >= query_heads + shape.kv_heads;
    u32 position = positions[token];
    const float* norm = is_query ? query_norm : key_norm;
    if (!is_value && norm != nullptr) {
        float mean = __fdiv_rn(warp_sum(squares), static_cast<float>(shape.head_dim));
        float scale = __fdiv_rn(1.0f, __fsqrt_rn(__fadd_rn(mean, is_query ? query_epsilon : key_epsilon)));
        VL_UNROLL
        for (u32 index = 0; index < kMostPairs; ++index) {
            u32 pair = lane + index * kWarp;
            if (pair < pairs) {
                low[index] = __fmul_rn(__fmul_rn(low[index], scale), norm[pair]);
                high[index] = __fmul_rn(__fmul_rn(high[index], scale), norm[pair + pairs]);
            }
        }
    }
    T* to;
    if (is_query) {
        to = q + (static_cast<u64>(token) * query_heads + head) * shape.head_dim;
    } else {
        u32 block = token_block[token];
        // Padding of a graph's bucket has no block and leaves no trace.
        if (block == kNone) return;
        u32 kv_head = (head - query_heads) % shape.kv_heads;
        to = pool + shape.tile(block, kv_head, layer, is_value) + position % kBlockTokens * shape.head_dim;
    }
    VL_UNROLL
    for (u32 index = 0; index < kMostPairs; ++index) {
        u32 pair = lane + index * kWarp;
        if (pair >= pairs) continue;
        float first = low[index], second = high[index];
        if (!is_value) {
            Turn by = turn(__fmul_rn(static_cast<float>(position), frequencies[pair]));
            first = __fsub_rn(__fmul_rn(low[index], by.cosine), __fmul_rn(high[index], by.sine));
            second = __fadd_rn(__fmul_rn(high[index], by.cosine), __fmul_rn(low[index], by.sine));
        }
        narrow(first, to[pair]);
        narrow(second, to[pair + pairs]);
    }
}

#define MAKE(name, T)                                                                                                            \
    VL_KERNEL(128, 1) void vl_rotary_append_##name(                                                                            \
        const float* qkv, T* q, T* pool, const float* frequencies, const float* query_norm, const float* key_norm,            \
        const u32* positions, const u32* token_block, u32 tokens, u32 query_heads, u32 kv_heads, u32 head_dim, u32 layers,     \
        u32 layer, float query_epsilon, float key_epsilon) {                                                                  \
        rotary_append(qkv, q, pool, frequencies, query_norm, key_norm, positions, token_block, tokens,                        \
                      KvShape{kv_heads, layers, head_dim}, query_heads, layer, query_epsilon, key_epsilon);                   \
    }
VL_TYPES(MAKE)
