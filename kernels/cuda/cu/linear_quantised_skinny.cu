// Projections of up to 16 tokens with weights stored as codes: as linear_skinny, with a half or a quarter of its bytes. Turning codes
// into numbers takes 1.5 to 2.5 instructions each; with all else that is near what a processor can issue while 18 bytes a cycle arrive, so
// instructions count here as much as bytes.
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

/// Where a thread's operands lie. Codes and scales are loaded round after round.
template <typename T, typename Code, u32 kTokenTiles>
struct QuantisedSource {
    const Quantised<T>& job;
    u32 end;
    const u8* codes[2];       // of the round that `start` is the beginning of
    const u32* scales[2];     // of the last loaded round's group
    u32 group_end;            // the first input beyond that group
    const T* x[kTokenTiles];  // of the round that `start` is the beginning of

    VL_DEVICE QuantisedSource(const Quantised<T>& job, u32 first_row, u32 start, u32 end) : job(job), end(end) {
        u32 group = threadIdx.x % kWarp / 4, quarter = threadIdx.x % 4, scale_row = start / job.group;
        VL_UNROLL
        for (u32 half = 0; half < 2; ++half) {
            // Rows beyond the last read the last one, and are thrown away.
            u32 row = smaller(first_row + half * 8 + group, job.linear.outputs - 1);
            codes[half] = job.codes + (static_cast<u64>(row) * job.linear.inputs + start) / Code::kCodes * 16 + quarter * 16;
            scales[half] = job.scales + static_cast<u64>(scale_row) * job.linear.outputs + row;
        }
        group_end = (scale_row + 1) * job.group;
        VL_UNROLL
        for (u32 tile = 0; tile < kTokenTiles; ++tile) {
            x[tile] = job.linear.x + static_cast<u64>(tile * 8 + group) * job.linear.inputs + start + quarter * Code::kCodes;
        }
    }
    VL_DEVICE bool has(u32 start) const { return start + threadIdx.x % 4 * Code::kCodes < end; }
    /// Loads the round at input `start`, which is `ahead` rounds further than the pointers.
    VL_DEVICE void load_codes(RoundCodes& into, u32 ahead, u32 start) {
        if (start >= group_end) {
            group_end += job.group;
            scales[0] += job.linear.outputs;
            scales[1] += job.linear.outputs;
        }
        VL_UNROLL
        for (u32 half = 0; half < 2; ++half) {
            into.codes[half] = has(start) ? load_once(codes[half] + ahead * 64) : Words{0, 0, 0, 0};
            into.scales[half] = start < end ? *scales[half] : 0;
        }
    }
    VL_DEVICE void load_x(RoundX<Code, kTokenTiles>& into, u32 ahead, u32 start) const {
        VL_UNROLL
        for (u32 tile = 0; tile < kTokenTiles; ++tile) {
            bool valid = has(start) && tile * 8 + threadIdx.x % kWarp / 4 < job.linear.tokens;
            const Words* from = reinterpret_cast<const Words*>(x[tile] + ahead * kRound<Code>);
            VL_UNROLL
            for (u32 piece = 0; piece < Code::kCodes / 8; ++piece) into.x[tile][piece] = valid ? from[piece] : Words{0, 0, 0, 0};
        }
    }
    VL_DEVICE void advance() {
        codes[0] += 64;
        codes[1] += 64;
        VL_UNROLL
        for (u32 tile = 0; tile < kTokenTiles; ++tile) x[tile] += kRound<Code>;
    }
};

template <typename T, typename Code, Ending kEnding, u32 kTokenTiles>
VL_DEVICE void linear_quantised_skinny(const Quantised<T>& job) {
    constexpr u32 kColumns = 8 * kTokenTiles, kAhead = kDepth<kTokenTiles>;
    VL_SHARED(float, parts, kParts * 16 * kColumns);
    u32 part = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
    u32 length = quantised_part_length<Code>(job.linear.inputs);
    u32 start = part * length;
    QuantisedSource<T, Code, kTokenTiles> source(job, blockIdx.x * 16, start, smaller(start + length, job.linear.inputs));
    RoundCodes ring[kAhead];
    VL_UNROLL
    for (u32 ahead = 0; ahead < kAhead; ++ahead) source.load_codes(ring[ahead], ahead, start + ahead * kRound<Code>);
    grid_wait_behind_loads(job.linear.tokens);
    grid_release();
    RoundX<Code, kTokenTiles> x[2];
    source.load_x(x[0], 0, start);
    float totals[1][kTokenTiles][4] = {};
    while (start < source.end) {
        VL_UNROLL
        for (u32 place = 0; place < kAhead; ++place) {
            if (start >= source.end) break;
            const RoundX<Code, kTokenTiles>& now = x[place % 2];
            source.load_x(x[(place + 1) % 2], 1, start + kRound<Code>);
            multiply_round<T, Code, 1, kTokenTiles>(
                totals, [&](u32, u32 half) { return ring[place].codes[half]; }, [&](u32, u32 half) { return ring[place].scales[half]; },
                [&](u32 token, u32 piece) { return now.x[token][piece]; });
            source.load_codes(ring[place], kAhead, start + kAhead * kRound<Code>);
            source.advance();
            start += kRound<Code>;
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
