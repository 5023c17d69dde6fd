// The arithmetic of draws, the same as on the CPU bit for bit: correctly rounded f32 and f64 operations in a fixed order, and integer sums,
// which are exact in any order. So the same logits, seed and position give the same token on every device.
#pragma once

#include "device.h"

/// Logits whose largest is kept, so that later steps skip what cannot matter.
constexpr u32 kBlock = 64;
/// Logits of one block of threads in the passes over whole rows.
constexpr u32 kSlice = 4096;
constexpr u32 kSliceBlocks = kSlice / kBlock;
/// Threads of the kernels that finish one row each.
constexpr u32 kRowThreads = 512;
/// The weight of the most likely token.
constexpr u64 kFull = 1ull << 40;
/// Tokens are below 2^23, weights at most 2^40: both fit a word.
constexpr u32 kTokenBits = 23;
constexpr u64 kTokenMask = (1ull << kTokenBits) - 1;

VL_DEVICE float minus_infinity() { return float_of(0xFF800000u); }
VL_DEVICE float infinity() { return float_of(0x7F800000u); }
/// Neither NaN nor +infinity.
VL_DEVICE bool is_usable(float logit) { return logit < infinity(); }

/// exp(x) for x <= 0 with an error below two units in the last place; 0 below -87 and for NaN.
VL_DEVICE float exp_of_negative(float given) {
    constexpr float kRounder = 12582912.0f;
    bool in_range = given >= -87.0f;
    float x = in_range ? given : -87.0f;
    float rounded = __fadd_rn(__fmul_rn(x, 1.44269504f), kRounder);
    float exponent = __fsub_rn(rounded, kRounder);
    float rest = __fsub_rn(__fsub_rn(x, __fmul_rn(exponent, 0.6933594f)), __fmul_rn(exponent, -2.1219444e-4f));
    float series = 1.9875691e-4f;
    series = __fadd_rn(__fmul_rn(series, rest), 1.3982e-3f);
    series = __fadd_rn(__fmul_rn(series, rest), 8.333452e-3f);
    series = __fadd_rn(__fmul_rn(series, rest), 4.1665796e-2f);
    series = __fadd_rn(__fmul_rn(series, rest), 0.16666665f);
    series = __fadd_rn(__fmul_rn(series, rest), 0.5f);
    float power = __fadd_rn(__fadd_rn(__fmul_rn(series, __fmul_rn(rest, rest)), rest), 1.0f);
    float scale = float_of((bits_of(rounded) << 23) + (127u << 23));
    return in_range ? __fmul_rn(power, scale) : 0.0f;
}

/// A value of 0 to 1 in units of 1 / kFull, rounded to nearest.
VL_DEVICE u64 fixed_point(float value) {
    constexpr double kMantissa = 4503599627370496.0;
    return bits_of(__dadd_rn(__dmul_rn(static_cast<double>(value), 1099511627776.0), kMantissa)) & ((1ull << 52) - 1);
}

/// How logits become weights.
struct Weigher {
    float max, temperature;

    VL_DEVICE u64 weight(float logit) const {
        return fixed_point(exp_of_negative(__fdiv_rn(__fsub_rn(logit, max), temperature)));
    }
};

/// The smallest weight that is at least `share` of the full one, and at least 1.
VL_DEVICE u64 least_weight(float share) {
    u64 least = fixed_point(share > 0.0f ? (share < 1.0f ? share : 1.0f) : 0.0f);
    return least > 0 ? least : 1;
}

/// The weight that the nucleus must reach.
VL_DEVICE u64 needed_weight(float top_p, u64 total) {
    double wanted = __dmul_rn(static_cast<double>(top_p), static_cast<double>(total));
    u64 floor = static_cast<u64>(wanted);
    u64 needed = static_cast<double>(floor) < wanted ? floor + 1 : floor;
    needed = needed > 0 ? needed : 1;
    return needed < total ? needed : total;
}

/// 64 random bits for the token at `position` of a sequence drawn with `seed`: ten rounds of a counter-based generator.
VL_DEVICE u64 random_bits(u64 seed, u32 position) {
    u32 counter[4] = {position, 0, 0, 0};
    u32 key[2] = {static_cast<u32>(seed), static_cast<u32>(seed >> 32)};
    for (u32 round = 0; round < 10; ++round) {
        u64 first = static_cast<u64>(0xD2511F53u) * counter[0];
        u64 second = static_cast<u64>(0xCD9E8D57u) * counter[2];
        u32 before[2] = {counter[1], counter[3]};
        counter[0] = static_cast<u32>(second >> 32) ^ before[0] ^ key[0];
        counter[1] = static_cast<u32>(second);
        counter[2] = static_cast<u32>(first >> 32) ^ before[1] ^ key[1];
        counter[3] = static_cast<u32>(first);
        key[0] += 0x9E3779B9u;
        key[1] += 0xBB67AE85u;
    }
    return static_cast<u64>(counter[1]) << 32 | counter[0];
}

