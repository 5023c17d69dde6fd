// What the attention kernels share, so that a query's result is the same bits in each of them: keys are taken in tiles of 64 at absolute
// positions, with a running maximum; every 256 keys (a split) it begins afresh, and the splits' results are folded in order. A tile in which
// a query sees nothing changes nothing, exactly, so it does not matter which other queries are looked at together with it.
//
// A warp holds 16 query rows. With g = lane / 4 and t = lane % 4 a lane holds rows g and g + 8 ("halves" 0 and 1), of the scores the
// keys 8 j + 2 t and the next, of the context the elements 8 d + 2 t and the next.
#pragma once

#include "kv.h"

constexpr u32 kTileKeys = 64;
constexpr u32 kSplitKeys = 256;
constexpr u32 kSplitTiles = kSplitKeys / kTileKeys;
/// Exponentials are made as powers of two.
constexpr float kLog2E = 1.44269504f;

VL_DEVICE float maximum(float left, float right) { return left > right ? left : right; }
VL_DEVICE float minus_infinity() { return float_of(0xFF800000u); }
/// What scores are compared to: the maximum, or 0 where nothing was seen, so that no infinity is subtracted from another.
VL_DEVICE float base_of(float max) { return max == minus_infinity() ? 0.0f : max; }

/// The first key that a query at `position` sees.
VL_DEVICE u32 first_visible(u32 position, u32 window) {
    return window == 0 || position + 1 < window ? 0 : position + 1 - window;
}

/// One new token whose attention is computed by itself.
struct DecodeQuery {
    u32 token, position, table, partial;
};

/// 64 rows of one head in shared memory. Pieces of 16 bytes are permuted within a row so that eight rows' pieces of one number, which
/// are read together, lie in different banks.
template <u32 kHeadDim>
struct TileShape {
    static constexpr u32 kPieces = kHeadDim / 8;
    static constexpr u32 kWords = kTileKeys * kPieces;
    static constexpr u32 kSteps = kHeadDim / 16;

    VL_DEVICE static u32 place(u32 row, u32 piece) {
        u32 turn = kPieces % 8 == 0 ? row & 7 : kPieces % 4 == 0 ? (row >> 1) & 3 : (row >> 2) & 1;
        return row * kPieces + (piece ^ turn);
    }
};

/// Begins the copies of a tile's keys and values by a block of `kThreads`; zeros for keys outside `first..=last`, which may be anything
/// in memory.
template <typename T, u32 kHeadDim, u32 kThreads>
VL_DEVICE void copy_tile(Words* keys, Words* values, const T* pool, const u32* table, KvShape shape, u32 kv_head, u32 layer,
                         u32 tile, u32 first, u32 last) {
    using Shape = TileShape<kHeadDim>;
    VL_UNROLL
    for (u32 round = 0; round < divide_up(Shape::kWords, kThreads); ++round) {
        u32 index = round * kThreads + threadIdx.x;
        if (Shape::kWords < kThreads && index >= Shape::kWords) break;
        u32 row = index / Shape::kPieces, piece = index % Shape::kPieces;
        u32 key = tile * kTileKeys + row;
        bool valid = key >= first && key <= last;
        u32 block = valid ? table[key / kBlockTokens] : 0;
        const T* from = pool + shape.tile(block, kv_head, layer, false) + key % kBlockTokens * kHeadDim + piece * 8;
        u32 place = Shape::place(row, piece);
        copy_async(keys + place, valid ? from : pool, valid);
        copy_async(values + place, valid ? from + kBlockTokens * kHeadDim : pool, valid);
    }
}

/// scores = q · keys^T; `query_at(step, a)` gives the rows' elements 16 step.. as the matrix instruction wants them.
template <typename T, u32 kHeadDim, typename QueryAt>
VL_DEVICE void multiply_keys(float (&scores)[8][4], const Words* keys, const QueryAt& query_at) {
    using Shape = TileShape<kHeadDim>;
    u32 lane = threadIdx.x % kWarp;
    VL_UNROLL
    for (u32 step = 0; step < Shape::kSteps; ++step) {
        u32 a[4];
        query_at(step, a);
        VL_UNROLL
        for (u32 pair = 0; pair < kTileKeys / 16; ++pair) {
            u32 b[4];
            load_matrices(b, keys + Shape::place(pair * 16 + lane / 16 * 8 + lane % 8, 2 * step + lane / 8 % 2));
            multiply_add(scores[2 * pair], a[0], a[1], a[2], a[3], b[0], b[1], T{});
            multiply_add(scores[2 * pair + 1], a[0], a[1], a[2], a[3], b[2], b[3], T{});
        }
    }
}

