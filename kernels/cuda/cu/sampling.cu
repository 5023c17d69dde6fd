// From logits to a token: bans, biases and penalties in place (and undone afterwards), a pass that finds each block's largest logit, a pass
// that adds up weights where they are needed, and the draw. The passes over whole rows are spread over all processors: 512 KB a
// row at a vocabulary of 128k, read from the second cache. The draw itself looks only into blocks that matter; its
// slowest case, a nucleus of nearly the whole vocabulary, reads the row a dozen times on one processor.
#include "sampling.h"

constexpr u32 kThreads = 256;
/// A token was seen in prompt or output. The bits below count how often it was generated.
constexpr u32 kSeen = 1u << 31;

/// How one token is drawn. Starts are indices into the flat arrays of all samples.
struct SampleItem {
    u64 seed;
    u32 row, position;
    float temperature, top_p, min_p;
    u32 top_k;
    float presence, frequency, repetition;
    u32 prompt_tokens, history_start, history_count, banned_start, banned_count, bias_start, bias_count, mask_start, mask_words;
};
static_assert(sizeof(SampleItem) == 80, "the host writes these bytes");

struct SliceResult {
    float max;
    u32 fault;
};
struct Drawn {
    u32 token, ok;
};

/// A sample's logits, without those that its mask forbids.
struct Row {
    const float* logits;
    const u32* mask;  // or null
    u32 mask_words;

    VL_DEVICE Row(const float* all, u32 vocabulary, const SampleItem& item, const u32* masks)
        : logits(all + static_cast<u64>(item.row) * vocabulary),
          mask(item.mask_start == kNone ? nullptr : masks + item.mask_start),
          mask_words(item.mask_words) {}

    VL_DEVICE float operator()(u32 token) const {
        if (mask == nullptr) return logits[token];
        // Tokens beyond the mask are not in it.
        bool allowed = token / 32 < mask_words && (mask[token / 32] >> token % 32 & 1) != 0;
        return allowed ? logits[token] : minus_infinity();
    }
};

VL_DEVICE bool is_greedy(const SampleItem& item) { return !(item.temperature > 0.0f); }
VL_DEVICE bool cuts_k(const SampleItem& item, u32 vocabulary) { return item.top_k > 0 && item.top_k < vocabulary; }
/// Whether the sum over the whole row is asked for: when nothing is cut off, or only by the nucleus.
VL_DEVICE bool needs_sums(const SampleItem& item, u32 vocabulary) {
    return !is_greedy(item) && !cuts_k(item, vocabulary) && !(item.min_p > 0.0f);
}

/// The first of the history's tokens that count: only the repetition penalty looks at the prompt.
VL_DEVICE u32 history_from(const SampleItem& item) {
    return item.repetition == 1.0f ? smaller(item.history_count, item.prompt_tokens) : 0;
}

VL_DEVICE float penalised(const SampleItem& item, float logit, u32 generated) {
    float value = logit > 0.0f ? __fdiv_rn(logit, item.repetition) : __fmul_rn(logit, item.repetition);
    float frequency = __fmul_rn(item.frequency, static_cast<float>(generated));
    return __fsub_rn(__fsub_rn(value, frequency), generated > 0 ? item.presence : 0.0f);
}

