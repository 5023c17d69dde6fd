// Where keys and values lie: `[block][kv_head][layer][K|V][16 tokens][head_dim]`. Offsets are in elements and in 64 bits: pools are
// larger than 2^32 bytes.
#pragma once

#include "device.h"

struct KvShape {
    u32 kv_heads, layers, head_dim;

    /// The first element of the tile of keys, or of values, of a block, head and layer.
    VL_DEVICE u64 tile(u32 block, u32 kv_head, u32 layer, bool values) const {
        u64 pair = (static_cast<u64>(block) * kv_heads + kv_head) * layers + layer;
        return (pair * 2 + values) * (kBlockTokens * head_dim);
    }
};
