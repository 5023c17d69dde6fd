// The CPU twin of each instruction wrapped in ../cu/device.h, with the same meaning and the same rounding where the chip's is known.
// Sums inside a matrix product are made in double and rounded once: the chip's own order within one instruction is not published.
#pragma once

inline void grid_wait() {}
inline void grid_wait_behind_loads(u32) {}
inline void grid_release() {}
inline void __threadfence() {}
inline void __syncwarp() {
    u8 nothing = 0;
    sim::meet("syncwarp", &nothing, sizeof(nothing));
}

inline u32 bits_of(float value) {
    u32 bits;
    std::memcpy(&bits, &value, sizeof(bits));
    return bits;
}
inline u64 bits_of(double value) {
    u64 bits;
    std::memcpy(&bits, &value, sizeof(bits));
    return bits;
}
inline float float_of(u32 bits) {
    float value;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
}

inline float __fadd_rn(float left, float right) { return left + right; }
inline float __fsub_rn(float left, float right) { return left - right; }
inline float __fmul_rn(float left, float right) { return left * right; }
inline float __fdiv_rn(float left, float right) { return left / right; }
inline float __fsqrt_rn(float value) { return std::sqrt(value); }
inline float __fmaf_rn(float left, float right, float added) { return std::fmaf(left, right, added); }
inline double __dadd_rn(double left, double right) { return left + right; }
inline double __dmul_rn(double left, double right) { return left * right; }
inline double __fma_rn(double left, double right, double added) { return std::fma(left, right, added); }

inline u32 atomicAdd(u32* at, u32 by) {
    u32 before = *at;
    *at += by;
    return before;
}
inline u64 atomicAdd(u64* at, u64 by) {
    u64 before = *at;
    *at += by;
    return before;
}
inline u32 atomicExch(u32* at, u32 value) {
    u32 before = *at;
    *at = value;
    return before;
}
inline u32 atomicOr(u32* at, u32 value) {
    u32 before = *at;
    *at |= value;
    return before;
}
inline u32 atomicMin(u32* at, u32 value) {
    u32 before = *at;
    if (value < before) *at = value;
    return before;
}

inline float load_fresh(const float* from) { return *from; }

inline void check_aligned(const void* pointer) {
    if (reinterpret_cast<uintptr_t>(pointer) % 16 != 0) sim::fail("16 bytes at an address that is no multiple of 16");
}

inline Words load_once(const void* from) {
    check_aligned(from);
    return *static_cast<const Words*>(from);
}

// A copy may happen at any time between its beginning and the wait. Here it happens last, and the place is poison meanwhile.
inline void copy_async(void* to, const void* from, bool valid) {
    check_aligned(to);
    if (valid) {
        check_aligned(from);
        volatile u8 probe = static_cast<const u8*>(from)[0] ^ static_cast<const u8*>(from)[15];
        (void)probe;
    }
    std::memset(to, sim::kPoison, 16);
    sim::world.running->open.push_back({to, from, valid});
}
inline void copy_commit() {
    sim::Fiber& fiber = *sim::world.running;
    fiber.groups.push_back(std::move(fiber.open));
    fiber.open.clear();
}
template <int kPending>
inline void copy_wait() {
    auto& groups = sim::world.running->groups;
    while (groups.size() > static_cast<size_t>(kPending)) {
        for (const sim::Copy& copy : groups.front()) {
            if (copy.valid) {
                std::memcpy(copy.to, copy.from, 16);
            } else {
                std::memset(copy.to, 0, 16);
            }
        }
        groups.erase(groups.begin());
    }
}

inline void load_matrices(u32 (&out)[4], const void* row) {
    check_aligned(row);
    auto slots = sim::meet("ldmatrix", &row, sizeof(row));
    u32 lane = sim::world.running->index % 32;
    for (u32 matrix = 0; matrix < 4; ++matrix) {
        const u8* start;
        std::memcpy(&start, slots[8 * matrix + lane / 4], sizeof(start));
        std::memcpy(&out[matrix], start + lane % 4 * 4, 4);
    }
}
inline void load_matrices_transposed(u32 (&out)[4], const void* row) {
    check_aligned(row);
    auto slots = sim::meet("ldmatrix.trans", &row, sizeof(row));
    u32 lane = sim::world.running->index % 32;
    for (u32 matrix = 0; matrix < 4; ++matrix) {
        u16 halves[2];
        for (u32 half = 0; half < 2; ++half) {
            const u8* start;
            std::memcpy(&start, slots[8 * matrix + lane % 4 * 2 + half], sizeof(start));
            std::memcpy(&halves[half], start + lane / 4 * 2, 2);
        }
        out[matrix] = halves[0] | static_cast<u32>(halves[1]) << 16;
    }
}

