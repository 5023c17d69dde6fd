// What all kernels stand on: number types, loads and copies, and the few instructions that C++ has no word for. Every one of
// these has a twin in ../sim/twins.h that does the same on a CPU, so that the kernels themselves compile for both.
#pragma once

#include "words.h"
#ifdef VL_SIM
#include "../sim/sim.h"
#else

#define VL_DEVICE __device__ __forceinline__
#define VL_KERNEL(threads, blocks) extern "C" __global__ __launch_bounds__(threads, blocks)
#define VL_SHARED(type, name, count) __shared__ __align__(16) type name[count]
#define VL_SHARED_DYNAMIC(name) extern __shared__ __align__(128) u8 name[]
#define VL_UNROLL _Pragma("unroll")

#endif

constexpr u32 kWarp = 32;
constexpr u32 kAllLanes = 0xFFFFFFFFu;
constexpr u32 kNone = 0xFFFFFFFFu;
/// Tokens of a KV block.
constexpr u32 kBlockTokens = 16;

VL_DEVICE constexpr u32 divide_up(u32 value, u32 by) { return (value + by - 1) / by; }
VL_DEVICE constexpr u32 smaller(u32 left, u32 right) { return left < right ? left : right; }
VL_DEVICE constexpr u32 larger(u32 left, u32 right) { return left > right ? left : right; }

#ifndef VL_SIM

/// Waits until the kernel before this one in the stream is done and its writes are seen. Every kernel calls it before its first
/// read of an activation; so "done" holds of all kernels before that one too. No kernel: returns at once.
VL_DEVICE void grid_wait() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/// The same for a kernel that has begun to load weights: those loads stay in front of the wait, because it is in a branch of its own. `work` is
/// what the kernel has to do: where that is 0, there is nothing to wait for.
VL_DEVICE void grid_wait_behind_loads(u32 work) {
#if __CUDA_ARCH__ >= 900
    asm volatile(
        "{\n"
        ".reg .pred none;\n"
        "setp.eq.u32 none, %0, 0;\n"
        "@none bra skipped;\n"
        "griddepcontrol.wait;\n"
        "skipped:\n"
        "}" ::"r"(work)
        : "memory");
#endif
}

/// Lets the next kernel's blocks start where there is room: they may read weights, and wait.
VL_DEVICE void grid_release() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/// A load of weights: read once, so they are kept out of the first cache.
VL_DEVICE Words load_once(const void* from) {
    Words words;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words.x), "=r"(words.y), "=r"(words.z), "=r"(words.w)
                 : "l"(from));
    return words;
}

/// A load of what blocks of other processors have written in this same kernel.
VL_DEVICE float load_fresh(const float* from) {
    float value;
    asm volatile("ld.global.cg.f32 %0, [%1];" : "=f"(value) : "l"(from) : "memory");
    return value;
}

VL_DEVICE u32 shared_address(const void* pointer) { return static_cast<u32>(__cvta_generic_to_shared(pointer)); }

/// Begins a copy of 16 bytes to shared memory; zeros when `valid` is false, and then nothing is read.
VL_DEVICE void copy_async(void* to, const void* from, bool valid) {
    u32 bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(bytes)
                 : "memory");
}

/// Ends a group of this thread's copies.
VL_DEVICE void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

/// Waits until at most `kPending` of this thread's groups are under way. Other threads see the copies after a barrier.
template <int kPending>
VL_DEVICE void copy_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

/// Four 8x8 matrices of 16-bit elements. Lane `8 i + r` names row `r` of matrix `i`; lane `l` gets elements `2 (l % 4)` and the next
/// of row `l / 4` of each.
VL_DEVICE void load_matrices(u32 (&out)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(shared_address(row))
                 : "memory");
}

/// The same with each matrix transposed.
VL_DEVICE void load_matrices_transposed(u32 (&out)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(shared_address(row))
                 : "memory");
}

/// `sums += a · b` for a 16x16 `a` and a 16x8 `b`, both rows along k. With g = lane / 4 and t = lane % 4: `a` is (g, 2t..), (g + 8, 2t..),
/// (g, 2t + 8..), (g + 8, 2t + 8..); `b` is (k 2t.., column g), (k 2t + 8.., column g); `sums` is (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1).
VL_DEVICE void multiply_add(float (&sums)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1, Bf16) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
VL_DEVICE void multiply_add(float (&sums)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1, F16) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

VL_DEVICE u32 bits_of(float value) { return __float_as_uint(value); }
VL_DEVICE float float_of(u32 bits) { return __uint_as_float(bits); }
VL_DEVICE u64 bits_of(double value) { return static_cast<u64>(__double_as_longlong(value)); }

