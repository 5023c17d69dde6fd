// Root-mean-square normalisation of a row by one block.
#pragma once

#include "device.h"

constexpr u32 kNormThreads = 256;

/// 1 / sqrt(mean(row^2) + epsilon). The order of additions depends on `hidden` alone. `scratch` holds 8 floats.
VL_DEVICE float norm_scale(const float* row, u32 hidden, float epsilon, float* scratch) {
    float sum = 0.0f;
    for (u32 start = threadIdx.x * 4; start < hidden; start += kNormThreads * 4) {
        Words words = *reinterpret_cast<const Words*>(row + start);
        sum = __fmaf_rn(float_of(words.x), float_of(words.x), sum);
        sum = __fmaf_rn(float_of(words.y), float_of(words.y), sum);
        sum = __fmaf_rn(float_of(words.z), float_of(words.z), sum);
        sum = __fmaf_rn(float_of(words.w), float_of(words.w), sum);
    }
    sum = block_sum<kNormThreads>(sum, scratch);
    float mean = __fdiv_rn(sum, static_cast<float>(hidden));
    return __fdiv_rn(1.0f, __fsqrt_rn(__fadd_rn(mean, epsilon)));
}

VL_DEVICE float normed(float value, float scale, float weight) { return __fmul_rn(__fmul_rn(value, scale), weight); }