inline float widen_half(u16 bits) {
    _Float16 half;
    std::memcpy(&half, &bits, sizeof(half));
    return static_cast<float>(half);
}
inline u16 round_to(float value, Bf16*) {
    u32 bits = bits_of(value);
    if (std::isnan(value)) return 0x7FFF;
    return static_cast<u16>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}
inline u16 round_to(float value, F16*) {
    _Float16 half = static_cast<_Float16>(value);
    u16 bits;
    std::memcpy(&bits, &half, sizeof(bits));
    return bits;
}
inline float widen_bits(u16 bits, Bf16*) { return float_of(static_cast<u32>(bits) << 16); }
inline float widen_bits(u16 bits, F16*) { return widen_half(bits); }

template <typename T>
inline u32 pack(float low, float high, T) {
    T* type = nullptr;
    return round_to(low, type) | static_cast<u32>(round_to(high, type)) << 16;
}

/// The sixteen elements of a row of `a`, or of a column of `b`, from the words `low` and `high` of four neighbouring lanes.
template <typename T>
__attribute__((no_sanitize("address"))) inline void read_sixteen(double (&out)[16], const u8 (*slots)[sim::kSlotBytes], u32 first_lane,
                                                                u32 low, u32 high) {
    for (u32 k = 0; k < 16; ++k) {
        u16 bits;
        std::memcpy(&bits, slots[first_lane + k % 8 / 2] + (k < 8 ? low : high) * 4 + k % 2 * 2, 2);
        out[k] = widen_bits(bits, static_cast<T*>(nullptr));
    }
}

template <typename T>
__attribute__((no_sanitize("address"))) inline void multiply_add(float (&sums)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1, T) {
    u32 mine[6] = {a0, a1, a2, a3, b0, b1};
    auto slots = sim::meet("mma", mine, sizeof(mine));
    u32 lane = sim::world.running->index % 32;
    double rows[2][16], columns[2][16];
    for (u32 half = 0; half < 2; ++half) {
        read_sixteen<T>(rows[half], slots, lane / 4 * 4, half, 2 + half);
        read_sixteen<T>(columns[half], slots, (lane % 4 * 2 + half) * 4, 4, 5);
    }
    for (u32 element = 0; element < 4; ++element) {
        double sum = sums[element];
        for (u32 k = 0; k < 16; ++k) sum += rows[element / 2][k] * columns[element % 2][k];
        sums[element] = static_cast<float>(sum);
    }
}

template <typename T>
inline u32 multiply_add_pair(u32 a, u32 b, u32 c, T) {
    T* type = nullptr;
    u32 sums = 0;
    for (u32 half = 0; half < 32; half += 16) {
        double product = static_cast<double>(widen_bits(static_cast<u16>(a >> half), type)) * widen_bits(static_cast<u16>(b >> half), type);
        // Exact in double for the numbers this is used with.
        float sum = static_cast<float>(product + widen_bits(static_cast<u16>(c >> half), type));
        sums |= static_cast<u32>(round_to(sum, type)) << half;
    }
    return sums;
}

inline float power_of_two(float x) { return std::exp2(x); }

template <typename V>
inline V lane_value(const char* what, V value, u32 lane) {
    auto slots = sim::meet(what, &value, sizeof(value));
    V found;
    std::memcpy(&found, slots[lane % 32], sizeof(found));
    return found;
}
template <typename V>
inline V shuffle_xor(V value, u32 mask) {
    return lane_value("shuffle.xor", value, (sim::world.running->index % 32) ^ mask);
}
template <typename V>
inline V shuffle_up(V value, u32 by) {
    u32 lane = sim::world.running->index % 32;
    return lane_value("shuffle.up", value, lane < by ? lane : lane - by);
}
template <typename V>
inline V shuffle(V value, u32 lane) {
    return lane_value("shuffle", value, lane);
}
inline u32 votes_of(bool value) {
    u8 mine = value;
    auto slots = sim::meet("ballot", &mine, sizeof(mine));
    u32 votes = 0;
    for (u32 lane = 0; lane < 32; ++lane) votes |= static_cast<u32>(slots[lane][0] != 0) << lane;
    return votes;
}
inline u32 count_bits(u32 bits) { return static_cast<u32>(__builtin_popcount(bits)); }
inline u32 lowest_bit(u32 bits) { return static_cast<u32>(__builtin_ctz(bits)); }
/// (a & b) | c in one instruction.
inline u32 and_or(u32 a, u32 b, u32 c) { return (a & b) | c; }
/// Four bytes of `word`, or zeros where the selector's digit is 4.
inline u32 pick_bytes(u32 word, u32 selector) {
    u32 out = 0;
    for (u32 byte = 0; byte < 4; ++byte) {
        u32 digit = selector >> 4 * byte & 15;
        if (digit < 4) out |= (word >> 8 * digit & 0xFF) << 8 * byte;
    }
    return out;
}
inline u64 high_product(u64 left, u64 right) {
    return static_cast<u64>((static_cast<unsigned __int128>(left) * right) >> 64);
}
