// Projections: every kernel and ending against sums in f64, and all kernels against each other bit for bit.
#include "check.h"

#include "../../cu/linear_skinny.cu"
#undef MAKE
#undef MAKE_ENDING
#undef MAKE_ONE
#include "../../cu/linear_tiled.cu"
#undef MAKE
#undef MAKE_ENDING
#undef MAKE_ONE
#include "../../cu/linear_f32.cu"

/// One projection and what it should make.
template <typename T>
struct Case {
    u32 tokens, inputs, outputs;
    bool has_bias;
    std::vector<T> weight, x;
    std::vector<float> bias, residual;

    Case(u32 tokens, u32 inputs, u32 outputs, bool has_bias)
        : tokens(tokens), inputs(inputs), outputs(outputs), has_bias(has_bias),
          weight(normals<T>(size_t{outputs} * inputs)), x(normals<T>(size_t{tokens} * inputs)),
          bias(normals<float>(outputs)), residual(normals<float>(size_t{tokens} * outputs)) {}

    double sum(u32 token, u32 output) const {
        double sum = has_bias ? bias[output] : 0;
        for (u32 k = 0; k < inputs; ++k) {
            sum += static_cast<double>(widen(weight[output * inputs + k])) * widen(x[token * inputs + k]);
        }
        return sum;
    }
    std::vector<double> expected(Ending ending) const {
        std::vector<double> out;
        for (u32 token = 0; token < tokens; ++token) {
            u32 count = ending == Ending::kSilu ? outputs / 2 : outputs;
            for (u32 index = 0; index < count; ++index) {
                if (ending == Ending::kSilu) {
                    u32 row = index / 8 * 16 + index % 8;
                    double gate = sum(token, row);
                    out.push_back(gate / (1 + std::exp(-gate)) * sum(token, row + 8));
                } else {
                    out.push_back(sum(token, index) + (ending == Ending::kAdd ? residual[token * outputs + index] : 0));
                }
            }
        }
        return out;
    }
};

enum class Way { kSkinny8, kSkinny16, kTiled32, kTiled64, kTiled128 };

