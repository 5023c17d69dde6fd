// Draws against the textbook: adjust a copy, sort everything, add up in order. Weights are made by formulas written out again here.
#include <algorithm>
#include <map>

#include "check.h"

#include "../../cu/logprobs.cu"
#include "../../cu/sampling.cu"

u64 weight_of(float logit, float max, float temperature) {
    float x = (logit - max) / temperature;
    if (!(x >= -87.0f)) return 0;
    float rounded = x * 1.44269504f + 12582912.0f;
    float exponent = rounded - 12582912.0f;
    float rest = (x - exponent * 0.6933594f) - exponent * -2.1219444e-4f;
    float series = 1.9875691e-4f;
    for (float next : {1.3982e-3f, 8.333452e-3f, 4.1665796e-2f, 0.16666665f, 0.5f}) series = series * rest + next;
    float power = series * (rest * rest) + rest + 1.0f;
    return static_cast<u64>(std::nearbyint(std::ldexp(static_cast<double>(power), static_cast<int>(exponent) + 40)));
}

/// One sample with its lists.
struct Wish {
    SampleItem item;
    std::vector<u32> history, banned;
    std::map<u32, float> bias;
    std::vector<u32> mask;
};

struct Row1 {
    std::vector<float> logits;
    float max;
};

Row1 adjusted(const std::vector<float>& logits, const Wish& wish) {
    Row1 row{logits, -INFINITY};
    u32 vocabulary = static_cast<u32>(logits.size());
    for (u32 token : wish.banned) {
        if (token < vocabulary) row.logits[token] = -INFINITY;
    }
    for (auto [token, bias] : wish.bias) {
        if (token < vocabulary) row.logits[token] += bias;
    }
    std::map<u32, std::pair<bool, u32>> counts;
    for (u32 index = 0; index < wish.history.size(); ++index) {
        bool is_prompt = index < wish.item.prompt_tokens;
        if (is_prompt && wish.item.repetition == 1.0f) continue;
        if (wish.history[index] >= vocabulary) continue;
        counts[wish.history[index]].second += !is_prompt;
    }
    for (auto [token, count] : counts) {
        float& logit = row.logits[token];
        logit = logit > 0 ? logit / wish.item.repetition : logit * wish.item.repetition;
        logit = logit - wish.item.frequency * static_cast<float>(count.second);
        logit = logit - (count.second > 0 ? wish.item.presence : 0.0f);
    }
    for (u32 token = 0; token < vocabulary && !wish.mask.empty(); ++token) {
        bool allowed = token / 32 < wish.mask.size() && (wish.mask[token / 32] >> token % 32 & 1);
        if (!allowed) row.logits[token] = -INFINITY;
    }
    for (float logit : row.logits) row.max = std::max(row.max, logit);
    return row;
}

/// The token, or kNone.
u32 drawn_by_sorting(const std::vector<float>& logits, const Wish& wish) {
    for (float logit : logits) {
        if (!(logit < INFINITY)) return kNone;
    }
    Row1 row = adjusted(logits, wish);
    if (row.max == -INFINITY) return kNone;
    std::vector<u32> order;
    for (u32 token = 0; token < logits.size(); ++token) {
        if (row.logits[token] > -INFINITY) order.push_back(token);
    }
    std::stable_sort(order.begin(), order.end(), [&](u32 a, u32 b) { return row.logits[a] > row.logits[b]; });
    const SampleItem& item = wish.item;
    if (!(item.temperature > 0)) return order[0];
    auto weight = [&](u32 token) { return weight_of(row.logits[token], row.max, item.temperature); };
    bool cuts = item.top_k > 0 && item.top_k < logits.size();
    if (cuts && order.size() > item.top_k) order.resize(item.top_k);
    u64 least = std::max<u64>(1, static_cast<u64>(std::nearbyint(std::ldexp(static_cast<double>(std::min(item.min_p, 1.0f)), 40))));
    order.erase(std::remove_if(order.begin(), order.end(), [&](u32 token) { return weight(token) < least; }), order.end());
    std::stable_sort(order.begin(), order.end(), [&](u32 a, u32 b) { return weight(a) != weight(b) ? weight(a) > weight(b) : a < b; });
    u64 total = 0;
    for (u32 token : order) total += weight(token);
    if (item.top_p < 1) {
        u64 needed = static_cast<u64>(std::ceil(static_cast<double>(item.top_p) * static_cast<double>(total)));
        needed = std::min(std::max<u64>(needed, 1), total);
        u64 sum = 0;
        size_t count = 0;
        while (sum < needed) sum += weight(order[count++]);
        order.resize(count);
        total = sum;
    }
    std::sort(order.begin(), order.end());
    u64 target = static_cast<u64>((static_cast<unsigned __int128>(random_bits(item.seed, item.position)) * total) >> 64);
    for (u32 token : order) {
        if (target < weight(token)) return token;
        target -= weight(token);
    }
    wrong("the oracle drew nothing");
}

struct Result {
    std::vector<Drawn> drawn;
    std::vector<LogprobResult> results;
    std::vector<TokenLogprob> tops;
};

