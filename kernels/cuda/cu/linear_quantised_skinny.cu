// Projections of up to 16 tokens with weights stored as codes: as linear_skinny, with a half or a quarter of its bytes. Turning codes
// into numbers takes 1.5 to 2.5 instructions each, well within what a processor has while 18 bytes a cycle arrive.
#include "quantised.h"

/// Rounds whose codes are under way: 4 KiB a warp, or 2 where activations need the registers.
template <u32 kTokenTiles>
constexpr u32 kDepth = kTokenTiles == 1 ? 4 : 2;

/// A thread's codes and scales of one round.
struct RoundCodes {
    Words codes[2];
    u32 scales[2];
};
template <typename Code, u32 kTokenTiles>
struct RoundX {
    Words x[kTokenTiles][Code::kCodes / 8];
};

template <typename T, typename Code, u32 kTokenTiles>
struct QuantisedSource {
    const Quantised<T>& job;
    u32 first_row, end;

    /// Begins at input `start`, the first of a round.
    VL_DEVICE void load_codes(RoundCodes& into, u32 start) const {
        u32 k = start + threadIdx.x % 4 * Code::kCodes;
        VL_UNROLL
        for (u32 half = 0; half < 2; ++half) {
            // Rows beyond the last read the last one, and are thrown away.
            u32 row = smaller(first_row + half * 8 + threadIdx.x % kWarp / 4, job.linear.outputs - 1);
            u64 at = (static_cast<u64>(row) * job.linear.inputs + k) / Code::kCodes * 16;
            into.codes[half] = k < end ? load_once(job.codes + at) : Words{0, 0, 0, 0};
            u64 scale = static_cast<u64>(start / job.group) * job.linear.outputs + row;
            into.scales[half] = start < end ? job.scales[scale] : 0;
        }
    }
    VL_DEVICE void load_x(RoundX<Code, kTokenTiles>& into, u32 start) const {
        u32 k = start + threadIdx.x % 4 * Code::kCodes;
        VL_UNROLL
        for (u32 tile = 0; tile < kTokenTiles; ++tile) {
            u32 token = tile * 8 + threadIdx.x % kWarp / 4;
            bool valid = k < end && token < job.linear.tokens;
            const T* from = job.linear.x + static_cast<u64>(token) * job.linear.inputs + k;
            VL_UNROLL
            for (u32 piece = 0; piece < Code::kCodes / 8; ++piece) {
                into.x[tile][piece] = valid ? reinterpret_cast<const Words*>(from)[piece] : Words{0, 0, 0, 0};
            }
        }
    }
};

template <typename T, typename Code, Ending kEnding, u32 kTokenTiles>
VL_DEVICE void linear_quantised_skinny(const Quantised<T>& job) {
    constexpr u32 kColumns = 8 * kTokenTiles;
    VL_SHARED(float, parts, kParts * 16 * kColumns);
    u32 part = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
    u32 length = quantised_part_length<Code>(job.linear.inputs);
    u32 start = part * length;
    QuantisedSource<T, Code, kTokenTiles> source{job, blockIdx.x * 16, smaller(start + length, job.linear.inputs)};
    RoundCodes ring[kDepth<kTokenTiles>];
    RoundX<Code, kTokenTiles> now, next;
    VL_UNROLL
    for (u32 ahead = 0; ahead < kDepth<kTokenTiles>; ++ahead) source.load_codes(ring[ahead], start + ahead * kRound<Code>);
    grid_wait();
    grid_release();
    source.load_x(now, start);
    float totals[1][kTokenTiles][4] = {};
    while (start < source.end) {
        VL_UNROLL
        for (u32 place = 0; place < kDepth<kTokenTiles>; ++place) {
            if (start >= source.end) break;
            source.load_x(next, start + kRound<Code>);
            multiply_round<T, Code, 1, kTokenTiles>(
                totals, [&](u32, u32 half) { return ring[place].codes[half]; }, [&](u32, u32 half) { return ring[place].scales[half]; },
                [&](u32 token, u32 piece) { return now.x[token][piece]; });
            source.load_codes(ring[place], start + kDepth<kTokenTiles> * kRound<Code>);
            start += kRound<Code>;
            now = next;
        }
    }
    store_part<1, kTokenTiles>(parts, part, lane, totals);
    __syncthreads();
    finish_skinny<T, kEnding, 1, kTokenTiles>(job.linear, parts, blockIdx.x * 16);
}

#define MAKE_ONE(ending, kEnding, name, T, code, Code, suffix, token_tiles)                                                    \
    VL_KERNEL(256, 2) void vl_linear_##ending##_##name##_##code##_##suffix(                                                   \
        const u8* codes, const u32* scales, u32 group, const T* x, const float* bias, void* out, u32 tokens, u32 inputs,     \
        u32 outputs) {                                                                                                       \
        linear_quantised_skinny<T, Code, kEnding, token_tiles>(                                                              \
            Quantised<T>{Linear<T>{nullptr, x, bias, out, tokens, inputs, outputs}, codes, scales, group});                  \
    }
#define MAKE_ENDING(ending, kEnding, name, T)              \
    MAKE_ONE(ending, kEnding, name, T, int4, Int4, m8, 1)  \
    MAKE_ONE(ending, kEnding, name, T, int4, Int4, m16, 2) \
    MAKE_ONE(ending, kEnding, name, T, fp8, Fp8, m8, 1)    \
    MAKE_ONE(ending, kEnding, name, T, fp8, Fp8, m16, 2)
#define MAKE(name, T) VL_LINEAR_ENDINGS(MAKE_ENDING, name, T)
VL_HALVES(MAKE)
