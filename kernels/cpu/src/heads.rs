//! What happens to the heads of a token between projection and attention.

use vlinders_kernel_api::Dtype;

use crate::buffers::Sizes;
use crate::elementwise::{rms_norm_in_place, rotate, store_bf16};
use crate::isa::Isa;
use crate::kv_memory::CpuKvMemory;
use crate::step::Step;

/// One layer's pass over the heads of the step's tokens.
pub(crate) struct HeadPass<'a> {
    pub(crate) isa: Isa,
    pub(crate) size: Sizes,
    pub(crate) layer: u32,
    pub(crate) memory: &'a CpuKvMemory,
    /// Weights and epsilon for queries and for keys.
    pub(crate) norms: Option<[(&'a [f32], f32); 2]>,
    pub(crate) step: &'a Step,
}

impl HeadPass<'_> {
    /// Normalises and rotates the query and key heads of `token`, and stores its keys and values.
    ///
    /// # Safety
    /// Nobody else uses the token's place in the KV blocks meanwhile.
    pub(crate) unsafe fn turn_and_store(&self, token: usize, heads: &mut [f32]) {
        let Sizes {
            query_heads,
            kv_heads,
            head_dim,
            ..
        } = self.size;
        let place = self.step.places[token];
        let (cosines, sines) = self.step.turns(token, head_dim / 2);
        let (turned, values) = heads.split_at_mut((query_heads + kv_heads) * head_dim);
        for (index, head) in turned.chunks_exact_mut(head_dim).enumerate() {
            if let Some(norms) = self.norms {
                let (weight, epsilon) = norms[usize::from(index >= query_heads)];
                rms_norm_in_place(self.isa, head, weight, epsilon);
            }
            rotate(self.isa, head, cosines, sines);
        }
        let keys = turned[query_heads * head_dim..].chunks_exact(head_dim);
        for (kv_head, (key, value)) in (0..).zip(keys.zip(values.chunks_exact(head_dim))) {
            // SAFETY: the caller is the only user of the token's place.
            let slots = unsafe {
                self.memory
                    .slots(place.block, kv_head, self.layer, place.position)
            };
            self.store(key, slots.0);
            self.store(value, slots.1);
        }
    }

    fn store(&self, head: &[f32], into: &mut [u8]) {
        match self.memory.layout().dtype {
            Dtype::F32 => {
                for (into, value) in into.as_chunks_mut::<4>().0.iter_mut().zip(head) {
                    *into = value.to_le_bytes();
                }
            }
            Dtype::Bf16 | Dtype::F16 => store_bf16(self.isa, head, into),
        }
    }
}
