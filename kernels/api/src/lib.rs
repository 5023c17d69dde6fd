//! The door between the engine and the arithmetic: shapes, dtypes, and the [`Backend`] and [`Executor`] traits.
//!
//! A [`Backend`] is one device with a model's weights. An [`Executor`] is one role's own activations and KV pool
//! on that device; several executors share the weights. The cut is at the size of a layer's operations, so that
//! a GPU can replay them as a captured graph and a CPU can keep its threads in step.

mod backend;
mod check;
mod error;
mod kv;
mod shard;
mod tensor;
mod weight;

pub use backend::{
    AttentionSpec, Backend, BackendFacts, EmbeddingId, Executor, ExecutorSpec, Head, LinearId, LinearKind,
    LinearPart, Norm, QkNorm, RotaryId, Urgency, VectorId,
};
pub use check::check_parts;
pub use error::KernelError;
pub use kv::{KvLayout, KvMemory, PoolPlace};
pub use shard::{Shard, ShardError, slice_of};
pub use tensor::{Dtype, TensorView};
pub use weight::{CodeKind, InputGroups, QuantizedWeight, WeightFormat, WeightView};
