// What the projections share: how K is divided, and how an output ends.
//
// Every output is ((p0 + p1) + p2) + ... + p7, where p_i is one chain of matrix instructions over the i-th eighth of K, in steps of 32 in
// order. The eighths depend on K alone. So an output's bits are the same in every kernel, at any number of tokens and in any place.
//
// Within 32 k's, thread t of four holds k 8t..8t+7, 16 bytes that one load brings. The matrix instruction wants other k's in each
// thread, but the order of k's is free as long as weights and activations agree: so the first instruction takes elements 0..3 of each
// thread and the second 4..7. Nothing is shuffled, and weights may go from memory to registers.
#pragma once

#include "device.h"

constexpr u32 kParts = 8;
constexpr u32 kStep = 32;

enum class Ending {
    kStore,  // out f32 = sum + bias
    kAdd,    // out f32 += sum + bias
    kSilu,   // out T = silu(gate) * up, gate and up in turn by eights of outputs
};

/// K's of one part: a multiple of 32, at least an eighth.
VL_DEVICE constexpr u32 part_length(u32 inputs) { return divide_up(inputs, kParts * kStep) * kStep; }

VL_DEVICE float silu_product(float gate, float up) {
    return __fmul_rn(__fdiv_rn(gate, __fadd_rn(1.0f, power_of_two(__fmul_rn(gate, -1.44269504f)))), up);
}

/// A projection's arguments.
template <typename T>
struct Linear {
    const T* weight;    // [outputs][inputs]
    const T* x;         // [tokens][inputs]
    const float* bias;  // [outputs] or null
    void* out;          // [tokens][outputs] of f32, or [tokens][outputs / 2] of T
    u32 tokens, inputs, outputs;

    VL_DEVICE float biased(float sum, u32 output) const { return bias == nullptr ? sum : __fadd_rn(sum, bias[output]); }

    template <Ending kEnding>
    VL_DEVICE void finish(float sum, u32 token, u32 output) const {
        float* to = static_cast<float*>(out) + static_cast<u64>(token) * outputs + output;
        float value = biased(sum, output);
        *to = kEnding == Ending::kAdd ? __fadd_rn(*to, value) : value;
    }

    /// `gate` is output `output`, `up` the one 8 further.
    VL_DEVICE void finish_silu(float gate, float up, u32 token, u32 output) const {
        u32 inner = output / 16 * 8 + output % 8;
        T* to = static_cast<T*>(out) + static_cast<u64>(token) * (outputs / 2) + inner;
        narrow(silu_product(biased(gate, output), biased(up, output + 8)), *to);
    }
};

/// Adds the products of the first or the second 16 of 32 k's: `low` and `high` are this thread's k's of weight rows g and g + 8, `x` those of
/// token g.
template <typename T>
VL_DEVICE void multiply_half(float (&sums)[4], const Words& low, const Words& high, const Words& x, u32 half) {
    if (half == 0) {
        multiply_add(sums, low.x, high.x, low.y, high.y, x.x, x.y, T{});
    } else {
        multiply_add(sums, low.z, high.z, low.w, high.w, x.z, x.w, T{});
    }
}
template <typename T>
VL_DEVICE void multiply_step(float (&sums)[4], const Words& low, const Words& high, const Words& x) {
    multiply_half<T>(sums, low, high, x, 0);
    multiply_half<T>(sums, low, high, x, 1);
}

/// How the parts of a block of few tokens lie in shared memory: `[part][token][row]`. A lane's sums are the matrix instruction's.
template <u32 kRowTiles, u32 kTokenTiles>
VL_DEVICE void store_part(float* parts, u32 part, u32 lane, const float (&sums)[kRowTiles][kTokenTiles][4]) {
    constexpr u32 kRows = 16 * kRowTiles, kColumns = 8 * kTokenTiles;
    VL_UNROLL
    for (u32 row = 0; row < kRowTiles; ++row) {
        VL_UNROLL
        for (u32 token = 0; token < kTokenTiles; ++token) {
            VL_UNROLL
            for (u32 element = 0; element < 4; ++element) {
                u32 at = token * 8 + lane % 4 * 2 + element % 2;
                parts[(part * kColumns + at) * kRows + row * 16 + element / 2 * 8 + lane / 4] = sums[row][token][element];
            }
        }
    }
}

/// Adds up the parts that a block of eight warps has stored, and ends its outputs.
template <typename T, Ending kEnding, u32 kRowTiles, u32 kTokenTiles>
VL_DEVICE void finish_skinny(const Linear<T>& linear, const float* parts, u32 first_row) {
    constexpr u32 kRows = 16 * kRowTiles, kColumns = 8 * kTokenTiles;
    auto sum_of = [&](u32 token, u32 row) {
        float sum = parts[token * kRows + row];
        VL_UNROLL
        for (u32 index = 1; index < kParts; ++index) sum = __fadd_rn(sum, parts[(index * kColumns + token) * kRows + row]);
        return sum;
    };
    constexpr u32 kEach = kEnding == Ending::kSilu ? kRows / 2 : kRows;
    for (u32 index = threadIdx.x; index < kEach * kColumns; index += kParts * kWarp) {
        u32 token = index / kEach, row = index % kEach;
        if constexpr (kEnding == Ending::kSilu) row = row / 8 * 16 + row % 8;
        if (token >= linear.tokens || first_row + row >= linear.outputs) continue;
        if constexpr (kEnding == Ending::kSilu) {
            linear.finish_silu(sum_of(token, row), sum_of(token, row + 8), token, first_row + row);
        } else {
            linear.template finish<kEnding>(sum_of(token, row), token, first_row + row);
        }
    }
}

#define VL_LINEAR_ENDINGS(make, name, T) make(store, Ending::kStore, name, T) make(add, Ending::kAdd, name, T) make(silu, Ending::kSilu, name, T)
