// Starts a kernel of the library it is linked into. Kernels are plain functions here, whose parameters are addresses, whole
// numbers and floats. The calling convention passes whole numbers and floats apart, each in their order, and lets a caller pass
// more than is read, so one type of function serves all of them.
#include "device.h"

namespace {

constexpr u32 kWords = 20;
constexpr u32 kFloats = 4;

using W = u64;
using F = float;
using Kernel = void (*)(W, W, W, W, W, W, W, W, W, W, W, W, W, W, W, W, W, W, W, W, F, F, F, F);

}  // namespace

extern "C" void run_simulated(void* kernel, const u32* grid, const u32* block, u32 shared_bytes, u64 seed, const u64* w,
                              const float* f) {
    static_assert(kWords == 20 && kFloats == 4, "as many as are passed");
    sim::launch({grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]}, shared_bytes, seed, [=] {
        reinterpret_cast<Kernel>(kernel)(w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7], w[8], w[9], w[10], w[11], w[12], w[13],
                                         w[14], w[15], w[16], w[17], w[18], w[19], f[0], f[1], f[2], f[3]);
    });
}
