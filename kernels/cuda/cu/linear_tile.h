// What the tiled projections share: 128 outputs of some tokens by eight warps, and how they end.
#pragma once

#include "linear.h"

constexpr u32 kTileThreads = 256;
constexpr u32 kTileRows = 128;
/// Warps lie 4 along the outputs, 2 along the tokens.
constexpr u32 kTileWarpRows = kTileRows / 4;
constexpr u32 kTileRowTiles = kTileWarpRows / 16;
/// A row of the tile of outputs in shared memory; 4 more, so that threads of one column meet different banks.
constexpr u32 kTileOutRow = kTileRows + 4;

/// f(row tile, token tile, element, number among the thread's) for each sum of a thread.
template <u32 kTokenTiles, typename F>
VL_DEVICE void each_sum(const F& f) {
    VL_UNROLL
    for (u32 row = 0; row < kTileRowTiles; ++row) {
        VL_UNROLL
        for (u32 token = 0; token < kTokenTiles; ++token) {
            VL_UNROLL
            for (u32 element = 0; element < 4; ++element) f(row, token, element, (row * kTokenTiles + token) * 4 + element);
        }
    }
}

/// Writes a tile's outputs, by way of shared memory so that whole rows of outputs go out together. `tile_out` may still be read by others of
/// the block when this begins.
template <typename T, Ending kEnding, u32 kTokens>
VL_DEVICE void finish_tile(const Linear<T>& linear, float* tile_out, const float (&sums)[kTileRowTiles][kTokens / 16][4], u32 first_row,
                           u32 first_token) {
    u32 warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
    u32 warp_row = warp % 4 * kTileWarpRows, warp_token = warp / 4 * (kTokens / 2);
    // All have read the last stage.
    __syncthreads();
    each_sum<kTokens / 16>([&](u32 tile, u32 token, u32 element, u32) {
        u32 at = warp_token + token * 8 + lane % 4 * 2 + element % 2;
        u32 row = warp_row + tile * 16 + element / 2 * 8 + lane / 4;
        tile_out[at * kTileOutRow + row] = sums[tile][token][element];
    });
    __syncthreads();
    constexpr u32 kEach = kEnding == Ending::kSilu ? kTileRows / 2 : kTileRows;
    for (u32 index = threadIdx.x; index < kTokens * kEach; index += kTileThreads) {
        u32 token = index / kEach, row = index % kEach;
        if constexpr (kEnding == Ending::kSilu) row = row / 8 * 16 + row % 8;
        if (first_token + token >= linear.tokens || first_row + row >= linear.outputs) continue;
        const float* at = tile_out + token * kTileOutRow + row;
        if constexpr (kEnding == Ending::kSilu) {
            linear.finish_silu(at[0], at[8], first_token + token, first_row + row);
        } else {
            linear.template finish<kEnding>(at[0], first_token + token, first_row + row);
        }
    }
}

/// Whether this block is the last of a tile's to have written its parts. The counter is zero again afterwards.
VL_DEVICE bool is_last(u32* counter, u32 splits) {
    VL_SHARED(u32, before, 1);
    // Each thread's parts are seen by all before it is counted.
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        before[0] = atomicAdd(counter, 1u);
        if (before[0] == splits - 1) *counter = 0;
    }
    __syncthreads();
    __threadfence();
    return before[0] == splits - 1;
}
