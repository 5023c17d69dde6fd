//! Starting the kernels of attention.

use vlinders_kernel_api::{AttentionSpec, Dtype, KernelError};

use crate::attention::most_items;
use crate::device::Argument::{Address, F32, U32};
use crate::executor::CudaExecutor;
use crate::kernels::ATTENTION_F32;
use crate::shape::count;
use crate::step::Capacity;

/// Keys of a tile, and how many tiles of keys and values are on their way at once.
const TILE_KEYS: u32 = 64;
const DECODE_STAGES: u32 = 3;
/// Shared memory of the kernel for many tokens, for each element of a head: queries, two stages of keys and values, totals.
const TILED_BYTES_PER_ELEMENT: u32 = 1280;
/// Blocks of threads per multiprocessor that walk over the items.
const BLOCKS_EACH: u32 = 2;

/// The window as kernels take it: 0 sees everything.
pub(crate) fn window_of(spec: &AttentionSpec) -> u32 {
    spec.window.unwrap_or(0)
}

/// Shared memory that the kernel for many tokens asks for.
pub(crate) fn tiled_shared_bytes(head_dim: u32) -> u32 {
    TILED_BYTES_PER_ELEMENT * head_dim
}

impl CudaExecutor {
    pub(crate) fn start_attention(
        &self,
        layer: u32,
        spec: &AttentionSpec,
        capacity: Capacity,
    ) -> Result<(), KernelError> {
        assert!(layer < self.size.layers, "the layer is one of the model's");
        match self.size.dtype {
            Dtype::F32 => self.attend_plainly(layer, spec, capacity),
            Dtype::F16 | Dtype::Bf16 => {
                self.attend_singly(layer, spec, capacity)?;
                self.attend_in_tiles(layer, spec)
            }
        }
    }

    /// Every token by itself.
    fn attend_plainly(
        &self,
        layer: u32,
        spec: &AttentionSpec,
        capacity: Capacity,
    ) -> Result<(), KernelError> {
        let size = &self.size;
        let (_, places) = self.plan.attention(window_of(spec));
        let arguments = [
            Address(self.buffers.queries.address()),
            Address(self.memory.address()),
            Address(self.plan.places().tables),
            Address(places.queries),
            Address(places.counts),
            Address(self.buffers.context.address()),
            U32(size.query_heads),
            U32(size.kv_heads),
            U32(size.head_dim),
            U32(size.layers),
            U32(layer),
            F32(spec.scale),
            U32(window_of(spec)),
        ];
        let grid = [capacity.tokens, size.query_heads, 1];
        self.launch(ATTENTION_F32, grid, 32, 0, &arguments)
    }

    /// Rows of few new tokens, their keys in splits.
    fn attend_singly(&self, layer: u32, spec: &AttentionSpec, capacity: Capacity) -> Result<(), KernelError> {
        let (size, window) = (&self.size, window_of(spec));
        let (plan, places) = self.plan.attention(window);
        // A step that is filled up is laid out for any that it is filled up like.
        let is_exact = capacity.tokens as usize == self.step.tokens.len() && !self.is_filled_up;
        let (queries, items, is_split) = match is_exact {
            true => (plan.queries.len(), plan.items.len(), plan.is_split),
            false => {
                let items = most_items(capacity.tokens, size.context, self.partials);
                (capacity.tokens as usize, items as usize, self.partials > 0)
            }
        };
        let (queries, items) = (count(queries), count(items));
        let workers = BLOCKS_EACH * self.device.facts().multiprocessors;
        let blocks = items.saturating_mul(size.kv_heads).min(workers);
        let arguments = [
            Address(self.buffers.queries.address()),
            Address(self.memory.address()),
            Address(self.plan.places().tables),
            Address(places.queries),
            Address(places.items),
            Address(places.counts),
            Address(self.buffers.partial_sums.address()),
            Address(self.buffers.partial_scales.address()),
            Address(self.buffers.context.address()),
            U32(size.query_heads),
            U32(size.kv_heads),
            U32(size.layers),
            U32(layer),
            F32(spec.scale),
            U32(window),
        ];
        let shared_bytes = DECODE_STAGES * TILE_KEYS * size.head_dim * 2 * 2;
        let kernel = &self.kernels.attention_decode;
        self.launch(kernel, [blocks, 1, 1], 128, shared_bytes, &arguments)?;
        if !is_split {
            return Ok(());
        }
        let arguments = [
            Address(places.queries),
            Address(places.counts),
            Address(self.buffers.partial_sums.address()),
            Address(self.buffers.partial_scales.address()),
            Address(self.buffers.context.address()),
            U32(size.query_heads),
            U32(size.head_dim),
            U32(window),
        ];
        let grid = [queries, size.query_heads, 1];
        self.launch(&self.kernels.attention_combine, grid, 128, 0, &arguments)
    }

    /// Rows of many new tokens, which share the keys they read.
    fn attend_in_tiles(&self, layer: u32, spec: &AttentionSpec) -> Result<(), KernelError> {
        let (size, window) = (&self.size, window_of(spec));
        let (plan, places) = self.plan.attention(window);
        let arguments = [
            Address(self.buffers.queries.address()),
            Address(self.memory.address()),
            Address(self.plan.places().tables),
            Address(places.tiles),
            Address(places.tile_count),
            Address(self.buffers.context.address()),
            U32(size.query_heads),
            U32(size.kv_heads),
            U32(size.layers),
            U32(layer),
            F32(spec.scale),
            U32(window),
        ];
        let shared_bytes = tiled_shared_bytes(size.head_dim);
        let grid = [count(plan.tiles.len()), size.kv_heads, 1];
        self.launch(
            &self.kernels.attention_prefill,
            grid,
            256,
            shared_bytes,
            &arguments,
        )
    }
}
