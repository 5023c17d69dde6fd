// out = x / sqrt(mean(x^2) + epsilon) * weight for given rows of the residual. The addition that comes before a norm is made by the
// projection that ends the layer's half, so this reads x once from memory (its second look hits the cache).
#include "norm.h"

template <typename T>
VL_DEVICE void rms_norm(const float* x, const float* weight, const u32* rows, T* out, u32 count, u32 hidden, float epsilon) {
    VL_SHARED(float, scratch, kNormThreads / kWarp);
    grid_wait();
    grid_release();
    u32 index = blockIdx.x;
    if (index >= count) return;
    u32 row = rows == nullptr ? index : rows[index];
    const float* from = x + static_cast<u64>(row) * hidden;
    float scale = norm_scale(from, hidden, epsilon, scratch);
    T* to = out + static_cast<u64>(index) * hidden;
    for (u32 start = threadIdx.x * 4; start < hidden; start += kNormThreads * 4) {
        Words values = *reinterpret_cast<const Words*>(from + start);
        Words weights = *reinterpret_cast<const Words*>(weight + start);
        T* into = to + start;
        narrow(normed(float_of(values.x), scale, float_of(weights.x)), into[0]);
        narrow(normed(float_of(values.y), scale, float_of(weights.y)), into[1]);
        narrow(normed(float_of(values.z), scale, float_of(weights.z)), into[2]);
        narrow(normed(float_of(values.w), scale, float_of(weights.w)), into[3]);
    }
}

#define MAKE(name, T)                                                                                                          \
    VL_KERNEL(256, 1) void vl_rms_norm_##name(const float* x, const float* weight, const u32* rows, T* out, u32 count,       \
                                              u32 hidden, float epsilon) {                                                  \
        rms_norm(x, weight, rows, out, count, hidden, epsilon);                                                             \
    }
VL_TYPES(MAKE)
