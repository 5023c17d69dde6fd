// sums += norm(x) of given tokens, in f64 and in order: what embeddings of texts are made of. Beside the layers it is nothing, so one
// block adds up one text.
#include "norm.h"

struct PoolItem {
    u32 first_token, tokens;
};

VL_KERNEL(256, 1) void vl_pool(const float* x, const float* weight, const PoolItem* items, double* sums, u32 pools, u32 hidden,
                               float epsilon) {
    VL_SHARED(float, scratch, kNormThreads / kWarp);
    grid_wait();
    grid_release();
    if (blockIdx.x >= pools) return;
    PoolItem item = items[blockIdx.x];
    double* into = sums + static_cast<u64>(blockIdx.x) * hidden;
    for (u32 token = item.first_token; token < item.first_token + item.tokens; ++token) {
        const float* row = x + static_cast<u64>(token) * hidden;
        float scale = norm_scale(row, hidden, epsilon, scratch);
        for (u32 element = threadIdx.x; element < hidden; element += kNormThreads) {
            double value = normed(row[element], scale, weight[element]);
            into[element] = __dadd_rn(into[element], value);
        }
        // The next token's sum may use the scratch again.
        __syncthreads();
    }
}
