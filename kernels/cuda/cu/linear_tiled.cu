// Projections of any number of tokens: a block makes 128 outputs of 32, 64 or 128 tokens. Weights and activations come through shared
// memory in four stages of 64 k's (three under way while one is multiplied), 16 bytes a copy; with t = 128 each byte brought is used 128
// times, 64 products a byte, above what the tensor cores can take from the second cache. At few tokens the weights' bytes are
// what counts and there are fewer tiles than processors: then `splits` blocks share a tile, each taking some of its eight parts; the last
// to finish adds the parts up in their order.
#include "linear_tile.h"

constexpr u32 kStageK = 64;
constexpr u32 kStages = 4;
/// 16-byte pieces of a row in a stage.
constexpr u32 kPieces = kStageK * 2 / 16;

/// Where a piece of a row lies. Eight threads that read together take four pieces of two rows: every second row has its halves swapped,
/// so that they fall on different banks.
VL_DEVICE u32 piece_place(u32 row, u32 piece) { return row * kPieces + (piece ^ ((row & 1) << 2)); }

/// The stage that is next to be copied.
struct Cursor {
    u32 index;   // number of stages before it
    u32 start;   // first k of its part
    u32 inside;  // its own first k, from there

    VL_DEVICE void advance(u32 length) {
        ++index;
        inside += kStageK;
        if (inside >= length) {
            inside = 0;
            start += length;
        }
    }
};

/// What one thread copies of a matrix: piece `threadIdx.x % kPieces` of every 32nd row from its first on.
template <typename T>
struct Copies {
    static constexpr u32 kRowsAtOnce = kTileThreads / kPieces;

    const T* from;   // its piece of its first row
    u64 rows_step;   // elements from one of its rows to the next
    u32 rows;        // rows of the matrix from its first on
    u32 place;       // where its first piece lies in a stage

    /// Rows from `first` on of a matrix with `rows` rows of `inputs`.
    VL_DEVICE static Copies of(const T* matrix, u32 first, u32 rows, u32 inputs) {
        u32 row = threadIdx.x / kPieces, piece = threadIdx.x % kPieces;
        return {matrix + static_cast<u64>(first + row) * inputs + piece * 8, static_cast<u64>(kRowsAtOnce) * inputs,
                first + row < rows ? rows - first - row : 0, piece_place(row, piece)};
    }
    template <u32 kCount>
    VL_DEVICE void begin(Words* into, const Cursor& cursor, u32 length, u32 inputs) const {
        u32 inside = cursor.inside + threadIdx.x % kPieces * 8;
        // A stage may reach beyond its part: those k's are the next part's, and zero here.
        bool valid = inside < length && cursor.start + inside < inputs;
        const T* at = from + (cursor.start + cursor.inside);
        VL_UNROLL
        for (u32 round = 0; round < kCount / kRowsAtOnce; ++round) {
            copy_async(into + place + round * (kRowsAtOnce * kPieces), at, valid && round * kRowsAtOnce < rows);
            at += rows_step;
        }
    }
};

template <typename T, u32 kTokens>
struct Tile {
    static constexpr u32 kTokenTiles = kTokens / 2 / 8;
    static constexpr u32 kStageBytes = (kTileRows + kTokens) * kStageK * 2;

    const Linear<T>& linear;
    Words* stages;
    u32 first_row, first_token;
    u32 length, stages_of_part;

    VL_DEVICE Words* stage_at(u32 index) const { return stages + index % kStages * (kStageBytes / 16); }

    VL_DEVICE void copy_weights(const Copies<T>& weights, const Cursor& cursor) const {
        weights.template begin<kTileRows>(stage_at(cursor.index), cursor, length, linear.inputs);
    }
    VL_DEVICE void copy_x(const Copies<T>& x, const Cursor& cursor) const {
        x.template begin<kTokens>(stage_at(cursor.index) + kTileRows * kPieces, cursor, length, linear.inputs);
    }

