// Projections of more tokens with weights stored as codes: as linear_tiled, with codes in shared memory. A stage is one round: 64 bytes of
// codes of each row, and the tokens' elements that belong to them.
#include "linear_tile.h"
#include "quantised.h"

constexpr u32 kStages = 4;

template <typename T, typename Code, u32 kTokens>
struct QuantisedTile {
    static constexpr u32 kTokenTiles = kTokens / 16;
    static constexpr u32 kCodePieces = 4;
    static constexpr u32 kXPieces = Code::kCodes / 2;
    static constexpr u32 kStageWords = kTileRows * kCodePieces + kTokens * kXPieces;

    const Quantised<T>& job;
    Words* stages;
    u32 first_row, first_token;
    u32 length;

    VL_DEVICE Words* stage_at(u32 index) const { return stages + index % kStages * kStageWords; }
    /// Where piece `piece` of a token's elements lies: what four threads read together lies side by side, and every second row has its
    /// halves swapped, so that the two rows that are read together fall on different banks.
    VL_DEVICE static u32 x_place(u32 row, u32 piece) {
        u32 quarter = piece / (kXPieces / 4), inside = piece % (kXPieces / 4);
        return row * kXPieces + ((inside * 4 + quarter) ^ ((row & 1) << 2));
    }
    VL_DEVICE void copy_codes(u32 index, u32 start) const {
        VL_UNROLL
        for (u32 round = 0; round < kTileRows * kCodePieces / kTileThreads; ++round) {
            u32 place = round * kTileThreads + threadIdx.x;
            u32 row = first_row + place / kCodePieces, k = start + place % kCodePieces * Code::kCodes;
            bool valid = row < job.linear.outputs && k < job.linear.inputs;
            u64 at = (static_cast<u64>(row) * job.linear.inputs + k) / Code::kCodes * 16;
            copy_async(stage_at(index) + place, valid ? job.codes + at : job.codes, valid);
        }
    }
    VL_DEVICE void copy_x(u32 index, u32 start) const {
        Words* into = stage_at(index) + kTileRows * kCodePieces;
        VL_UNROLL
        for (u32 round = 0; round < divide_up(kTokens * kXPieces, kTileThreads); ++round) {
            u32 number = round * kTileThreads + threadIdx.x;
            u32 row = number / kXPieces, piece = number % kXPieces;
            u32 k = start + piece * 8;
            bool valid = first_token + row < job.linear.tokens && k < job.linear.inputs;
            const T* from = job.linear.x + static_cast<u64>(first_token + row) * job.linear.inputs + k;
            copy_async(into + x_place(row, piece), valid ? from : job.linear.x, valid);
        }
    }
    VL_DEVICE void load_scales(u32 (&into)[kTileRowTiles][2], u32 start) const {
        u32 lane = threadIdx.x % kWarp, warp_row = threadIdx.x / kWarp % 4 * kTileWarpRows;
        VL_UNROLL
        for (u32 tile = 0; tile < kTileRowTiles; ++tile) {
            VL_UNROLL
            for (u32 half = 0; half < 2; ++half) {
                u32 row = smaller(first_row + warp_row + tile * 16 + half * 8 + lane / 4, job.linear.outputs - 1);
                bool valid = start < job.linear.inputs;
                into[tile][half] = valid ? job.scales[static_cast<u64>(start / job.group) * job.linear.outputs + row] : 0;
            }
        }
    }
    VL_DEVICE void multiply(float (&totals)[kTileRowTiles][kTokenTiles][4], const u32 (&scales)[kTileRowTiles][2], u32 index) const {
        const Words* codes = stage_at(index);
        const Words* x = codes + kTileRows * kCodePieces;
        u32 warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
        u32 warp_row = warp % 4 * kTileWarpRows, warp_token = warp / 4 * (kTokens / 2);
        Words own[kTileRowTiles][2];
        VL_UNROLL
        for (u32 tile = 0; tile < kTileRowTiles; ++tile) {
            VL_UNROLL
            for (u32 half = 0; half < 2; ++half) {
                own[tile][half] = codes[(warp_row + tile * 16 + half * 8 + lane / 4) * kCodePieces + lane % 4];
            }
        }
        multiply_round<T, Code, kTileRowTiles, kTokenTiles>(
            totals, [&](u32 tile, u32 half) { return own[tile][half]; }, [&](u32 tile, u32 half) { return scales[tile][half]; },
            [&](u32 token, u32 piece) {
                return x[x_place(warp_token + token * 8 + lane / 4, lane % 4 * (kXPieces / 4) + piece)];
            });
    }
};