template <typename T>
struct Kernels;
#define KERNELS(name, T)                                                                                                     \
    template <>                                                                                                              \
    struct Kernels<T> {                                                                                                      \
        static constexpr decltype(&vl_linear_store_##name##_m8) skinny[3][2] = {                                            \
            {vl_linear_store_##name##_m8, vl_linear_store_##name##_m16},                                                     \
            {vl_linear_add_##name##_m8, vl_linear_add_##name##_m16},                                                         \
            {vl_linear_silu_##name##_m8, vl_linear_silu_##name##_m16}};                                                      \
        static constexpr decltype(&vl_linear_store_##name##_t32) tiled[3][3] = {                                            \
            {vl_linear_store_##name##_t32, vl_linear_store_##name##_t64, vl_linear_store_##name##_t128},                     \
            {vl_linear_add_##name##_t32, vl_linear_add_##name##_t64, vl_linear_add_##name##_t128},                           \
            {vl_linear_silu_##name##_t32, vl_linear_silu_##name##_t64, vl_linear_silu_##name##_t128}};                       \
    };
VL_HALVES(KERNELS)

/// Runs one kernel over tokens `first..first + count` of a case. Results are f32 or T by the ending; both come back as bytes of floats.
template <typename T, typename Out>
std::vector<Out> run(const Case<T>& one, Ending ending, Way way, u32 splits, u64 seed, u32 first, u32 count) {
    u32 width = ending == Ending::kSilu ? one.outputs / 2 : one.outputs;
    Exact<T> weight(one.weight), x(std::vector<T>(one.x.begin() + first * one.inputs, one.x.begin() + (first + count) * one.inputs));
    Exact<float> bias(one.bias);
    float* bias_or_null = one.has_bias ? static_cast<float*>(bias) : nullptr;
    std::vector<Out> start = unwritten<Out>(size_t{count} * width);
    if constexpr (sizeof(Out) == 4) {
        if (ending == Ending::kAdd) start.assign(one.residual.begin() + first * width, one.residual.begin() + (first + count) * width);
    }
    Exact<Out> out(start);
    if (way == Way::kSkinny8 || way == Way::kSkinny16) {
        bool is_wide = way == Way::kSkinny16;
        auto kernel = Kernels<T>::skinny[static_cast<int>(ending)][is_wide];
        sim::launch({divide_up(one.outputs, is_wide ? 32 : 16)}, {256}, 0, seed,
                    [&] { kernel(weight, x, bias_or_null, out, count, one.inputs, one.outputs); });
    } else {
        u32 which = static_cast<u32>(way) - static_cast<u32>(Way::kTiled32);
        u32 t = 32u << which;
        auto kernel = Kernels<T>::tiled[static_cast<int>(ending)][which];
        u32 tiles = divide_up(count, t) * divide_up(one.outputs, 128);
        Exact<float> workspace(unwritten<float>(splits > 1 ? size_t{tiles} * 8 * 128 * t : 0));
        Exact<u32> counters(std::vector<u32>(splits > 1 ? tiles : 0, 0));
        sim::launch({divide_up(count, t), divide_up(one.outputs, 128), splits}, {256}, 4 * (128 + t) * 64 * 2, seed, [&] {
            kernel(weight, x, bias_or_null, out, count, one.inputs, one.outputs, workspace, counters, splits);
        });
        for (u32 counter : counters.read()) {
            if (counter != 0) wrong("a counter is left behind");
        }
    }
    return out.read();
}

template <typename T, typename Out>
void agrees(const Case<T>& one, Ending ending, const std::vector<std::pair<Way, u32>>& ways) {
    std::vector<double> expected = one.expected(ending);
    std::vector<Out> first;
    u64 seed = 1;
    for (auto [way, splits] : ways) {
        std::vector<Out> found = run<T, Out>(one, ending, way, splits, seed++, 0, one.tokens);
        // What is left in f32 is exact but for the order of sums.
        expect_close(found, expected, sizeof(Out) == 4 ? 1e-5 : bound_of<Out>(), "a projection");
        if (first.empty()) first = found;
        expect_same(found, first, "a projection by another kernel");
    }
}

template <typename T>
void all_endings(u32 tokens, u32 inputs, u32 outputs, bool has_bias, const std::vector<std::pair<Way, u32>>& ways) {
    Case<T> one(tokens, inputs, outputs, has_bias);
    agrees<T, float>(one, Ending::kStore, ways);
    agrees<T, float>(one, Ending::kAdd, ways);
    if (outputs % 16 == 0) agrees<T, T>(one, Ending::kSilu, ways);
}

/// A token's outputs are the same alone, among few and among many.
template <typename T>
void is_invariant(u32 inputs) {
    Case<T> one(70, inputs, 48, true);
    std::vector<float> whole = run<T, float>(one, Ending::kStore, Way::kTiled128, 1, 5, 0, 70);
    struct Part {
        Way way;
        u32 splits, first, count;
    };
    for (Part part : {Part{Way::kSkinny8, 1, 0, 1}, Part{Way::kSkinny8, 1, 62, 8}, Part{Way::kSkinny16, 1, 33, 13},
                      Part{Way::kTiled32, 4, 40, 30}, Part{Way::kTiled64, 8, 3, 67}}) {
        std::vector<float> found = run<T, float>(one, Ending::kStore, part.way, part.splits, 9, part.first, part.count);
        std::vector<float> same(whole.begin() + part.first * 48, whole.begin() + (part.first + part.count) * 48);
        expect_same(found, same, "tokens in another batch");
    }
}

void plain(u32 tokens, u32 inputs, u32 outputs) {
    Case<float> one(tokens, inputs, outputs, true);
    for (Ending ending : {Ending::kStore, Ending::kAdd, Ending::kSilu}) {
        if (ending == Ending::kSilu && outputs % 16 != 0) continue;
        auto kernel = ending == Ending::kStore ? vl_linear_store_f32 : ending == Ending::kAdd ? vl_linear_add_f32 : vl_linear_silu_f32;
        for (u64 seed : kSeeds) {
            Exact<float> weight(one.weight), x(one.x), bias(one.bias);
            Exact<float> out(ending == Ending::kAdd ? one.residual
                                                    : unwritten<float>(tokens * (ending == Ending::kSilu ? outputs / 2 : outputs)));
            sim::launch({divide_up(tokens, 32), divide_up(outputs, 64)}, {256}, 0, seed,
                        [&] { kernel(weight, x, bias, out, tokens, inputs, outputs); });
            expect_close(out.read(), one.expected(ending), 1e-5, "a projection in f32");
        }
    }
}

int main() {
    using W = Way;
    std::vector<std::pair<Way, u32>> few = {{W::kSkinny8, 1}, {W::kSkinny16, 1}, {W::kTiled32, 1}, {W::kTiled32, 8}};
    std::vector<std::pair<Way, u32>> some = {{W::kSkinny16, 1}, {W::kTiled32, 2}, {W::kTiled64, 1}, {W::kTiled128, 4}};
    std::vector<std::pair<Way, u32>> many = {{W::kTiled32, 1}, {W::kTiled64, 8}, {W::kTiled128, 1}};
    // K of one step, of whole parts, and with an odd rest; outputs below a tile and across one.
    all_endings<Bf16>(1, 64, 96, true, few);
    all_endings<Bf16>(8, 1032, 144, false, few);
    all_endings<Bf16>(5, 520, 21, true, few);
    all_endings<F16>(3, 776, 48, true, few);
    all_endings<Bf16>(16, 768, 160, true, some);
    all_endings<F16>(11, 264, 33, false, some);
    all_endings<Bf16>(131, 584, 144, true, many);
    // Long enough for the loop that asks nothing, also where the last part ends within a step.
    for (u32 inputs : {4096u, 4088u}) all_endings<Bf16>(1, inputs, 16, false, {{W::kSkinny8, 1}, {W::kTiled32, 8}});
    all_endings<Bf16>(9, 1744, 16, false, {{W::kSkinny16, 1}, {W::kTiled32, 8}});
    is_invariant<Bf16>(840);
    is_invariant<F16>(2304);
    plain(1, 64, 96);
    plain(37, 100, 80);
    plain(4, 1028, 77);
    std::puts("linear: ok");
}
