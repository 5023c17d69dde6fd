// Projections of up to 16 tokens: weights are read once, and nothing else counts. At 4.3 TB/s over 132 processors each must have about
// 26 KB under way to cover 0.8 us of latency. Here a warp has 4 KiB to 8 KiB of weights in registers under way and a processor 16 warps
// or more, so 64 KiB at least; weights meet no shared memory and no barrier until the end. A block makes 16 or 32 outputs,
// its warp i the part p_i. Weights of the first steps are asked for before the kernel in front is done. Activations come from the
// caches: M/16 or M/32 of the weights' bytes.
#include "linear.h"

/// Steps of 32 k's that are loaded together, ahead of those being multiplied.
template <u32 kRowTiles, u32 kTokenTiles>
struct Ahead {
    static constexpr u32 kSteps = 4 / kRowTiles;
    Words weight[kSteps][kRowTiles][2];
    Words x[kSteps][kTokenTiles];
};

/// Where a thread's operands lie.
template <typename T, u32 kRowTiles, u32 kTokenTiles>
struct SkinnySource {
    const T* weight[kRowTiles][2];
    const T* x[kTokenTiles];
    bool has_token[kTokenTiles];
    u32 end;

    using Loaded = Ahead<kRowTiles, kTokenTiles>;

    VL_DEVICE void load_weights(Loaded& into, u32 first_k) const {
        VL_UNROLL
        for (u32 step = 0; step < Loaded::kSteps; ++step) {
            u32 k = first_k + step * kStep;
            VL_UNROLL
            for (u32 tile = 0; tile < kRowTiles; ++tile) {
                VL_UNROLL
                for (u32 half = 0; half < 2; ++half) {
                    into.weight[step][tile][half] = k < end ? load_once(weight[tile][half] + k) : Words{0, 0, 0, 0};
                }
            }
        }
    }

    VL_DEVICE void load_x(Loaded& into, u32 first_k) const {
        VL_UNROLL
        for (u32 step = 0; step < Loaded::kSteps; ++step) {
            u32 k = first_k + step * kStep;
            VL_UNROLL
            for (u32 tile = 0; tile < kTokenTiles; ++tile) {
                bool valid = k < end && has_token[tile];
                into.x[step][tile] = valid ? *reinterpret_cast<const Words*>(x[tile] + k) : Words{0, 0, 0, 0};
            }
        }
    }
};

template <typename T, Ending kEnding, u32 kRowTiles, u32 kTokenTiles>
VL_DEVICE void linear_skinny(const Linear<T>& linear) {
    using Source = SkinnySource<T, kRowTiles, kTokenTiles>;
    using Loaded = typename Source::Loaded;
    constexpr u32 kRows = 16 * kRowTiles, kColumns = 8 * kTokenTiles;
    VL_SHARED(float, parts, kParts * kRows * kColumns);
    u32 part = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
    u32 group = lane / 4, quarter = lane % 4;
    u32 first_row = blockIdx.x * kRows;
    u32 length = part_length(linear.inputs);
    u32 k = part * length + quarter * 8;
    Source source;
    source.end = smaller(part * length + length, linear.inputs);
    VL_UNROLL
    for (u32 tile = 0; tile < kRowTiles; ++tile) {
        VL_UNROLL
        for (u32 half = 0; half < 2; ++half) {
            // Rows beyond the last read the last one, and are thrown away.
            u32 row = smaller(first_row + tile * 16 + half * 8 + group, linear.outputs - 1);
            source.weight[tile][half] = linear.weight + static_cast<u64>(row) * linear.inputs;
        }
    }
    VL_UNROLL
    for (u32 tile = 0; tile < kTokenTiles; ++tile) {
        u32 token = tile * 8 + group;
        source.has_token[tile] = token < linear.tokens;
        source.x[tile] = linear.x + static_cast<u64>(token) * linear.inputs;
    }
    Loaded now, next;
    source.load_weights(now, k);
    grid_wait();
    grid_release();
    source.load_x(now, k);
    float sums[kRowTiles][kTokenTiles][4] = {};
    // The same number of rounds in every lane of the warp.
    u32 rounds = part * length < source.end ? divide_up(source.end - part * length, kStep * Loaded::kSteps) : 0;
    for (u32 round = 0; round < rounds; ++round) {
        k += kStep * Loaded::kSteps;
        source.load_weights(next, k);
        source.load_x(next, k);
        VL_UNROLL
        for (u32 step = 0; step < Loaded::kSteps; ++step) {
            VL_UNROLL
            for (u32 row = 0; row < kRowTiles; ++row) {
                VL_UNROLL
                for (u32 token = 0; token < kTokenTiles; ++token) {
                    multiply_step<T>(sums[row][token], now.weight[step][row][0], now.weight[step][row][1], now.x[step][token]);
                }
            }
        }
        now = next;
    }
    store_part<kRowTiles, kTokenTiles>(parts, part, lane, sums);
    __syncthreads();
    finish_skinny<T, kEnding, kRowTiles, kTokenTiles>(linear, parts, first_row);
}

#define MAKE_ONE(ending, kEnding, name, T, suffix, row_tiles, token_tiles)                                                      \
    VL_KERNEL(256, 2) void vl_linear_##ending##_##name##_##suffix(const T* weight, const T* x, const float* bias, void* out,  \
                                                                  u32 tokens, u32 inputs, u32 outputs) {                      \
        linear_skinny<T, kEnding, row_tiles, token_tiles>(Linear<T>{weight, x, bias, out, tokens, inputs, outputs});          \
    }
#define MAKE_ENDING(ending, kEnding, name, T)        \
    MAKE_ONE(ending, kEnding, name, T, m8, 1, 1)    \
    MAKE_ONE(ending, kEnding, name, T, m16, 2, 2)
#define MAKE(name, T) VL_LINEAR_ENDINGS(MAKE_ENDING, name, T)
VL_HALVES(MAKE)
