// Projections of up to 16 tokens: weights are read once, and nothing else counts. At 4.3 TB/s over 132 processors each must have about
// 26 KB under way to cover 0.8 us of latency. Here a warp has 8 KiB of weights under way in registers and a processor 16 warps: 128 KiB;
// weights meet no shared memory and no barrier until the end. A block makes 16 or 32 outputs, its warp i the part p_i. Weights of the first
// steps are asked for before the kernel in front is done. Activations come from the caches: M/16 or M/32 of the weights' bytes.
#include "linear.h"

/// Where a thread's operands lie: pointers to its 8 k's of the step that is next to be loaded.
template <typename T, u32 kRowTiles, u32 kTokenTiles>
struct SkinnySource {
    /// Steps of 32 k's under way.
    static constexpr u32 kDepth = kRowTiles == 1 ? 8 : 3;

    const T* weight[kRowTiles][2];
    const T* x[kTokenTiles];
    bool has_token[kTokenTiles];

    struct Step {
        Words weight[kRowTiles][2];
        Words x[kTokenTiles];
    };

    /// Loads the step that is `ahead` steps further than the pointers, zeros where it is not `valid`.
    VL_DEVICE void load_weights(Step& into, u32 ahead, bool valid) const {
        VL_UNROLL
        for (u32 tile = 0; tile < kRowTiles; ++tile) {
            VL_UNROLL
            for (u32 half = 0; half < 2; ++half) {
                into.weight[tile][half] = valid ? load_once(weight[tile][half] + ahead * kStep) : Words{0, 0, 0, 0};
            }
        }
    }
    VL_DEVICE void load_x(Step& into, u32 ahead, bool valid) const {
        VL_UNROLL
        for (u32 tile = 0; tile < kTokenTiles; ++tile) {
            const Words* from = reinterpret_cast<const Words*>(x[tile] + ahead * kStep);
            into.x[tile] = valid && has_token[tile] ? *from : Words{0, 0, 0, 0};
        }
    }
    VL_DEVICE void advance() {
        VL_UNROLL
        for (u32 tile = 0; tile < kRowTiles; ++tile) {
            weight[tile][0] += kDepth * kStep;
            weight[tile][1] += kDepth * kStep;
        }
        VL_UNROLL
        for (u32 tile = 0; tile < kTokenTiles; ++tile) x[tile] += kDepth * kStep;
    }
};

template <typename T, Ending kEnding, u32 kRowTiles, u32 kTokenTiles>
VL_DEVICE void linear_skinny(const Linear<T>& linear) {
    using Source = SkinnySource<T, kRowTiles, kTokenTiles>;
    constexpr u32 kDepth = Source::kDepth, kRows = 16 * kRowTiles, kColumns = 8 * kTokenTiles;
    VL_SHARED(float, parts, kParts * kRows * kColumns);
    u32 part = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
    u32 group = lane / 4, quarter = lane % 4;
    u32 first_row = blockIdx.x * kRows;
    u32 length = part_length(linear.inputs);
    u32 first_k = part * length + quarter * 8, end = smaller(part * length + length, linear.inputs);
    // The same number of steps in every lane of the warp.
    u32 steps = part * length < end ? divide_up(end - part * length, kStep) : 0;
    Source source;
    VL_UNROLL
    for (u32 tile = 0; tile < kRowTiles; ++tile) {
        VL_UNROLL
        for (u32 half = 0; half < 2; ++half) {
            // Rows beyond the last read the last one, and are thrown away.
            u32 row = smaller(first_row + tile * 16 + half * 8 + group, linear.outputs - 1);
            source.weight[tile][half] = linear.weight + static_cast<u64>(row) * linear.inputs + first_k;
        }
    }
    VL_UNROLL
    for (u32 tile = 0; tile < kTokenTiles; ++tile) {
        u32 token = tile * 8 + group;
        source.has_token[tile] = token < linear.tokens;
        source.x[tile] = linear.x + static_cast<u64>(token) * linear.inputs + first_k;
    }
    typename Source::Step ring[kDepth];
    VL_UNROLL
    for (u32 place = 0; place < kDepth; ++place) source.load_weights(ring[place], place, first_k + place * kStep < end);
    grid_wait_behind_loads(linear.tokens);
    grid_release();
    VL_UNROLL
    for (u32 place = 0; place < kDepth; ++place) source.load_x(ring[place], place, first_k + place * kStep < end);
    float sums[kRowTiles][kTokenTiles][4] = {};
    auto multiply = [&](const typename Source::Step& step) {
        VL_UNROLL
        for (u32 row = 0; row < kRowTiles; ++row) {
            VL_UNROLL
            for (u32 token = 0; token < kTokenTiles; ++token) {
                multiply_step<T>(sums[row][token], step.weight[row][0], step.weight[row][1], step.x[token]);
            }
        }
    };
    // Lanes agree on the number of rounds, for they multiply together; what lies beyond the part is loaded as zeros.
    for (u32 step = 0; step < steps; step += kDepth) {
        source.advance();
        u32 next_k = first_k + (step + kDepth) * kStep;
        VL_UNROLL
        for (u32 place = 0; place < kDepth; ++place) {
            multiply(ring[place]);
            bool valid = next_k + place * kStep < end;
            source.load_weights(ring[place], place, valid);
            source.load_x(ring[place], place, valid);
        }
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
