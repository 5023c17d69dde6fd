//! A model's weights as this backend keeps them.

use std::sync::Arc;

use vlinders_kernel_api::{
    Dtype, EmbeddingId, KernelError, LinearId, LinearKind, LinearPart, TensorView, VectorId, WeightView,
};

use crate::math::widen_bf16;
use crate::pack::{PackedWeights, Storage};
use crate::pool::Pool;
use crate::region::Region;

/// All that was uploaded, shared by the executors.
#[derive(Default)]
pub(crate) struct Weights {
    embeddings: Vec<Embedding>,
    vectors: Vec<Vec<f32>>,
    linears: Vec<PackedWeights>,
    rotaries: Vec<Arc<[f32]>>,
}

/// A table of token embeddings.
pub(crate) enum Embedding {
    /// Also the output head: kept once, in the head's panels.
    Tied(PackedWeights),
    /// As in the checkpoint.
    Rows(Rows),
}

/// A row-major table `[vocabulary, hidden]`.
pub(crate) struct Rows {
    region: Region,
    storage: Storage,
    vocabulary: usize,
    hidden: usize,
}

impl Embedding {
    pub(crate) fn load(pool: &Pool, table: TensorView<'_>, tied: bool) -> Result<Self, KernelError> {
        let &[vocabulary, hidden] = table.shape else {
            let what = table.name.to_owned();
            return Err(KernelError::Shape {
                what,
                expected: vec![0, 0],
                found: table.shape.to_vec(),
            });
        };
        table.check_shape(&[vocabulary, hidden])?;
        if tied {
            let parts = [LinearPart {
                weight: WeightView::Dense(table),
                bias: None,
            }];
            let packed = PackedWeights::pack(pool, LinearKind::Head, &parts, (vocabulary, hidden))?;
            return Ok(Self::Tied(packed));
        }
        let storage = Storage::of(table.dtype);
        let region = match (storage, table.dtype) {
            (Storage::F32, Dtype::F16) => {
                let mut region = Region::zeroed(vocabulary * hidden * 4, table.name)?;
                table.widen_into(0, &mut region.as_mut_slice::<f32>()[..vocabulary * hidden]);
                region
            }
            (Storage::F32 | Storage::Bf16, Dtype::F32 | Dtype::F16 | Dtype::Bf16) => {
                let mut region = Region::zeroed(table.bytes.len(), table.name)?;
                region.as_mut_slice::<u8>().copy_from_slice(table.bytes);
                region
            }
        };
        Ok(Self::Rows(Rows {
            region,
            storage,
            vocabulary,
            hidden,
        }))
    }

    /// Copies one token's embedding, widened.
    ///
    /// # Panics
    /// When there is no such token or `into` is not one row.
    pub(crate) fn read(&self, token: usize, into: &mut [f32]) {
        let rows = match self {
            Self::Tied(packed) => return packed.gather_row(token, into),
            Self::Rows(rows) => rows,
        };
        assert!(
            token < rows.vocabulary && into.len() == rows.hidden,
            "a row of the table"
        );
        let start = token * rows.hidden;
        match rows.storage {
            Storage::F32 => into.copy_from_slice(&rows.region.as_slice::<f32>()[start..start + rows.hidden]),
            Storage::Bf16 => {
                let row = &rows.region.as_slice::<u16>()[start..start + rows.hidden];
                for (into, bits) in into.iter_mut().zip(row) {
                    // The region holds the checkpoint's little-endian bytes.
                    *into = widen_bf16(u16::from_le(*bits));
                }
            }
        }
    }
}

fn next_id(length: usize) -> u32 {
    u32::try_from(length).expect("a model has fewer tensors than 2^32")
}

impl Weights {
    pub(crate) fn add_embedding(&mut self, embedding: Embedding) -> u32 {
        self.embeddings.push(embedding);
        next_id(self.embeddings.len() - 1)
    }

    pub(crate) fn add_vector(&mut self, vector: Vec<f32>) -> u32 {
        self.vectors.push(vector);
        next_id(self.vectors.len() - 1)
    }

    pub(crate) fn add_linear(&mut self, linear: PackedWeights) -> u32 {
        self.linears.push(linear);
        next_id(self.linears.len() - 1)
    }

    pub(crate) fn add_rotary(&mut self, frequencies: &[f32]) -> u32 {
        self.rotaries.push(frequencies.into());
        next_id(self.rotaries.len() - 1)
    }

    pub(crate) fn embedding(&self, id: EmbeddingId) -> &Embedding {
        &self.embeddings[id.0 as usize]
    }

    pub(crate) fn vector(&self, id: VectorId) -> &[f32] {
        &self.vectors[id.0 as usize]
    }

    pub(crate) fn linear(&self, id: LinearId) -> &PackedWeights {
        &self.linears[id.0 as usize]
    }

    pub(crate) fn rotary(&self, id: vlinders_kernel_api::RotaryId) -> &[f32] {
        &self.rotaries[id.0 as usize]
    }
}
