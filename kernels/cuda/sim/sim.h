// Runs a kernel's source on a CPU: a block's threads are fibers that take turns in a random order and change only where the
// chip makes them wait for each other. What a kernel may not rely on is made to fail: shared memory begins as poison, a
// copy that nobody waited for is poison, a barrier that some thread does not reach is an error, and every array has its
// own bounds under AddressSanitizer. Blocks run one after the other, in a random order too.
#pragma once

#include <sys/mman.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#define SIM_ASAN 1
#else
#define SIM_ASAN 0
#endif

#include "../cu/words.h"

#define VL_DEVICE inline
#define VL_KERNEL(threads, blocks) extern "C"
#define VL_SHARED(type, name, count) type* name = static_cast<type*>(sim::shared(__COUNTER__, sizeof(type) * (count)))
#define VL_SHARED_DYNAMIC(name) u8* name = sim::dynamic_shared()
#define VL_UNROLL

// Saves the callee's registers on the stack it leaves and takes those of the stack it enters.
extern "C" void sim_switch(void** leave, void* enter);
#if defined(__x86_64__)
asm(R"(
.text
.weak sim_switch
.type sim_switch, @function
sim_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size sim_switch, .-sim_switch
)");
#else
#error "the simulator changes stacks on x86-64 only"
#endif

