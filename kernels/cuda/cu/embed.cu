// x = table[tokens]: the residual stream begins, in f32.
#include "device.h"

template <typename T>
VL_DEVICE void embed(const T* table, const u32* tokens, float* x, u32 count, u32 hidden) {
    grid_wait();
    grid_release();
    u32 token = blockIdx.x;
    if (token >= count) return;
    const T* row = table + static_cast<u64>(tokens[token]) * hidden;
    float* out = x + static_cast<u64>(token) * hidden;
    // 16 bytes a load; `hidden` is a multiple of what they hold.
    constexpr u32 kEach = 16 / sizeof(T);
    for (u32 start = threadIdx.x * kEach; start < hidden; start += blockDim.x * kEach) {
        float elements[kEach];
        unpack(*reinterpret_cast<const Words*>(row + start), elements, T{});
        VL_UNROLL
        for (u32 element = 0; element < kEach; ++element) out[start + element] = elements[element];
    }
}

#define MAKE(name, T)                                                                                                          \
    VL_KERNEL(128, 1) void vl_embed_##name(const T* table, const u32* tokens, float* x, u32 count, u32 hidden) {             \
        embed(table, tokens, x, count, hidden);                                                                             \
    }
VL_TYPES(MAKE)
