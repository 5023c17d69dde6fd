// Number types that need nothing of the machine.
#pragma once

using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;

/// Four 32-bit words: what one thread loads or stores at once, whatever the memory holds.
struct __attribute__((may_alias, aligned(16))) Words {
    u32 x, y, z, w;
};

/// A bfloat16 and an IEEE half, as bits: no toolkit header is used.
struct Bf16 {
    u16 bits;
};
struct F16 {
    u16 bits;
};