Result run(const std::vector<float>& logits, u32 vocabulary, std::vector<Wish> wishes, const std::vector<LogprobAsk>& asks, u64 seed) {
    u32 count = static_cast<u32>(wishes.size()), asked = static_cast<u32>(asks.size());
    std::vector<SampleItem> all;
    std::vector<u32> history, banned, bias_tokens, masks;
    std::vector<float> bias_values;
    for (Wish& wish : wishes) {
        SampleItem& item = wish.item;
        item.history_start = static_cast<u32>(history.size());
        item.history_count = static_cast<u32>(wish.history.size());
        history.insert(history.end(), wish.history.begin(), wish.history.end());
        item.banned_start = static_cast<u32>(banned.size());
        item.banned_count = static_cast<u32>(wish.banned.size());
        banned.insert(banned.end(), wish.banned.begin(), wish.banned.end());
        item.bias_start = static_cast<u32>(bias_tokens.size());
        item.bias_count = static_cast<u32>(wish.bias.size());
        for (auto [token, bias] : wish.bias) {
            bias_tokens.push_back(token);
            bias_values.push_back(bias);
        }
        item.mask_start = wish.mask.empty() ? kNone : static_cast<u32>(masks.size());
        item.mask_words = static_cast<u32>(wish.mask.size());
        masks.insert(masks.end(), wish.mask.begin(), wish.mask.end());
        all.push_back(item);
    }
    u32 blocks = divide_up(vocabulary, 64), slices = divide_up(vocabulary, 4096);
    Exact<float> row(logits), bias(bias_values), banned_undo(unwritten<float>(banned.size())), bias_undo(unwritten<float>(bias_values.size()));
    Exact<float> history_undo(unwritten<float>(history.size())), maxima(unwritten<float>(count * blocks)), ask_maxima(unwritten<float>(asked * blocks));
    Exact<SampleItem> items(all);
    Exact<u32> past(history), no(banned), biased(bias_tokens), mask(masks), counts(std::vector<u32>(count * vocabulary, 0));
    Exact<u32> applied(unwritten<u32>(history.size())), faults(unwritten<u32>(count));
    Exact<SliceResult> peaks(unwritten<SliceResult>(count * slices));
    Exact<u64> sums(unwritten<u64>(count * blocks)), candidates(unwritten<u64>(count * vocabulary)), ask_candidates(unwritten<u64>(asked * vocabulary));
    Exact<Drawn> drawn(unwritten<Drawn>(count));
    Exact<LogprobAsk> questions(asks);
    Exact<LogprobResult> results(unwritten<LogprobResult>(asked));
    Exact<TokenLogprob> tops(unwritten<TokenLogprob>(asked * 20));
    sim::launch({count}, {256}, 0, seed, [&] {
        vl_sample_adjust(row, vocabulary, items, past, no, biased, bias, counts, banned_undo, bias_undo, history_undo, applied, faults);
    });
    sim::launch({slices, count}, {256}, 0, seed, [&] { vl_sample_scan(row, vocabulary, items, mask, maxima, peaks); });
    sim::launch({slices, count}, {256}, 0, seed, [&] { vl_sample_weigh(row, vocabulary, items, mask, peaks, sums); });
    sim::launch({count}, {512}, 0, seed,
                [&] { vl_sample_draw(row, vocabulary, items, mask, maxima, peaks, sums, faults, candidates, drawn); });
    sim::launch({count}, {256}, 0, seed, [&] {
        vl_sample_undo(row, vocabulary, items, past, no, biased, banned_undo, bias_undo, history_undo, applied);
    });
    expect_same(row.read(), logits, "logits after all is undone");
    for (u32 left : counts.read()) {
        if (left != 0) wrong("a count is left behind");
    }
    if (asked > 0) {
        sim::launch({asked}, {512}, 0, seed, [&] {
            vl_logprobs(row, vocabulary, questions, reinterpret_cast<DrawnToken*>(static_cast<Drawn*>(drawn)), ask_candidates, ask_maxima, results,
                        tops, 20);
        });
    }
    return {drawn.read(), results.read(), tops.read()};
}

Wish random_wish(u32 vocabulary, u32 row) {
    Wish wish{};
    wish.item.seed = (static_cast<u64>(generator()()) << 32) | generator()();
    wish.item.row = row;
    wish.item.position = below(100000);
    wish.item.temperature = below(4) == 0 ? 0.0f : 0.2f + static_cast<float>(below(20)) / 10;
    wish.item.top_p = below(2) == 0 ? 1.0f : static_cast<float>(below(100)) / 100;
    wish.item.top_k = below(2) == 0 ? 0 : 1 + below(vocabulary + 5);
    if (below(2) == 0) wish.item.top_k %= 60;
    wish.item.min_p = below(3) == 0 ? static_cast<float>(below(100)) / 300 : 0.0f;
    wish.item.repetition = below(2) == 0 ? 1.0f : 1.3f;
    wish.item.frequency = below(2) == 0 ? 0.0f : 0.4f;
    wish.item.presence = below(2) == 0 ? 0.0f : -0.7f;
    if (below(2) == 0) {
        for (u32 index = below(70); index > 0; --index) wish.history.push_back(below(vocabulary + 3));
        wish.item.prompt_tokens = below(40);
    }
    for (u32 index = below(4); index > 0; --index) wish.banned.push_back(below(vocabulary + 2));
    std::sort(wish.banned.begin(), wish.banned.end());
    for (u32 index = below(5); index > 0; --index) wish.bias[below(vocabulary + 2)] = normal(3);
    if (below(3) == 0) {
        wish.mask.resize(divide_up(vocabulary, 32) - below(2));
        for (u32& word : wish.mask) word = generator()() & generator()();
    }
    return wish;
}