namespace sim {

struct Dim3 {
    u32 x = 1, y = 1, z = 1;
};

/// Bytes that are a NaN in every float type and a wild number in every other.
constexpr int kPoison = 0xFF;
constexpr size_t kStackBytes = 512 * 1024;
constexpr u32 kWarpLanes = 32;
constexpr size_t kSlotBytes = 64;

/// A copy begun and not yet waited for.
struct Copy {
    void* to;
    const void* from;
    bool valid;
};

struct Fiber {
    void* stack_pointer = nullptr;
    u8* stack = nullptr;
    void* fake_stack = nullptr;
    Dim3 thread;
    u32 index = 0;
    bool is_done = false;
    std::vector<Copy> open;
    std::vector<std::vector<Copy>> groups;
};

/// Where a warp's lanes meet. Two sets of slots: a lane can be one meeting ahead of another, never two.
struct Warp {
    std::vector<u32> waiting;
    const char* what = nullptr;
    u32 turn = 0;
    alignas(16) u8 slots[2][kWarpLanes][kSlotBytes];
};

struct World {
    Dim3 grid, block, at;
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    std::vector<u32> ready;
    std::vector<u32> at_barrier;
    Fiber* running = nullptr;
    void* scheduler = nullptr;
    void* scheduler_fake_stack = nullptr;
    const void* scheduler_stack = nullptr;
    size_t scheduler_stack_bytes = 0;
    std::function<void()> kernel;
    std::vector<std::pair<int, std::unique_ptr<u8[]>>> arrays;
    std::unique_ptr<u8[]> dynamic;
    u64 random = 1;
};
inline World world;

[[noreturn]] inline void fail(const char* what) {
    std::fprintf(stderr, "simulator: %s (block %u %u %u", what, world.at.x, world.at.y, world.at.z);
    if (world.running != nullptr) std::fprintf(stderr, ", thread %u", world.running->index);
    std::fprintf(stderr, ")\n");
    std::abort();
}

inline u32 random_below(u32 bound) {
    world.random ^= world.random << 13;
    world.random ^= world.random >> 7;
    world.random ^= world.random << 17;
    return static_cast<u32>((world.random >> 11) % bound);
}

inline void enter_fiber(Fiber& fiber) {
    world.running = &fiber;
#if SIM_ASAN
    __sanitizer_start_switch_fiber(&world.scheduler_fake_stack, fiber.stack, kStackBytes);
#endif
    sim_switch(&world.scheduler, fiber.stack_pointer);
#if SIM_ASAN
    __sanitizer_finish_switch_fiber(world.scheduler_fake_stack, nullptr, nullptr);
#endif
    world.running = nullptr;
}

inline void leave_fiber(bool for_good) {
    Fiber& fiber = *world.running;
#if SIM_ASAN
    __sanitizer_start_switch_fiber(for_good ? nullptr : &fiber.fake_stack, world.scheduler_stack, world.scheduler_stack_bytes);
#endif
    sim_switch(&fiber.stack_pointer, world.scheduler);
#if SIM_ASAN
    __sanitizer_finish_switch_fiber(fiber.fake_stack, &world.scheduler_stack, &world.scheduler_stack_bytes);
#endif
    (void)for_good;
}

inline void fiber_main() {
#if SIM_ASAN
    __sanitizer_finish_switch_fiber(nullptr, &world.scheduler_stack, &world.scheduler_stack_bytes);
#endif
    world.kernel();
    world.running->is_done = true;
    leave_fiber(true);
    std::abort();
}

inline void prepare(Fiber& fiber) {
    if (fiber.stack == nullptr) {
        void* stack = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (stack == MAP_FAILED) fail("no memory for stacks");
        fiber.stack = static_cast<u8*>(stack);
    }
    void** top = reinterpret_cast<void**>(fiber.stack + kStackBytes) - 1;
    *top = nullptr;  // No caller; a function expects its stack 8 bytes off a multiple of 16.
    *--top = reinterpret_cast<void*>(&fiber_main);
    for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
    fiber.stack_pointer = top;
    fiber.fake_stack = nullptr;
    fiber.is_done = false;
    fiber.open.clear();
    fiber.groups.clear();
}

/// The running thread waits for all others of its block.
inline void block_barrier() {
    Fiber& fiber = *world.running;
    world.at_barrier.push_back(fiber.index);
    if (world.at_barrier.size() == world.fibers.size()) {
        world.ready.insert(world.ready.end(), world.at_barrier.begin(), world.at_barrier.end());
        world.at_barrier.clear();
    }
    leave_fiber(false);
}

/// The running lane lays `mine` down and waits for the rest of its warp; the slots of all lanes come back.
inline const u8 (*meet(const char* what, const void* mine, size_t bytes))[kSlotBytes] {
    Fiber& fiber = *world.running;
    Warp& warp = world.warps[fiber.index / kWarpLanes];
    if (bytes > kSlotBytes) fail("a slot is too small");
    if (warp.waiting.empty()) {
        warp.what = what;
    } else if (std::strcmp(warp.what, what) != 0) {
        fail("lanes of a warp meet at different instructions");
    }
    u32 turn = warp.turn;
    std::memcpy(warp.slots[turn][fiber.index % kWarpLanes], mine, bytes);
    warp.waiting.push_back(fiber.index);
    if (warp.waiting.size() == kWarpLanes) {
        world.ready.insert(world.ready.end(), warp.waiting.begin(), warp.waiting.end());
        warp.waiting.clear();
        warp.turn ^= 1;
    }
    leave_fiber(false);
    return warp.slots[turn];
}

inline std::unique_ptr<u8[]> poisoned(size_t bytes) {
    std::unique_ptr<u8[]> memory(new u8[bytes]);
    std::memset(memory.get(), kPoison, bytes);
    return memory;
}

/// A block's shared array: the same for all its threads, poison at first.
inline void* shared(int name, size_t bytes) {
    for (auto& [known, memory] : world.arrays) {
        if (known == name) return memory.get();
    }
    world.arrays.emplace_back(name, poisoned(bytes));
    return world.arrays.back().second.get();
}

inline u8* dynamic_shared() { return world.dynamic.get(); }

inline void run_block(size_t shared_bytes) {
    u32 threads = world.block.x * world.block.y * world.block.z;
    if (threads % kWarpLanes != 0) fail("a block is whole warps");
    world.arrays.clear();
    world.dynamic = poisoned(shared_bytes);
    world.warps.resize(threads / kWarpLanes);
    for (Warp& warp : world.warps) {
        warp.waiting.clear();
        std::memset(warp.slots, kPoison, sizeof(warp.slots));
    }
    world.at_barrier.clear();
    world.ready.clear();
    while (world.fibers.size() > threads) {
        munmap(world.fibers.back().stack, kStackBytes);
        world.fibers.pop_back();
    }
    world.fibers.resize(threads);
    for (u32 index = 0; index < threads; ++index) {
        Fiber& fiber = world.fibers[index];
        fiber.index = index;
        fiber.thread = {index % world.block.x, index / world.block.x % world.block.y, index / (world.block.x * world.block.y)};
        prepare(fiber);
        world.ready.push_back(index);
    }
    u32 left = threads;
    while (left > 0) {
        if (world.ready.empty()) fail("threads wait for others that never come");
        u32 pick = random_below(static_cast<u32>(world.ready.size()));
        u32 index = world.ready[pick];
        world.ready[pick] = world.ready.back();
        world.ready.pop_back();
        enter_fiber(world.fibers[index]);
        left -= world.fibers[index].is_done;
    }
}

/// Runs `kernel`, a call of the kernel with its arguments, for every thread of the grid. `seed` orders threads and blocks.
inline void launch(Dim3 grid, Dim3 block, size_t shared_bytes, u64 seed, std::function<void()> kernel) {
    world.grid = grid;
    world.block = block;
    world.kernel = std::move(kernel);
    world.random = seed * 0x9E3779B97F4A7C15ull + 0x1234567;
    u32 blocks = grid.x * grid.y * grid.z;
    std::vector<u32> order(blocks);
    for (u32 index = 0; index < blocks; ++index) {
        u32 other = random_below(index + 1);
        order[index] = order[other];
        order[other] = index;
    }
    for (u32 index : order) {
        world.at = {index % grid.x, index / grid.x % grid.y, index / (grid.x * grid.y)};
        run_block(shared_bytes);
    }
}

}  // namespace sim

#define threadIdx (sim::world.running->thread)
#define blockIdx (sim::world.at)
#define blockDim (sim::world.block)
#define gridDim (sim::world.grid)

inline void __syncthreads() { sim::block_barrier(); }

#include "twins.h"
