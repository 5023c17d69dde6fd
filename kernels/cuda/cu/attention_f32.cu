// Attention in f32, for checkpoints stored so: a warp takes one query head of one token. Keys are taken 32 at a time, one a lane; then each
// lane adds up its elements of the context. Positions are absolute, so a query's bits do not depend on its neighbours.
#include "attention.h"

/// Elements of the largest head, over the lanes of a warp.
constexpr u32 kMostOwn = 256 / kWarp;

VL_KERNEL(32, 1) void vl_attention_f32(const float* q, const float* pool, const u32* tables, const DecodeQuery* queries, const u32* counts,
                                       float* context, u32 query_heads, u32 kv_heads, u32 head_dim, u32 layers, u32 layer, float scale,
                                       u32 window) {
    grid_wait();
    grid_release();
    if (blockIdx.x >= counts[0]) return;
    DecodeQuery query = queries[blockIdx.x];
    u32 head = blockIdx.y, lane = threadIdx.x;
    u32 kv_head = head / (query_heads / kv_heads);
    KvShape shape{kv_heads, layers, head_dim};
    const u32* table = tables + query.table;
    u64 place = (static_cast<u64>(query.token) * query_heads + head) * head_dim;
    u32 first = first_visible(query.position, window);
    float max = minus_infinity(), sum = 0.0f;
    float out[kMostOwn] = {};
    for (u32 start = first / kWarp * kWarp; start <= query.position; start += kWarp) {
        u32 key = start + lane;
        float score = minus_infinity();
        if (key >= first && key <= query.position) {
            const float* row = pool + shape.tile(table[key / kBlockTokens], kv_head, layer, false) + key % kBlockTokens * head_dim;
            float dot = 0.0f;
            for (u32 element = 0; element < head_dim; ++element) dot = __fmaf_rn(q[place + element], row[element], dot);
            score = __fmul_rn(dot, scale * kLog2E);
        }
        float largest = score;
        VL_UNROLL
        for (u32 distance = kWarp / 2; distance > 0; distance /= 2) largest = maximum(largest, shuffle_xor(largest, distance));
        largest = maximum(largest, max);
        float base = base_of(largest);
        float keep = power_of_two(__fsub_rn(max, base));
        max = largest;
        float share = power_of_two(__fsub_rn(score, base));
        sum = __fadd_rn(__fmul_rn(sum, keep), warp_sum(share));
        VL_UNROLL
        for (u32 own = 0; own < kMostOwn; ++own) out[own] = __fmul_rn(out[own], keep);
        for (u32 index = 0; index < kWarp; ++index) {
            float weight = shuffle(share, index);
            u32 at = start + index;
            if (at < first || at > query.position) continue;
            const float* row = pool + shape.tile(table[at / kBlockTokens], kv_head, layer, true) + at % kBlockTokens * head_dim;
            VL_UNROLL
            for (u32 own = 0; own < kMostOwn; ++own) {
                u32 element = lane + own * kWarp;
                if (element < head_dim) out[own] = __fmaf_rn(weight, row[element], out[own]);
            }
        }
    }
    float share = share_of(sum);
    VL_UNROLL
    for (u32 own = 0; own < kMostOwn; ++own) {
        u32 element = lane + own * kWarp;
        if (element < head_dim) context[place + element] = __fmul_rn(out[own], share);
    }
}