void draws(u32 vocabulary, bool has_ties) {
    u32 rows = 10;
    std::vector<float> logits(rows * vocabulary);
    for (float& logit : logits) {
        logit = has_ties ? static_cast<float>(below(24)) / 4 - 3 : normal(3);
        if (below(50) == 0) logit = -INFINITY;
    }
    std::vector<Wish> wishes;
    for (u32 row = 0; row < rows; ++row) wishes.push_back(random_wish(vocabulary, row));
    // Spoiled rows, and one in which nothing is possible.
    logits[1 * vocabulary + vocabulary - 1] = NAN;
    logits[2 * vocabulary + vocabulary / 2] = INFINITY;
    for (u32 token = 0; token < vocabulary; ++token) logits[3 * vocabulary + token] = -INFINITY;
    for (u64 seed : kSeeds) {
        Result found = run(logits, vocabulary, wishes, {}, seed);
        for (u32 row = 0; row < rows; ++row) {
            std::vector<float> own(logits.begin() + row * vocabulary, logits.begin() + (row + 1) * vocabulary);
            u32 expected = drawn_by_sorting(own, wishes[row]);
            Drawn drawn = found.drawn[row];
            if (drawn.ok != (expected != kNone) || (drawn.ok && drawn.token != expected)) {
                const SampleItem& item = wishes[row].item;
                wrong("drew " + std::to_string(drawn.token) + " ok " + std::to_string(drawn.ok) + ", not " + std::to_string(expected) + " in row " +
                      std::to_string(row) + " of " + std::to_string(vocabulary) + ": temperature " + std::to_string(item.temperature) + " top_k " +
                      std::to_string(item.top_k) + " top_p " + std::to_string(item.top_p) + " min_p " + std::to_string(item.min_p));
            }
        }
    }
}

void probabilities(u32 vocabulary) {
    std::vector<float> logits(3 * vocabulary);
    for (float& logit : logits) logit = static_cast<float>(below(64)) / 8;
    logits[vocabulary + 5] = -INFINITY;
    logits[2 * vocabulary + 5] = NAN;
    std::vector<Wish> wishes(1);
    wishes[0].item = SampleItem{};
    wishes[0].item.repetition = 1;
    wishes[0].banned = {3};
    std::vector<LogprobAsk> asks = {{0, 7, 20, kNone}, {1, 5, 3, kNone}, {2, 1, 0, kNone}, {0, 0, 0, 0}, {1, vocabulary, 0, kNone}, {1, 9, 1, kNone}};
    Result found = run(logits, vocabulary, wishes, asks, 2);
    for (u32 index = 0; index < asks.size(); ++index) {
        LogprobAsk ask = asks[index];
        if (ask.drawn_index != kNone) ask.target = found.drawn[ask.drawn_index].token;
        LogprobResult result = found.results[index];
        bool is_good = ask.row != 2 && ask.target < vocabulary;
        if (result.ok != is_good) wrong("whether there is a probability");
        if (!is_good) continue;
        const float* row = &logits[ask.row * vocabulary];
        double sum = 0;
        std::vector<u32> order(vocabulary);
        for (u32 token = 0; token < vocabulary; ++token) {
            sum += std::exp(static_cast<double>(row[token]));
            order[token] = token;
        }
        std::stable_sort(order.begin(), order.end(), [&](u32 a, u32 b) { return row[a] > row[b]; });
        auto logprob = [&](u32 token) { return row[token] - std::log(sum); };
        auto differs = [](double a, double b) { return !(std::abs(a - b) < 1e-5 || (a == b)); };
        if (differs(result.logprob, logprob(ask.target))) wrong("a log-probability");
        if (order[result.rank - 1] != ask.target) wrong("a rank");
        if (result.top_count != smaller(ask.top, vocabulary)) wrong("how many are most likely");
        for (u32 place = 0; place < result.top_count; ++place) {
            TokenLogprob top = found.tops[index * 20 + place];
            if (top.token != order[place] || differs(top.logprob, logprob(order[place]))) wrong("a most likely token");
        }
    }
}

int main() {
    for (u32 round = 0; round < 6; ++round) {
        draws(70 + 13 * round, round % 2 == 0);
        draws(5000 + 700 * round, round % 2 == 1);
    }
    probabilities(300);
    probabilities(9001);
    std::puts("sampling: ok");
}