template <typename T, typename Code, Ending kEnding, u32 kTokens>
VL_DEVICE void linear_quantised_tiled(const Quantised<T>& job, float* workspace, u32* counters, u32 splits) {
    using Shape = QuantisedTile<T, Code, kTokens>;
    constexpr u32 kTokenTiles = Shape::kTokenTiles;
    VL_SHARED_DYNAMIC(memory);
    u32 length = quantised_part_length<Code>(job.linear.inputs);
    Shape tile{job, reinterpret_cast<Words*>(memory), blockIdx.y * kTileRows, blockIdx.x * kTokens, length};
    u32 parts = kParts / splits, first_part = blockIdx.z * parts;
    u32 rounds = length / kRound<Code>, count = parts * rounds, first = first_part * length;
    VL_UNROLL
    for (u32 index = 0; index < kStages - 1; ++index) {
        if (index < count) tile.copy_codes(index, first + index * kRound<Code>);
    }
    grid_wait_behind_loads(job.linear.tokens);
    grid_release();
    VL_UNROLL
    for (u32 index = 0; index < kStages - 1; ++index) {
        if (index < count) tile.copy_x(index, first + index * kRound<Code>);
        copy_commit();
    }
    u32 number = blockIdx.y * gridDim.x + blockIdx.x;
    float* mine = workspace + static_cast<u64>(number) * kParts * (kTileRows * kTokens) + threadIdx.x;
    float sums[kTileRowTiles][kTokenTiles][4] = {};
    float totals[kTileRowTiles][kTokenTiles][4] = {};
    u32 scales[kTileRowTiles][2], next_scales[kTileRowTiles][2];
    tile.load_scales(scales, first);
    u32 index = 0;
    for (u32 part = first_part; part < first_part + parts; ++part) {
        for (u32 round = 0; round < rounds; ++round, ++index) {
            copy_wait<kStages - 2>();
            // This stage has come for all, and all have read the stage that is now overwritten.
            __syncthreads();
            u32 coming = index + kStages - 1;
            if (coming < count) {
                tile.copy_codes(coming, first + coming * kRound<Code>);
                tile.copy_x(coming, first + coming * kRound<Code>);
            }
            copy_commit();
            tile.load_scales(next_scales, first + (index + 1) * kRound<Code>);
            tile.multiply(sums, scales, index);
            VL_UNROLL
            for (u32 place = 0; place < kTileRowTiles * 2; ++place) scales[place / 2][place % 2] = next_scales[place / 2][place % 2];
        }
        each_sum<kTokenTiles>([&](u32 row, u32 token, u32 element, u32 place) {
            float& sum = sums[row][token][element];
            if (splits == 1) {
                float& total = totals[row][token][element];
                total = __fadd_rn(total, sum);
            } else {
                mine[(part * (kTileRows * kTokens)) + place * kTileThreads] = sum;
            }
            sum = 0.0f;
        });
    }
    if (splits > 1) {
        if (!is_last(counters + number, splits)) return;
        for (u32 part = 0; part < kParts; ++part) {
            each_sum<kTokenTiles>([&](u32 row, u32 token, u32 element, u32 place) {
                float& total = totals[row][token][element];
                total = __fadd_rn(total, load_fresh(mine + part * (kTileRows * kTokens) + place * kTileThreads));
            });
        }
    }
    finish_tile<T, kEnding, kTokens>(job.linear, reinterpret_cast<float*>(memory), totals, tile.first_row, tile.first_token);
}

#define MAKE_ONE(ending, kEnding, name, T, code, Code, tokens_of_tile)                                                         \
    VL_KERNEL(256, 1) void vl_linear_##ending##_##name##_##code##_t##tokens_of_tile(                                          \
        const u8* codes, const u32* scales, u32 group, const T* x, const float* bias, void* out, u32 tokens, u32 inputs,     \
        u32 outputs, float* workspace, u32* counters, u32 splits) {                                                          \
        linear_quantised_tiled<T, Code, kEnding, tokens_of_tile>(                                                            \
            Quantised<T>{Linear<T>{nullptr, x, bias, out, tokens, inputs, outputs}, codes, scales, group}, workspace,        \
            counters, splits);                                                                                               \
    }
#define MAKE_ENDING(ending, kEnding, name, T)           \
    MAKE_ONE(ending, kEnding, name, T, int4, Int4, 32)  \
    MAKE_ONE(ending, kEnding, name, T, int4, Int4, 64)  \
    MAKE_ONE(ending, kEnding, name, T, fp8, Fp8, 32)    \
    MAKE_ONE(ending, kEnding, name, T, fp8, Fp8, 64)
#define MAKE(name, T) VL_LINEAR_ENDINGS(MAKE_ENDING, name, T)
VL_HALVES(MAKE)
