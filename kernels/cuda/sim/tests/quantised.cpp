// Projections of weights stored as codes, against the dequantised weights in f64; and all kernels against each other bit for bit.
#include "check.h"

#include "../../cu/linear_quantised_skinny.cu"
#undef MAKE
#undef MAKE_ENDING
#undef MAKE_ONE
#include "../../cu/linear_quantised_tiled.cu"

double fp8_value(u32 code) {
    double magnitude = (code >> 3 & 15) == 0 ? (code & 7) / 512.0 : std::ldexp(8 + (code & 7), static_cast<int>(code >> 3 & 15) - 10);
    return code >= 128 ? -magnitude : magnitude;
}

/// Codes as the kernels want them, and what they stand for.
template <typename Code>
struct Coded {
    std::vector<u8> codes;
    std::vector<u32> scales;
    std::vector<double> weight;

    Coded(u32 inputs, u32 outputs, u32 group) {
        constexpr bool is_int4 = Code::kCodes == 32;
        u32 groups = divide_up(inputs, group);
        std::vector<u32> zeros;
        for (u32 index = 0; index < groups * outputs; ++index) {
            // As from a 16-bit number.
            u32 bits = bits_of((std::abs(normal(0.1f)) + 0.01f) * (is_int4 ? 1.0f : 0.02f)) & 0xFFFFE000u;
            zeros.push_back(below(16));
            scales.push_back(is_int4 ? bits | zeros.back() : bits);
        }
        codes.resize(size_t{outputs} * inputs / (is_int4 ? 2 : 1));
        for (u32 row = 0; row < outputs; ++row) {
            for (u32 k = 0; k < inputs; ++k) {
                u32 at = k / group * outputs + row;
                double scale = float_of(is_int4 ? scales[at] & 0xFFFFFF00u : scales[at]);
                if (is_int4) {
                    u32 code = below(16);
                    // Of eight codes, those of even inputs first, from the lowest bits up.
                    u32 nibble = k % 8 / 2 + k % 2 * 4;
                    codes[(row * inputs + k / 8 * 8) / 2 + nibble / 2] |= static_cast<u8>(code << nibble % 2 * 4);
                    weight.push_back(scale * (static_cast<double>(code) - zeros[at]));
                } else {
                    u32 code = below(127) | below(2) << 7;
                    if (k % 5 == 0) code &= 0x87;
                    codes[row * inputs + k] = static_cast<u8>(code);
                    weight.push_back(scale * fp8_value(code));
                }
            }
        }
    }
};

