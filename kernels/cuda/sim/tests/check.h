// What all simulator tests share: numbers, arrays with bounds of their own, and comparisons.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "../../cu/device.h"

/// Thread orders that each case is run in.
constexpr u64 kSeeds[] = {1, 2, 3};

inline std::mt19937& generator() {
    static std::mt19937 made(20240607);
    return made;
}
inline float normal(float deviation = 1.0f) { return std::normal_distribution<float>(0.0f, deviation)(generator()); }
inline u32 below(u32 bound) { return static_cast<u32>(generator()() % bound); }

template <typename T>
T made_of(float value) {
    T out;
    narrow(value, out);
    return out;
}

template <typename T>
std::vector<T> normals(size_t count, float deviation = 1.0f) {
    std::vector<T> values(count);
    for (T& value : values) value = made_of<T>(normal(deviation));
    return values;
}

/// An array whose every byte is poison: what a kernel does not write is not a number.
template <typename T>
std::vector<T> unwritten(size_t count) {
    std::vector<T> values(count);
    std::memset(static_cast<void*>(values.data()), sim::kPoison, count * sizeof(T));
    return values;
}

/// A copy of exactly this size, so that AddressSanitizer sees the first byte beyond it.
template <typename T>
struct Exact {
    explicit Exact(const std::vector<T>& values) : bytes(new T[values.size()]), count(values.size()) {
        if (count > 0) std::memcpy(static_cast<void*>(bytes.get()), values.data(), count * sizeof(T));
    }
    operator T*() { return bytes.get(); }
    std::vector<T> read() const { return std::vector<T>(bytes.get(), bytes.get() + count); }
    std::unique_ptr<T[]> bytes;
    size_t count;
};

[[noreturn]] inline void wrong(const std::string& what) {
    std::fprintf(stderr, "wrong: %s\n", what.c_str());
    std::exit(1);
}

/// The length of the difference over the length of what is expected; not a number when either holds one.
template <typename T>
double relative_l2(const std::vector<T>& found, const std::vector<double>& expected) {
    if (found.size() != expected.size()) wrong("lengths differ");
    double difference = 0, length = 0;
    for (size_t index = 0; index < found.size(); ++index) {
        double delta = widen(found[index]) - expected[index];
        difference += delta * delta;
        length += expected[index] * expected[index];
    }
    return difference == 0 ? 0 : std::sqrt(difference / length);
}

template <typename T>
constexpr double bound_of() {
    return sizeof(T) == 4 ? 1e-5 : 5e-3;
}

template <typename T>
void expect_close(const std::vector<T>& found, const std::vector<double>& expected, double bound, const std::string& what) {
    double distance = relative_l2(found, expected);
    if (!(distance <= bound)) wrong(what + ": relative distance " + std::to_string(distance));
}

template <typename T>
void expect_same(const std::vector<T>& found, const std::vector<T>& expected, const std::string& what) {
    if (found.size() != expected.size()) wrong(what + ": lengths differ");
    if (!found.empty() && std::memcmp(found.data(), expected.data(), found.size() * sizeof(T)) != 0) {
        size_t index = 0;
        while (std::memcmp(&found[index], &expected[index], sizeof(T)) == 0) ++index;
        wrong(what + ": other bits at " + std::to_string(index) + " of " + std::to_string(found.size()));
    }
}