    VL_DEVICE void multiply(float (&sums)[kTileRowTiles][kTokenTiles][4], u32 index) const {
        const Words* rows = stage_at(index);
        const Words* tokens = rows + kTileRows * kPieces;
        u32 warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
        u32 group = lane / 4, quarter = lane % 4;
        u32 warp_row = warp % 4 * kTileWarpRows, warp_token = warp / 4 * (kTokens / 2);
        VL_UNROLL
        for (u32 step = 0; step < kStageK / kStep; ++step) {
            u32 piece = step * 4 + quarter;
            Words weight[kTileRowTiles][2];
            VL_UNROLL
            for (u32 tile = 0; tile < kTileRowTiles; ++tile) {
                weight[tile][0] = rows[piece_place(warp_row + tile * 16 + group, piece)];
                weight[tile][1] = rows[piece_place(warp_row + tile * 16 + 8 + group, piece)];
            }
            Words x[kTokenTiles];
            VL_UNROLL
            for (u32 token = 0; token < kTokenTiles; ++token) {
                x[token] = tokens[piece_place(warp_token + token * 8 + group, piece)];
            }
            // Weights in the outer loop: their four registers are gathered once for all tokens.
            VL_UNROLL
            for (u32 half = 0; half < 2; ++half) {
                VL_UNROLL
                for (u32 tile = 0; tile < kTileRowTiles; ++tile) {
                    VL_UNROLL
                    for (u32 token = 0; token < kTokenTiles; ++token) {
                        multiply_half<T>(sums[tile][token], weight[tile][0], weight[tile][1], x[token], half);
                    }
                }
            }
        }
    }
};

template <typename T, Ending kEnding, u32 kTokens>
VL_DEVICE void linear_tiled(const Linear<T>& linear, float* workspace, u32* counters, u32 splits) {
    using Shape = Tile<T, kTokens>;
    constexpr u32 kTokenTiles = Shape::kTokenTiles;
    VL_SHARED_DYNAMIC(memory);
    u32 length = part_length(linear.inputs);
    Shape tile{linear,
               reinterpret_cast<Words*>(memory),
               blockIdx.y * kTileRows,
               blockIdx.x * kTokens,
               length,
               divide_up(length, kStageK)};
    u32 parts = kParts / splits;
    u32 first_part = blockIdx.z * parts;
    u32 count = parts * tile.stages_of_part;
    Copies<T> weights = Copies<T>::of(linear.weight, tile.first_row, linear.outputs, linear.inputs);
    Copies<T> x = Copies<T>::of(linear.x, tile.first_token, linear.tokens, linear.inputs);
    const Cursor first{0, first_part * length, 0};
    Cursor coming = first;
    VL_UNROLL
    for (u32 index = 0; index < kStages - 1; ++index) {
        if (index < count) tile.copy_weights(weights, coming);
        coming.advance(length);
    }
    grid_wait_behind_loads(linear.tokens);
    grid_release();
    coming = first;
    VL_UNROLL
    for (u32 index = 0; index < kStages - 1; ++index) {
        if (index < count) tile.copy_x(x, coming);
        coming.advance(length);
        copy_commit();
    }
    u32 number = blockIdx.y * gridDim.x + blockIdx.x;
    float* mine = workspace + static_cast<u64>(number) * kParts * (kTileRows * kTokens) + threadIdx.x;
    float sums[kTileRowTiles][kTokenTiles][4] = {};
    float totals[kTileRowTiles][kTokenTiles][4] = {};
    u32 index = 0;
    for (u32 part = first_part; part < first_part + parts; ++part) {
        for (u32 stage = 0; stage < tile.stages_of_part; ++stage, ++index) {
            copy_wait<kStages - 2>();
            // This stage has come for all, and all have read the stage that is now overwritten.
            __syncthreads();
            if (coming.index < count) {
                tile.copy_weights(weights, coming);
                tile.copy_x(x, coming);
                coming.advance(length);
            }
            copy_commit();
            tile.multiply(sums, index);
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
    finish_tile<T, kEnding, kTokens>(linear, reinterpret_cast<float*>(memory), totals, tile.first_row, tile.first_token);
}

#define MAKE_ONE(ending, kEnding, name, T, tokens_of_tile)                                                                     \
    VL_KERNEL(256, 1) void vl_linear_##ending##_##name##_t##tokens_of_tile(const T* weight, const T* x, const float* bias,   \
                                                                           void* out, u32 tokens, u32 inputs, u32 outputs,   \
                                                                           float* workspace, u32* counters, u32 splits) {   \
        linear_tiled<T, kEnding, tokens_of_tile>(Linear<T>{weight, x, bias, out, tokens, inputs, outputs}, workspace,        \
                                                 counters, splits);                                                          \
    }
#define MAKE_ENDING(ending, kEnding, name, T)   \
    MAKE_ONE(ending, kEnding, name, T, 32)     \
    MAKE_ONE(ending, kEnding, name, T, 64)     \
    MAKE_ONE(ending, kEnding, name, T, 128)
#define MAKE(name, T) VL_LINEAR_ENDINGS(MAKE_ENDING, name, T)
VL_HALVES(MAKE)