VL_KERNEL(256, 1) void vl_sample_adjust(float* logits, u32 vocabulary, const SampleItem* items, const u32* history, const u32* banned,
                                        const u32* bias_tokens, const float* bias_values, u32* counts, float* banned_undo,
                                        float* bias_undo, float* history_undo, u32* history_applied, u32* faults) {
    VL_SHARED(u32, fault, 1);
    grid_wait();
    grid_release();
    SampleItem item = items[blockIdx.x];
    float* row = logits + static_cast<u64>(item.row) * vocabulary;
    u32* seen = counts + static_cast<u64>(blockIdx.x) * vocabulary;
    if (threadIdx.x == 0) fault[0] = 0;
    __syncthreads();
    auto change = [&](u32 token, float& undo, float value) {
        undo = row[token];
        if (!is_usable(undo)) atomicOr(fault, 1u);
        row[token] = value;
    };
    for (u32 index = item.banned_start + threadIdx.x; index < item.banned_start + item.banned_count; index += kThreads) {
        bool is_first = index == item.banned_start || banned[index - 1] != banned[index];
        if (is_first && banned[index] < vocabulary) change(banned[index], banned_undo[index], minus_infinity());
    }
    __syncthreads();
    for (u32 index = item.bias_start + threadIdx.x; index < item.bias_start + item.bias_count; index += kThreads) {
        u32 token = bias_tokens[index];
        if (token < vocabulary) change(token, bias_undo[index], __fadd_rn(row[token], bias_values[index]));
    }
    __syncthreads();
    u32 prompt = item.history_start + smaller(item.history_count, item.prompt_tokens);
    u32 start = item.history_start + history_from(item), end = item.history_start + item.history_count;
    for (u32 index = start + threadIdx.x; index < end; index += kThreads) {
        if (history[index] >= vocabulary) continue;
        atomicOr(&seen[history[index]], kSeen);
        if (index >= prompt) atomicAdd(&seen[history[index]], 1u);
    }
    __syncthreads();
    for (u32 index = start + threadIdx.x; index < end; index += kThreads) {
        u32 token = history[index];
        // Whoever takes the count applies it, and leaves the counts clean for the next step.
        u32 count = token < vocabulary ? atomicExch(&seen[token], 0u) : 0;
        history_applied[index] = count != 0;
        if (count != 0) change(token, history_undo[index], penalised(item, row[token], count & ~kSeen));
    }
    __syncthreads();
    if (threadIdx.x == 0) faults[blockIdx.x] = fault[0];
}

VL_KERNEL(256, 1) void vl_sample_undo(float* logits, u32 vocabulary, const SampleItem* items, const u32* history, const u32* banned,
                                      const u32* bias_tokens, const float* banned_undo, const float* bias_undo,
                                      const float* history_undo, const u32* history_applied) {
    grid_wait();
    grid_release();
    SampleItem item = items[blockIdx.x];
    float* row = logits + static_cast<u64>(item.row) * vocabulary;
    // Backwards: a token changed twice gets its oldest value last.
    u32 end = item.history_start + item.history_count;
    for (u32 index = item.history_start + history_from(item) + threadIdx.x; index < end; index += kThreads) {
        if (history_applied[index] != 0) row[history[index]] = history_undo[index];
    }
    __syncthreads();
    for (u32 index = item.bias_start + threadIdx.x; index < item.bias_start + item.bias_count; index += kThreads) {
        if (bias_tokens[index] < vocabulary) row[bias_tokens[index]] = bias_undo[index];
    }
    __syncthreads();
    for (u32 index = item.banned_start + threadIdx.x; index < item.banned_start + item.banned_count; index += kThreads) {
        bool is_first = index == item.banned_start || banned[index - 1] != banned[index];
        if (is_first && banned[index] < vocabulary) row[banned[index]] = banned_undo[index];
    }
}

VL_KERNEL(256, 1) void vl_sample_scan(const float* logits, u32 vocabulary, const SampleItem* items, const u32* masks, float* maxima,
                                      SliceResult* slices) {
    VL_SHARED(float, warp_max, kThreads / kWarp);
    VL_SHARED(u32, warp_fault, kThreads / kWarp);
    grid_wait();
    grid_release();
    SampleItem item = items[blockIdx.y];
    Row row(logits, vocabulary, item, masks);
    u32 lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    float* into = maxima + static_cast<u64>(blockIdx.y) * divide_up(vocabulary, kBlock);
    float slice_max = minus_infinity();
    bool fault = false;
    for (u32 index = warp; index < kSliceBlocks; index += kThreads / kWarp) {
        u32 block = blockIdx.x * kSliceBlocks + index;
        if (block * kBlock >= vocabulary) break;
        float max = minus_infinity();
        VL_UNROLL
        for (u32 half = 0; half < kBlock; half += kWarp) {
            u32 token = block * kBlock + half + lane;
            if (token >= vocabulary) continue;
            // Also a number that may not be drawn tells of a spoiled row.
            fault = fault || !is_usable(row.logits[token]);
            float value = row(token);
            max = value > max ? value : max;
        }
        VL_UNROLL
        for (u32 distance = kWarp / 2; distance > 0; distance /= 2) {
            float other = shuffle_xor(max, distance);
            max = other > max ? other : max;
        }
        if (lane == 0) into[block] = max;
        slice_max = max > slice_max ? max : slice_max;
    }
    u32 any = votes_of(fault);
    if (lane == 0) {
        warp_max[warp] = slice_max;
        warp_fault[warp] = any;
    }
    __syncthreads();
    if (threadIdx.x != 0) return;
    SliceResult result{minus_infinity(), 0};
    for (u32 index = 0; index < kThreads / kWarp; ++index) {
        result.max = warp_max[index] > result.max ? warp_max[index] : result.max;
        result.fault |= warp_fault[index] != 0;
    }
    slices[static_cast<u64>(blockIdx.y) * gridDim.x + blockIdx.x] = result;
}

