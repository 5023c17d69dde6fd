//! Checkpoints: what a model is ([`ModelConfig`]), its weights, and the order of its layers ([`LoadedModel`]).
//!
//! A checkpoint is a set of named files in the Hugging Face layout, in a folder or built into the program
//! ([`ModelSource`]). Whatever those files hold, reading them ends in a model or in one [`ModelError`] that names
//! the file and the field or tensor; never in a panic.

mod architecture;
mod checkpoint;
mod config;
mod error;
mod fields;
mod generation;
mod load;
mod mapping;
mod model;
mod quantized;
mod rope;
mod safetensors;
mod slice;
mod source;
mod tensors;

pub use architecture::Architecture;
pub use checkpoint::Checkpoint;
pub use config::ModelConfig;
pub use error::ModelError;
pub use generation::GenerationConfig;
pub use load::LoadProgress;
pub use model::{LoadedModel, StepLimits};
pub use quantized::Quantization;
pub use rope::{Rope, RopeScaling};
pub use safetensors::{StoredTensor, parse_header};
pub use source::{FileBytes, ModelSource};
