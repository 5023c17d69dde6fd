// Projections in f32, for checkpoints stored so: any number of tokens, on the plain cores. A block makes 64 outputs of 32 tokens; each
// output is the eight parts of K added in their order, each part one chain.
#include "linear.h"

constexpr u32 kThreads = 256;
constexpr u32 kRows = 64;
constexpr u32 kTokens = 32;
/// A row in shared memory is a word longer, so that threads of one column meet different banks.
constexpr u32 kRow = kStep + 1;

template <Ending kEnding>
VL_DEVICE void linear_f32(const Linear<float>& linear) {
    VL_SHARED(float, weight, kRows * kRow);
    VL_SHARED(float, x, kTokens * kRow);
    grid_wait();
    grid_release();
    u32 first_row = blockIdx.y * kRows, first_token = blockIdx.x * kTokens;
    // A thread makes outputs `own` (and, of gate and up, `own` + 8) of four tokens; threads of a warp lie along the outputs.
    u32 lane_row = threadIdx.x % 32, own_row = lane_row / 8 * 16 + lane_row % 8;
    u32 own_token = threadIdx.x / 32 * 4;
    u32 length = part_length(linear.inputs);
    float totals[2][4] = {};
    for (u32 part = 0; part < kParts; ++part) {
        float sums[2][4] = {};
        u32 end = smaller((part + 1) * length, linear.inputs);
        for (u32 start = part * length; start < end; start += kStep) {
            for (u32 index = threadIdx.x; index < (kRows + kTokens) * kStep; index += kThreads) {
                u32 row = index / kStep, k = index % kStep;
                bool is_weight = row < kRows;
                u32 at = is_weight ? first_row + row : first_token + row - kRows;
                bool valid = start + k < end && at < (is_weight ? linear.outputs : linear.tokens);
                const float* from = is_weight ? linear.weight : linear.x;
                float value = valid ? from[static_cast<u64>(at) * linear.inputs + start + k] : 0.0f;
                (is_weight ? weight[row * kRow + k] : x[(row - kRows) * kRow + k]) = value;
            }
            __syncthreads();
            for (u32 k = 0; k < kStep; ++k) {
                float low = weight[own_row * kRow + k], high = weight[(own_row + 8) * kRow + k];
                VL_UNROLL
                for (u32 token = 0; token < 4; ++token) {
                    float value = x[(own_token + token) * kRow + k];
                    sums[0][token] = __fmaf_rn(low, value, sums[0][token]);
                    sums[1][token] = __fmaf_rn(high, value, sums[1][token]);
                }
            }
            // All have read this step's elements.
            __syncthreads();
        }
        VL_UNROLL
        for (u32 token = 0; token < 4; ++token) {
            totals[0][token] = __fadd_rn(totals[0][token], sums[0][token]);
            totals[1][token] = __fadd_rn(totals[1][token], sums[1][token]);
        }
    }
    u32 row = first_row + own_row;
    VL_UNROLL
    for (u32 index = 0; index < 4; ++index) {
        u32 token = first_token + own_token + index;
        if (token >= linear.tokens) continue;
        if constexpr (kEnding == Ending::kSilu) {
            if (row < linear.outputs) linear.finish_silu(totals[0][index], totals[1][index], token, row);
        } else {
            if (row < linear.outputs) linear.template finish<kEnding>(totals[0][index], token, row);
            if (row + 8 < linear.outputs) linear.template finish<kEnding>(totals[1][index], token, row + 8);
        }
    }
}

#define MAKE(ending, kEnding, name, T)                                                                                       \
    VL_KERNEL(256, 1) void vl_linear_##ending##_##name(const T* weight, const T* x, const float* bias, void* out, u32 tokens, \
                                                       u32 inputs, u32 outputs) {                                            \
        linear_f32<kEnding>(Linear<T>{weight, x, bias, out, tokens, inputs, outputs});                                       \
    }
VL_LINEAR_ENDINGS(MAKE, f32, float)