/// Scores so far of a lane's two rows: the largest, and the lane's own share of the sum of exponentials.
struct RowStates {
    float max[2] = {minus_infinity(), minus_infinity()};
    float sum[2] = {0.0f, 0.0f};
};

/// Turns scores into exponentials. `keep` is what earlier sums must be multiplied by. With `is_whole`
/// every row sees every key, and nothing is compared.
VL_DEVICE void exponentiate(float (&scores)[8][4], RowStates& rows, float (&keep)[2], float scale_log2, u32 tile, bool is_whole,
                            u32 window, const u32 (&position)[2]) {
    u32 first_key = tile * kTileKeys + threadIdx.x % 4 * 2;
    VL_UNROLL
    for (u32 half = 0; half < 2; ++half) {
        float max = minus_infinity();
        u32 low = first_visible(position[half], window);
        VL_UNROLL
        for (u32 column = 0; column < 16; ++column) {
            float& score = scores[column / 2][half * 2 + column % 2];
            u32 key = first_key + column / 2 * 8 + column % 2;
            bool visible = is_whole || (key >= low && key <= position[half]);
            score = visible ? __fmul_rn(score, scale_log2) : minus_infinity();
            max = maximum(max, score);
        }
        max = maximum(max, shuffle_xor(max, 1));
        max = maximum(max, shuffle_xor(max, 2));
        max = maximum(max, rows.max[half]);
        float base = base_of(max);
        keep[half] = power_of_two(__fsub_rn(rows.max[half], base));
        rows.max[half] = max;
        float sum = __fmul_rn(rows.sum[half], keep[half]);
        VL_UNROLL
        for (u32 column = 0; column < 16; ++column) {
            float& score = scores[column / 2][half * 2 + column % 2];
            score = power_of_two(__fsub_rn(score, base));
            sum = __fadd_rn(sum, score);
        }
        rows.sum[half] = sum;
    }
}

/// The whole row's sum of exponentials from its four lanes' shares.
VL_DEVICE float row_sum(float share) {
    share = __fadd_rn(share, shuffle_xor(share, 1));
    return __fadd_rn(share, shuffle_xor(share, 2));
}

/// Exponentials rounded to T, in the order the matrix instruction wants: for each 16 keys four words.
template <typename T>
VL_DEVICE void pack_shares(u32 (&shares)[4][4], const float (&scores)[8][4]) {
    VL_UNROLL
    for (u32 step = 0; step < 4; ++step) {
        VL_UNROLL
        for (u32 word = 0; word < 4; ++word) {
            const float* pair = scores[2 * step + word / 2] + word % 2 * 2;
            shares[step][word] = pack(pair[0], pair[1], T{});
        }
    }
}

/// context = context * keep + shares · values for the 8 elements of piece `piece`.
template <typename T, u32 kHeadDim>
VL_DEVICE void multiply_values(float (&context)[4], const u32 (&shares)[4][4], const float (&keep)[2], const Words* values,
                               u32 piece) {
    using Shape = TileShape<kHeadDim>;
    u32 lane = threadIdx.x % kWarp;
    VL_UNROLL
    for (u32 element = 0; element < 4; ++element) context[element] = __fmul_rn(context[element], keep[element / 2]);
    VL_UNROLL
    for (u32 step = 0; step < 4; step += 2) {
        u32 b[4];
        load_matrices_transposed(b, values + Shape::place(step * 16 + lane, piece));
        multiply_add(context, shares[step][0], shares[step][1], shares[step][2], shares[step][3], b[0], b[1], T{});
        multiply_add(context, shares[step + 1][0], shares[step + 1][1], shares[step + 1][2], shares[step + 1][3], b[2], b[3], T{});
    }
}

/// How a split joins those before it: old values times `keep`, its own times `add`.
struct Fold {
    float keep, add;

    /// Moves `max` on to that of both.
    VL_DEVICE static Fold of(float& max, float split_max) {
        float both = maximum(max, split_max);
        float base = base_of(both);
        Fold fold{power_of_two(__fsub_rn(max, base)), power_of_two(__fsub_rn(split_max, base))};
        max = both;
        return fold;
    }
    VL_DEVICE float join(float old, float split) const { return __fadd_rn(__fmul_rn(old, keep), __fmul_rn(split, add)); }
};

/// What the sum of values is multiplied by at the end.
VL_DEVICE float share_of(float sum) { return __fdiv_rn(1.0f, sum); }

/// Stores two neighbours.
template <typename T>
VL_DEVICE void store_pair(T* to, float first, float second) {
    *reinterpret_cast<u32*>(to) = pack(first, second, T{});
}

#define VL_HEAD_DIMS(make, name, T) make(name, T, 16) make(name, T, 32) make(name, T, 64) make(name, T, 96) make(name, T, 128)
