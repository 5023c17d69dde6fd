// Weights stored as codes: how codes become numbers that the matrix instruction takes. Both kinds are exact in bf16 and in f16, so nothing is
// rounded here; scales are applied to f32 sums afterwards.
#pragma once

#include "linear.h"

#ifndef VL_SIM
/// (a & b) | c in one instruction.
VL_DEVICE u32 and_or(u32 a, u32 b, u32 c) {
    u32 result;
    asm("lop3.b32 %0, %1, %2, %3, 0xEA;" : "=r"(result) : "r"(a), "r"(b), "r"(c));
    return result;
}
/// Four bytes of `word`, or zeros where the selector's digit is 4.
VL_DEVICE u32 pick_bytes(u32 word, u32 selector) { return __byte_perm(word, 0, selector); }
/// a * b + c of two neighbours each.
VL_DEVICE u32 multiply_add_pair(u32 a, u32 b, u32 c, Bf16) {
    u32 sum;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(sum) : "r"(a), "r"(b), "r"(c));
    return sum;
}
VL_DEVICE u32 multiply_add_pair(u32 a, u32 b, u32 c, F16) {
    u32 sum;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(sum) : "r"(a), "r"(b), "r"(c));
    return sum;
}
#endif

/// The constants of the types: 1, a number whose last place is worth 1 and the same negative, and what an 8-bit float is short of when its
/// bits are put where the type has its own.
template <typename T>
struct Magic;
template <>
struct Magic<Bf16> {
    static constexpr u32 kOne = 0x3F803F80, kUnit = 0x43004300, kMinusUnit = 0xC300C300, kFp8Scale = 0x7B807B80, kFp8Shift = 4;
};
template <>
struct Magic<F16> {
    static constexpr u32 kOne = 0x3C003C00, kUnit = 0x64006400, kMinusUnit = 0xE400E400, kFp8Scale = 0x5C005C00, kFp8Shift = 1;
};

/// Four bits: `scale * (code - zero)`. Eight codes a word, those of inputs 0, 2, 4, 6, 1, 3, 5, 7 from the lowest bits up, so that one shift
/// brings two neighbours to their halves. The scale's word has the zero in its lowest 8 bits: scales that come from 16-bit numbers lose
/// nothing by that.
struct Int4 {
    static constexpr u32 kCodes = 32;  // of 16 bytes

    VL_DEVICE static float scale_of(u32 word) { return float_of(word & 0xFFFFFF00u); }
    template <typename T>
    VL_DEVICE static u32 zero_of(u32 word) {
        return Magic<T>::kMinusUnit | (word & 15) | (word & 15) << 16;
    }
    /// Codes 4 index.. of 16 bytes as two words of neighbours.
    template <typename T>
    VL_DEVICE static void decode(const Words& codes, u32 index, u32 zero, u32 (&out)[2]) {
        u32 word = index / 2 == 0 ? codes.x : index / 2 == 1 ? codes.y : index / 2 == 2 ? codes.z : codes.w;
        VL_UNROLL
        for (u32 pair = 0; pair < 2; ++pair) {
            u32 shifted = word >> (index % 2 * 8 + pair * 4);
            out[pair] = multiply_add_pair(and_or(shifted, 0x000F000Fu, Magic<T>::kUnit), Magic<T>::kOne, zero, T{});
        }
    }
};

/// Eight bits: sign, four of exponent, three of mantissa, times the scale. In the order of inputs. Codes that are not numbers do not occur.
struct Fp8 {
    static constexpr u32 kCodes = 16;

    VL_DEVICE static float scale_of(u32 word) { return float_of(word); }
    template <typename T>
    VL_DEVICE static u32 zero_of(u32) {
        return 0;
    }
    template <typename T>
    VL_DEVICE static void decode(const Words& codes, u32 index, u32, u32 (&out)[2]) {
        u32 word = index == 0 ? codes.x : index == 1 ? codes.y : index == 2 ? codes.z : codes.w;
        VL_UNROLL
        for (u32 pair = 0; pair < 2; ++pair) {
            // Each byte to the top of its half; then exponent and mantissa down to where the type has them.
            u32 high = pick_bytes(word, pair == 0 ? 0x1404 : 0x3424);
            u32 moved = high >> Magic<T>::kFp8Shift & 0x7F007F00u >> Magic<T>::kFp8Shift;
            u32 placed = and_or(high, 0x80008000u, moved);
            out[pair] = multiply_add_pair(placed, Magic<T>::kFp8Scale, 0x80008000u, T{});
        }
    }
};

/// A round: the inputs of which four threads hold 16 bytes of codes each. Thread t holds inputs `t kCodes..`, and the j-th matrix
/// instruction takes elements `4 j..4 j + 3` of each thread. Every round's sums are scaled and added to the part's, so a group of inputs
/// with one scale is a multiple of a round.
template <typename Code>
constexpr u32 kRound = 4 * Code::kCodes;

/// Inputs of one part of a quantised projection.
template <typename Code>
VL_DEVICE constexpr u32 quantised_part_length(u32 inputs) {
    return divide_up(inputs, kParts * kRound<Code>) * kRound<Code>;
}

/// sums += codes · x of one round, for rows g and g + 8 of each row tile. `codes_at(tile, half)`, `scale_at(tile, half)` and `x_at(token tile,
/// piece)` give the thread's own 16 bytes and words. Codes become numbers once for all tokens.
template <typename T, typename Code, u32 kRowTiles, u32 kTokenTiles, typename CodesAt, typename ScaleAt, typename XAt>
VL_DEVICE void multiply_round(float (&totals)[kRowTiles][kTokenTiles][4], const CodesAt& codes_at, const ScaleAt& scale_at,
                              const XAt& x_at) {
    float sums[kRowTiles][kTokenTiles][4] = {};
    VL_UNROLL
    for (u32 piece = 0; piece < Code::kCodes / 8; ++piece) {
        Words x[kTokenTiles];
        VL_UNROLL
        for (u32 token = 0; token < kTokenTiles; ++token) x[token] = x_at(token, piece);
        VL_UNROLL
        for (u32 half = 0; half < 2; ++half) {
            VL_UNROLL
            for (u32 row = 0; row < kRowTiles; ++row) {
                u32 low[2], high[2];
                Code::template decode<T>(codes_at(row, 0), 2 * piece + half, Code::template zero_of<T>(scale_at(row, 0)), low);
                Code::template decode<T>(codes_at(row, 1), 2 * piece + half, Code::template zero_of<T>(scale_at(row, 1)), high);
                VL_UNROLL
                for (u32 token = 0; token < kTokenTiles; ++token) {
                    u32 first = half == 0 ? x[token].x : x[token].z, second = half == 0 ? x[token].y : x[token].w;
                    multiply_add(sums[row][token], low[0], high[0], low[1], high[1], first, second, T{});
                }
            }
        }
    }
    VL_UNROLL
    for (u32 row = 0; row < kRowTiles; ++row) {
        VL_UNROLL
        for (u32 token = 0; token < kTokenTiles; ++token) {
            VL_UNROLL
            for (u32 element = 0; element < 4; ++element) {
                float scale = Code::scale_of(scale_at(row, element / 2));
                totals[row][token][element] = __fmaf_rn(sums[row][token][element], scale, totals[row][token][element]);
            }
        }
    }
}

/// A quantised projection's arguments beside those of all.
template <typename T>
struct Quantised {
    Linear<T> linear;   // without its weight
    const u8* codes;    // [outputs][inputs / 2 or inputs]
    const u32* scales;  // [inputs / group][outputs]
    u32 group;
};
