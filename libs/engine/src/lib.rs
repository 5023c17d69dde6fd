//! One [`vlinders_types::Batch`] in, one [`vlinders_types::StepOutput`] out: synchronous, and the owner of the KV memory.
//!
//! [`ModelEngine`] computes a model on a backend. [`SimEngine`] computes nothing: its tokens are hashes that still
//! depend on every token and every KV block before them, so everything around an engine can be tested and measured
//! without one.

mod contract;
mod model_engine;
mod sharded;
mod sim_engine;
mod sim_memory;

pub use contract::{Engine, EngineError, EngineFacts};
pub use model_engine::{EngineOptions, KvBudget, ModelEngine};
pub use sharded::{Abandon, ModelShard, ShardedEngine};
pub use sim_engine::{SimEngine, SimOptions, StepCost};