/// Two values rounded to nearest even, `low` in the low half.
VL_DEVICE u32 pack(float low, float high, Bf16) {
    u32 packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}
VL_DEVICE u32 pack(float low, float high, F16) {
    u32 packed;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}
VL_DEVICE float widen_half(u16 bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

/// 2^x, good to two units in the last place; 0 for -infinity.
VL_DEVICE float power_of_two(float x) {
    float value;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(value) : "f"(x));
    return value;
}

VL_DEVICE float shuffle_xor(float value, u32 mask) { return __shfl_xor_sync(kAllLanes, value, mask); }
VL_DEVICE u32 shuffle_xor(u32 value, u32 mask) { return __shfl_xor_sync(kAllLanes, value, mask); }
VL_DEVICE u64 shuffle_xor(u64 value, u32 mask) { return __shfl_xor_sync(kAllLanes, value, mask); }
VL_DEVICE float shuffle_up(float value, u32 by) { return __shfl_up_sync(kAllLanes, value, by); }
VL_DEVICE u64 shuffle_up(u64 value, u32 by) { return __shfl_up_sync(kAllLanes, value, by); }
VL_DEVICE u32 shuffle_up(u32 value, u32 by) { return __shfl_up_sync(kAllLanes, value, by); }
VL_DEVICE float shuffle(float value, u32 lane) { return __shfl_sync(kAllLanes, value, lane); }
VL_DEVICE u32 shuffle(u32 value, u32 lane) { return __shfl_sync(kAllLanes, value, lane); }
VL_DEVICE u64 shuffle(u64 value, u32 lane) { return __shfl_sync(kAllLanes, value, lane); }
VL_DEVICE u32 votes_of(bool value) { return __ballot_sync(kAllLanes, value); }
VL_DEVICE u32 count_bits(u32 bits) { return __popc(bits); }
/// The place of the lowest bit of a number that is not 0.
VL_DEVICE u32 lowest_bit(u32 bits) { return __ffs(static_cast<int>(bits)) - 1; }

VL_DEVICE u64 high_product(u64 left, u64 right) { return __umul64hi(left, right); }

#endif

VL_DEVICE float widen(float value) { return value; }
VL_DEVICE float widen(Bf16 value) { return float_of(static_cast<u32>(value.bits) << 16); }
VL_DEVICE float widen(F16 value) { return widen_half(value.bits); }

VL_DEVICE void narrow(float value, float& to) { to = value; }
VL_DEVICE void narrow(float value, Bf16& to) { to.bits = static_cast<u16>(pack(value, 0.0f, Bf16{})); }
VL_DEVICE void narrow(float value, F16& to) { to.bits = static_cast<u16>(pack(value, 0.0f, F16{})); }

/// The elements of 16 bytes.
template <typename T>
VL_DEVICE void unpack(const Words& words, float (&out)[8], T) {
    const u32 pairs[4] = {words.x, words.y, words.z, words.w};
    VL_UNROLL
    for (u32 pair = 0; pair < 4; ++pair) {
        out[2 * pair] = widen(T{static_cast<u16>(pairs[pair])});
        out[2 * pair + 1] = widen(T{static_cast<u16>(pairs[pair] >> 16)});
    }
}
VL_DEVICE void unpack(const Words& words, float (&out)[4], float) {
    out[0] = float_of(words.x);
    out[1] = float_of(words.y);
    out[2] = float_of(words.z);
    out[3] = float_of(words.w);
}

/// The sum over a warp's lanes, the same bits in each.
VL_DEVICE float warp_sum(float value) {
    VL_UNROLL
    for (u32 distance = kWarp / 2; distance > 0; distance /= 2) value = __fadd_rn(value, shuffle_xor(value, distance));
    return value;
}

/// The sum over a block of `kThreads`, the same bits in each thread. `scratch` holds a float for each warp and is free to be used again
/// after the next barrier.
template <u32 kThreads>
VL_DEVICE float block_sum(float value, float* scratch) {
    value = warp_sum(value);
    if (threadIdx.x % kWarp == 0) scratch[threadIdx.x / kWarp] = value;
    __syncthreads();
    float sum = 0.0f;
    VL_UNROLL
    for (u32 warp = 0; warp < kThreads / kWarp; ++warp) sum = __fadd_rn(sum, scratch[warp]);
    return sum;
}

/// Makes one entry for bf16 and one for f16, or those and one for f32.
#define VL_HALVES(make) make(bf16, Bf16) make(f16, F16)
#define VL_TYPES(make) VL_HALVES(make) make(f32, float)