VL_KERNEL(256, 1) void vl_sample_weigh(const float* logits, u32 vocabulary, const SampleItem* items, const u32* masks,
                                       const SliceResult* slices, u64* block_sums) {
    grid_wait();
    grid_release();
    SampleItem item = items[blockIdx.y];
    if (!needs_sums(item, vocabulary)) return;
    Row row(logits, vocabulary, item, masks);
    u32 lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    // Each warp looks for the row's largest itself: a few dozen numbers.
    float max = minus_infinity();
    for (u32 index = lane; index < gridDim.x; index += kWarp) {
        float own = slices[static_cast<u64>(blockIdx.y) * gridDim.x + index].max;
        max = own > max ? own : max;
    }
    VL_UNROLL
    for (u32 distance = kWarp / 2; distance > 0; distance /= 2) {
        float other = shuffle_xor(max, distance);
        max = other > max ? other : max;
    }
    Weigher weigher{max, item.temperature};
    u64* into = block_sums + static_cast<u64>(blockIdx.y) * divide_up(vocabulary, kBlock);
    for (u32 index = warp; index < kSliceBlocks; index += kThreads / kWarp) {
        u32 block = blockIdx.x * kSliceBlocks + index;
        if (block * kBlock >= vocabulary) break;
        u64 sum = 0;
        VL_UNROLL
        for (u32 half = 0; half < kBlock; half += kWarp) {
            u32 token = block * kBlock + half + lane;
            if (token < vocabulary) sum += weigher.weight(row(token));
        }
        VL_UNROLL
        for (u32 distance = kWarp / 2; distance > 0; distance /= 2) sum += shuffle_xor(sum, distance);
        if (lane == 0) into[block] = sum;
    }
}

/// One row's draw by one block of threads.
struct Draw {
    const Row& row;
    const SampleItem& item;
    u32 vocabulary;
    const float* maxima;
    const u64* block_sums;
    u64* candidates;
    Weigher weigher;
    RowScratch& scratch;

    VL_DEVICE u32 blocks() const { return divide_up(vocabulary, kBlock); }

    /// The lowest token of the largest logit. Only thread 0's answer counts.
    VL_DEVICE u32 first_of_largest() const {
        if (threadIdx.x == 0) scratch.count = kNone;
        __syncthreads();
        for (u32 block = threadIdx.x; block < blocks(); block += kRowThreads) {
            if (maxima[block] == weigher.max) atomicMin(&scratch.count, block);
        }
        __syncthreads();
        u32 token = scratch.count * kBlock;
        if (threadIdx.x == 0) {
            while (row(token) != weigher.max) ++token;
        }
        return token;
    }

    /// Weights of the whole row lie end to end; `random` says how far into them. The thread that finds the token returns true.
    VL_DEVICE bool draw_from_all(u64 random, u32& token) const {
        u32 each = divide_up(blocks(), kRowThreads), first = threadIdx.x * each, end = smaller(first + each, blocks());
        u64 own = 0, before;
        for (u32 block = first; block < end; ++block) own += block_sums[block];
        u64 total = block_scan(own, before, scratch);
        u64 target = high_product(random, total);
        if (target < before || target >= before + own) return false;
        target -= before;
        u32 block = first;
        while (target >= block_sums[block]) target -= block_sums[block++];
        token = block * kBlock;
        for (u64 weight = weigher.weight(row(token)); target >= weight; weight = weigher.weight(row(token))) {
            target -= weight;
            ++token;
        }
        return true;
    }

    VL_DEVICE u64 sum_of(u32 count, u64 least_key) const {
        u64 own = 0;
        for (u32 index = threadIdx.x; index < count; index += kRowThreads) {
            own += candidates[index] >= least_key ? candidates[index] >> kTokenBits : 0;
        }
        return block_total(own, scratch);
    }