template <typename T, typename Code>
struct Kernels;
#define KERNELS(name, T, code, Code)                                                                                            \
    template <>                                                                                                                 \
    struct Kernels<T, Code> {                                                                                                   \
        static constexpr decltype(&vl_linear_store_##name##_##code##_m8) skinny[3][2] = {                                      \
            {vl_linear_store_##name##_##code##_m8, vl_linear_store_##name##_##code##_m16},                                      \
            {vl_linear_add_##name##_##code##_m8, vl_linear_add_##name##_##code##_m16},                                          \
            {vl_linear_silu_##name##_##code##_m8, vl_linear_silu_##name##_##code##_m16}};                                       \
        static constexpr decltype(&vl_linear_store_##name##_##code##_t32) tiled[3][2] = {                                      \
            {vl_linear_store_##name##_##code##_t32, vl_linear_store_##name##_##code##_t64},                                     \
            {vl_linear_add_##name##_##code##_t32, vl_linear_add_##name##_##code##_t64},                                         \
            {vl_linear_silu_##name##_##code##_t32, vl_linear_silu_##name##_##code##_t64}};                                      \
    };
#define BOTH_CODES(name, T) KERNELS(name, T, int4, Int4) KERNELS(name, T, fp8, Fp8)
VL_HALVES(BOTH_CODES)

/// A way to compute: 8 or 16 for the skinny kernels, 32 or 64 for the tiled.
struct Way {
    u32 size, splits;
};

template <typename T, typename Code, typename Out>
void agrees(Ending ending, u32 tokens, u32 inputs, u32 outputs, u32 group, const std::vector<Way>& ways) {
    Coded<Code> coded(inputs, outputs, group);
    Exact<u8> codes(coded.codes);
    Exact<u32> scales(coded.scales);
    Exact<T> x(normals<T>(tokens * inputs));
    Exact<float> bias(normals<float>(outputs));
    std::vector<float> residual = normals<float>(tokens * outputs);
    auto sum = [&](u32 token, u32 row) {
        double sum = bias[row];
        for (u32 k = 0; k < inputs; ++k) sum += coded.weight[row * inputs + k] * widen(x[token * inputs + k]);
        return sum;
    };
    std::vector<double> expected;
    u32 width = ending == Ending::kSilu ? outputs / 2 : outputs;
    for (u32 index = 0; index < tokens * width; ++index) {
        u32 token = index / width, row = index % width;
        if (ending == Ending::kSilu) {
            double gate = sum(token, row / 8 * 16 + row % 8);
            expected.push_back(gate / (1 + std::exp(-gate)) * sum(token, row / 8 * 16 + row % 8 + 8));
        } else {
            expected.push_back(sum(token, row) + (ending == Ending::kAdd ? residual[index] : 0));
        }
    }
    std::vector<Out> first;
    u64 seed = 1;
    for (Way way : ways) {
        std::vector<Out> start = unwritten<Out>(tokens * width);
        if constexpr (sizeof(Out) == 4) {
            if (ending == Ending::kAdd) start = residual;
        }
        Exact<Out> out(start);
        int which = static_cast<int>(ending);
        if (way.size <= 16) {
            auto kernel = Kernels<T, Code>::skinny[which][way.size == 16];
            sim::launch({divide_up(outputs, 16)}, {256}, 0, seed++,
                        [&] { kernel(codes, scales, group, x, bias, out, tokens, inputs, outputs); });
        } else {
            auto kernel = Kernels<T, Code>::tiled[which][way.size == 64];
            u32 across = divide_up(tokens, way.size), tiles = across * divide_up(outputs, 128);
            Exact<float> workspace(unwritten<float>(size_t{tiles} * 8 * 128 * way.size));
            Exact<u32> counters(std::vector<u32>(tiles, 0));
            u32 bytes = 4 * (8192 + way.size * kRound<Code> * 2);
            sim::launch({across, divide_up(outputs, 128), way.splits}, {256}, bytes, seed++, [&] {
                kernel(codes, scales, group, x, bias, out, tokens, inputs, outputs, workspace, counters, way.splits);
            });
        }
        expect_close(out.read(), expected, sizeof(Out) == 4 ? 1e-5 : bound_of<Out>(), "a projection of codes");
        if (first.empty()) first = out.read();
        expect_same(out.read(), first, "a projection of codes by another kernel");
    }
}

template <typename T, typename Code>
void all(u32 tokens, u32 inputs, u32 outputs, u32 group, const std::vector<Way>& ways) {
    agrees<T, Code, float>(Ending::kStore, tokens, inputs, outputs, group, ways);
    agrees<T, Code, float>(Ending::kAdd, tokens, inputs, outputs, group, ways);
    if (outputs % 16 == 0) agrees<T, Code, T>(Ending::kSilu, tokens, inputs, outputs, group, ways);
}

int main() {
    std::vector<Way> few = {{8, 1}, {16, 1}, {32, 1}, {64, 8}}, some = {{16, 1}, {32, 4}, {64, 1}}, many = {{32, 2}, {64, 1}};
    all<Bf16, Int4>(3, 1280, 48, 128, few);
    all<F16, Int4>(8, 2208, 16, 128, few);
    all<Bf16, Fp8>(1, 1040, 37, 1040, few);
    all<F16, Fp8>(13, 768, 144, 128, some);
    all<Bf16, Int4>(16, 256, 132, 256, some);
    all<Bf16, Fp8>(70, 640, 160, 64, many);
    all<Bf16, Int4>(35, 1152, 64, 384, many);
    std::puts("quantised: ok");
}
