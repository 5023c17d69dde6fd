//! One [`Batch`] in, one [`StepOutput`] out: synchronous, and the owner of the KV memory.

mod contract;

pub use contract::{Engine, EngineError, EngineFacts};