/// A number that orders as the logit does. The two zeros are equal.
VL_DEVICE u32 logit_rank(float logit) {
    u32 bits = bits_of(__fadd_rn(logit, 0.0f));
    return bits >> 31 == 0 ? bits | 0x80000000u : ~bits;
}

/// Scratch of the kernels that finish a row.
struct RowScratch {
    u64 bins[256];
    u64 sums[kRowThreads / kWarp];
    float maxima[kRowThreads / kWarp];
    u64 needed;
    u32 digit;
    u32 count;
};

/// The largest over a block of kRowThreads, in every thread.
VL_DEVICE float block_max(float value, RowScratch& scratch) {
    VL_UNROLL
    for (u32 distance = kWarp / 2; distance > 0; distance /= 2) {
        float other = shuffle_xor(value, distance);
        value = other > value ? other : value;
    }
    __syncthreads();
    if (threadIdx.x % kWarp == 0) scratch.maxima[threadIdx.x / kWarp] = value;
    __syncthreads();
    float max = minus_infinity();
    for (u32 warp = 0; warp < kRowThreads / kWarp; ++warp) max = scratch.maxima[warp] > max ? scratch.maxima[warp] : max;
    return max;
}

/// The sum over a block of kRowThreads, in every thread; `before` is that of the threads before this one.
VL_DEVICE u64 block_scan(u64 value, u64& before, RowScratch& scratch) {
    u64 running = value;
    u32 lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    VL_UNROLL
    for (u32 distance = 1; distance < kWarp; distance *= 2) {
        u64 below = shuffle_up(running, distance);
        if (lane >= distance) running += below;
    }
    __syncthreads();
    if (lane == kWarp - 1) scratch.sums[warp] = running;
    __syncthreads();
    u64 total = 0;
    before = running - value;
    for (u32 index = 0; index < kRowThreads / kWarp; ++index) {
        if (index < warp) before += scratch.sums[index];
        total += scratch.sums[index];
    }
    return total;
}

VL_DEVICE u64 block_total(u64 value, RowScratch& scratch) {
    u64 before;
    return block_scan(value, before, scratch);
}

/// bins[bin] += sum for all lanes of a warp.
VL_DEVICE void add_to_bins(u64* bins, u32 bin, u64 sum) {
    u32 adding = votes_of(sum > 0);
    if (adding == 0) return;
    u32 lane = threadIdx.x % kWarp;
    u32 first = shuffle(bin, lowest_bit(adding));
    if (votes_of(sum > 0 && bin != first) == 0) {
        VL_UNROLL
        for (u32 distance = kWarp / 2; distance > 0; distance /= 2) sum += shuffle_xor(sum, distance);
        if (lane == 0) atomicAdd(&bins[first], sum);
    } else if (sum > 0) {
        atomicAdd(&bins[bin], sum);
    }
}

