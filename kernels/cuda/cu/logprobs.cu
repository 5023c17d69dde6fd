// How likely given tokens are by unmodified logits, their rank, and the most likely tokens beside them. One block a question: a row is read
// twice, 512 KB each at a vocabulary of 128k. Asked for by few requests.
#include "sampling.h"

struct LogprobAsk {
    u32 row, target, top, drawn_index;
};
struct LogprobResult {
    float logprob;
    u32 rank, top_count, ok;
};
struct TokenLogprob {
    u32 token;
    float logprob;
};
struct DrawnToken {
    u32 token, ok;
};

/// The most likely tokens that one question may ask for.
constexpr u32 kMostTop = 256;

/// A row's distribution.
struct Distribution {
    double log_total;

    VL_DEVICE Distribution(float max, u64 total)
        : log_total(static_cast<double>(max) + log(static_cast<double>(total) / static_cast<double>(kFull))) {}
    VL_DEVICE float logprob(float logit) const {
        float value = static_cast<float>(static_cast<double>(logit) - log_total);
        return value < 0.0f ? value : 0.0f;
    }
};

/// Writes the `count` most likely tokens, most likely first, and returns how many there are above -infinity.
VL_DEVICE u32 write_top(const float* row, u32 vocabulary, u32 count, u64* candidates, const float* maxima, const Distribution& distribution,
                        TokenLogprob* top, u64* best, RowScratch& scratch) {
    auto logit = [&](u32 token) { return row[token]; };
    u32 found = collect_best(candidates, maxima, vocabulary, count, scratch, logit);
    auto itself = [](u64 entry) { return entry; };
    u64 last = found <= count ? 0 : select<64>(candidates, found, count, scratch, itself, [](u64) { return 1ull; });
    __syncthreads();
    if (threadIdx.x == 0) scratch.count = 0;
    __syncthreads();
    for (u32 index = threadIdx.x; index < found; index += kRowThreads) {
        if (candidates[index] >= last) best[atomicAdd(&scratch.count, 1u)] = candidates[index];
    }
    __syncthreads();
    u32 kept = scratch.count;
    for (u32 index = threadIdx.x; index < kept; index += kRowThreads) {
        u32 place = 0;
        for (u32 other = 0; other < kept; ++other) place += best[other] > best[index];
        u32 token = token_of_rank(best[index]);
        top[place] = TokenLogprob{token, distribution.logprob(row[token])};
    }
    return kept;
}

VL_KERNEL(512, 1) void vl_logprobs(const float* logits, u32 vocabulary, const LogprobAsk* asks, const DrawnToken* drawn, u64* candidates,
                                   float* maxima, LogprobResult* results, TokenLogprob* tops, u32 top_stride) {
    VL_SHARED(RowScratch, memory, 1);
    VL_SHARED(u64, best, kMostTop);
    RowScratch& scratch = memory[0];
    grid_wait();
    grid_release();
    LogprobAsk ask = asks[blockIdx.x];
    bool is_asked = true;
    if (ask.drawn_index != kNone) {
        ask.target = drawn[ask.drawn_index].token;
        is_asked = drawn[ask.drawn_index].ok != 0;
    }
    const float* row = logits + static_cast<u64>(ask.row) * vocabulary;
    u32 blocks = divide_up(vocabulary, kBlock), lane = threadIdx.x % kWarp;
    float* own_maxima = maxima + static_cast<u64>(blockIdx.x) * blocks;
    float max = minus_infinity();
    bool fault = false;
    for (u32 block = threadIdx.x / kWarp; block < blocks; block += kRowThreads / kWarp) {
        float largest = minus_infinity();
        VL_UNROLL
        for (u32 half = 0; half < kBlock; half += kWarp) {
            u32 token = block * kBlock + half + lane;
            if (token >= vocabulary) continue;
            fault = fault || !is_usable(row[token]);
            largest = row[token] > largest ? row[token] : largest;
        }
        VL_UNROLL
        for (u32 distance = kWarp / 2; distance > 0; distance /= 2) {
            float other = shuffle_xor(largest, distance);
            largest = other > largest ? other : largest;
        }
        if (lane == 0) own_maxima[block] = largest;
        max = largest > max ? largest : max;
    }
    max = block_max(max, scratch);
    u64 fault_count = block_total(fault, scratch);
    if (!is_asked || ask.target >= vocabulary || fault_count > 0 || max == minus_infinity()) {
        if (threadIdx.x == 0) results[blockIdx.x] = LogprobResult{0.0f, 0, 0, 0};
        return;
    }
    Weigher weigher{max, 1.0f};
    float own = row[ask.target];
    u64 sum = 0, better = 0;
    for (u32 token = threadIdx.x; token < vocabulary; token += kRowThreads) {
        sum += weigher.weight(row[token]);
        better += row[token] > own || (row[token] == own && token < ask.target);
    }
    Distribution distribution(max, block_total(sum, scratch));
    u32 rank = static_cast<u32>(block_total(better, scratch)) + 1;
    u32 top_count = 0;
    if (ask.top > 0) {
        top_count = write_top(row, vocabulary, smaller(ask.top, kMostTop), candidates + static_cast<u64>(blockIdx.x) * vocabulary,
                              own_maxima, distribution, tops + static_cast<u64>(blockIdx.x) * top_stride, best, scratch);
    }
    if (threadIdx.x == 0) results[blockIdx.x] = LogprobResult{distribution.logprob(own), rank, top_count, 1};
}