    /// Fills the candidates with weight keys of the tokens that top-k and min-p leave; 0 are gaps. `total` is the weight that the nucleus is a
    /// share of.
    VL_DEVICE u32 collect_candidates(u64& total) const {
        u64 least = least_weight(item.min_p);
        u32 count;
        if (cuts_k(item, vocabulary)) {
            count = collect_best(candidates, maxima, vocabulary, item.top_k, scratch, row);
            auto itself = [](u64 entry) { return entry; };
            u64 last = count <= item.top_k ? 0 : select<64>(candidates, count, item.top_k, scratch, itself, [](u64) { return 1ull; });
            __syncthreads();
            for (u32 index = threadIdx.x; index < count; index += kRowThreads) {
                u32 token = token_of_rank(candidates[index]);
                u64 weight = weigher.weight(row(token));
                candidates[index] = candidates[index] >= last && weight >= least ? weight_key(weight, token) : 0;
            }
            __syncthreads();
            total = sum_of(count, 1);
            return count;
        }
        bool is_nucleus_only = !(item.min_p > 0.0f);
        if (is_nucleus_only) {
            u64 own = 0;
            for (u32 block = threadIdx.x; block < blocks(); block += kRowThreads) own += block_sums[block];
            total = block_total(own, scratch);
            // All tokens lighter than this together weigh less than what may be left out.
            u64 spare = (total - needed_weight(item.top_p, total)) / vocabulary;
            least = spare > 1 ? spare : 1;
        }
        count = collect(
            candidates, vocabulary, scratch, [&](u32 block) { return weigher.weight(maxima[block]) >= least; },
            [&](u32 token) {
                u64 weight = weigher.weight(row(token));
                return weight >= least ? weight_key(weight, token) : 0;
            });
        if (!is_nucleus_only) total = sum_of(count, 1);
        return count;
    }

    /// The token drawn from those that the filters leave.
    VL_DEVICE u32 draw_from_kept(u64 random) const {
        u64 total;
        u32 count = collect_candidates(total);
        auto weight_of = [](u64 entry) { return entry >> kTokenBits; };
        u64 least_key = 1;
        if (item.top_p < 1.0f) {
            least_key = select<64>(candidates, count, needed_weight(item.top_p, total), scratch, [](u64 entry) { return entry; }, weight_of);
            total = sum_of(count, least_key);
        }
        // In the order of tokens, the first at which the sum of weights is above the target.
        u64 target = high_product(random, total);
        u64 found = select<24>(
            candidates, count, target + 1, scratch, [](u64 entry) { return entry & kTokenMask; },
            [&](u64 entry) { return entry >= least_key ? entry >> kTokenBits : 0; });
        return token_of_weight(found);
    }
};

VL_KERNEL(512, 1) void vl_sample_draw(const float* logits, u32 vocabulary, const SampleItem* items, const u32* masks, const float* maxima,
                                      const SliceResult* slices, const u64* block_sums, const u32* faults, u64* candidates, Drawn* drawn) {
    VL_SHARED(RowScratch, memory, 1);
    RowScratch& scratch = memory[0];
    grid_wait();
    grid_release();
    u32 sample = blockIdx.x;
    SampleItem item = items[sample];
    u32 slice_count = divide_up(vocabulary, kSlice);
    float max = minus_infinity();
    bool fault = false;
    for (u32 index = threadIdx.x; index < slice_count; index += kRowThreads) {
        SliceResult slice = slices[static_cast<u64>(sample) * slice_count + index];
        max = slice.max > max ? slice.max : max;
        fault = fault || slice.fault != 0;
    }
    max = block_max(max, scratch);
    u64 fault_count = block_total(fault, scratch);
    if (fault_count > 0 || max == minus_infinity() || faults[sample] != 0) {
        if (threadIdx.x == 0) drawn[sample] = Drawn{0, 0};
        return;
    }
    Row row(logits, vocabulary, item, masks);
    u32 blocks = divide_up(vocabulary, kBlock);
    Draw draw{row,
              item,
              vocabulary,
              maxima + static_cast<u64>(sample) * blocks,
              block_sums + static_cast<u64>(sample) * blocks,
              candidates + static_cast<u64>(sample) * vocabulary,
              Weigher{max, item.temperature},
              scratch};
    u32 token = 0;
    bool is_mine = threadIdx.x == 0;
    if (is_greedy(item)) {
        token = draw.first_of_largest();
    } else if (needs_sums(item, vocabulary) && item.top_p >= 1.0f) {
        is_mine = draw.draw_from_all(random_bits(item.seed, item.position), token);
    } else {
        token = draw.draw_from_kept(random_bits(item.seed, item.position));
    }
    if (is_mine) drawn[sample] = Drawn{token, 1};
}