/// The key of the entry with which the entries of the largest keys first measure `needed` together, found eight bits at a time. Keys differ
/// from each other, `needed` is at least 1 and at most the sum of all measures; entries that measure 0 are not there.
template <u32 kKeyBits, typename Key, typename Measure>
VL_DEVICE u64 select(const u64* entries, u32 count, u64 needed, RowScratch& scratch, const Key& key, const Measure& measure) {
    u64 prefix = 0;
    for (u32 done = 0; done < kKeyBits; done += 8) {
        u32 shift = kKeyBits - 8 - done;
        __syncthreads();
        for (u32 bin = threadIdx.x; bin < 256; bin += kRowThreads) scratch.bins[bin] = 0;
        __syncthreads();
        // Neighbours mostly share a bin, all of them in the first digits: each thread adds up runs, and a warp whose threads end with one
        // bin adds it once. Otherwise all would queue for one word.
        u32 bin = 0;
        u64 sum = 0;
        for (u32 index = threadIdx.x; index < count; index += kRowThreads) {
            u64 entry = entries[index];
            u64 own = key(entry);
            u64 measured = measure(entry);
            bool is_near = done == 0 || own >> (shift + 8) == prefix;
            if (!is_near || measured == 0) continue;
            u32 next = own >> shift & 255;
            if (next != bin) {
                if (sum > 0) atomicAdd(&scratch.bins[bin], sum);
                bin = next;
                sum = 0;
            }
            sum += measured;
        }
        add_to_bins(scratch.bins, bin, sum);
        __syncthreads();
        if (threadIdx.x < kWarp) {
            // Lane l has the eight bins below 256 - 8 l.
            u32 top = 256 - 8 * threadIdx.x;
            u64 own = 0;
            for (u32 bin = top - 8; bin < top; ++bin) own += scratch.bins[bin];
            u64 running = own;
            VL_UNROLL
            for (u32 distance = 1; distance < kWarp; distance *= 2) {
                u64 below = shuffle_up(running, distance);
                if (threadIdx.x >= distance) running += below;
            }
            if (running >= needed && running - own < needed) {
                u64 missing = needed - (running - own);
                u32 bin = top - 1;
                while (scratch.bins[bin] < missing) missing -= scratch.bins[bin--];
                scratch.digit = bin;
                scratch.needed = missing;
            }
        }
        __syncthreads();
        prefix = prefix << 8 | scratch.digit;
        needed = scratch.needed;
    }
    return prefix;
}

/// Appends what `make(index)` makes of the logits of all blocks of 64 that `wanted(block)` names to `entries`, in any order; 0 makes nothing.
/// Returns their number.
template <typename Wanted, typename Make>
VL_DEVICE u32 collect(u64* entries, u32 vocabulary, RowScratch& scratch, const Wanted& wanted, const Make& make) {
    __syncthreads();
    if (threadIdx.x == 0) scratch.count = 0;
    __syncthreads();
    u32 lane = threadIdx.x % kWarp;
    for (u32 block = threadIdx.x / kWarp; block < divide_up(vocabulary, kBlock); block += kRowThreads / kWarp) {
        if (!wanted(block)) continue;
        for (u32 half = 0; half < kBlock; half += kWarp) {
            u32 index = block * kBlock + half + lane;
            u64 entry = index < vocabulary ? make(index) : 0;
            u32 votes = votes_of(entry != 0);
            u32 start = 0;
            if (lane == 0 && votes != 0) start = atomicAdd(&scratch.count, count_bits(votes));
            start = shuffle(start, 0);
            if (entry != 0) entries[start + count_bits(votes & ((1u << lane) - 1))] = entry;
        }
    }
    __syncthreads();
    return scratch.count;
}

/// Orders by logit, of equals the lower token first.
VL_DEVICE u64 rank_key(float logit, u32 token) { return static_cast<u64>(logit_rank(logit)) << 32 | ~token; }
VL_DEVICE u32 token_of_rank(u64 key) { return ~static_cast<u32>(key); }

/// Orders by weight, of equals the lower token first.
VL_DEVICE u64 weight_key(u64 weight, u32 token) { return weight << kTokenBits | (kTokenMask - token); }
VL_DEVICE u32 token_of_weight(u64 key) { return static_cast<u32>(kTokenMask - (key & kTokenMask)); }

/// Appends the rank keys of a row's most likely tokens to `entries`: at least the `count` best of those above -infinity, and some more. The
/// count-th largest of the blocks' maxima is a bound that at least that many reach, so few blocks are read. `entries` first holds the
/// maxima's keys.
template <typename Logit>
VL_DEVICE u32 collect_best(u64* entries, const float* maxima, u32 vocabulary, u32 count, RowScratch& scratch, const Logit& logit) {
    u32 blocks = divide_up(vocabulary, kBlock);
    u32 bound = logit_rank(minus_infinity()) + 1;
    if (count < blocks) {
        for (u32 block = threadIdx.x; block < blocks; block += kRowThreads) entries[block] = rank_key(maxima[block], block);
        __syncthreads();
        u64 last = select<64>(entries, blocks, count, scratch, [](u64 entry) { return entry; }, [](u64) { return 1ull; });
        u32 rank = static_cast<u32>(last >> 32);
        bound = rank > bound ? rank : bound;
    }
    return collect(
        entries, vocabulary, scratch, [&](u32 block) { return logit_rank(maxima[block]) >= bound; },
        [&](u32 token) {
            float value = logit(token);
            return logit_rank(value) >= bound ? rank_key(value, token) : 0;
        });
}
