//! From logits to a token: penalties, temperature, filters, a draw that depends on nothing but the logits, the seed
//! and the position, and the log-probabilities the caller asked for.
//!
//! Every step from the logits to the token uses only correctly rounded `f32`/`f64` operations in a fixed order and
//! integer sums, so the same logits give the same token on every machine. Only the reported log-probabilities use
//! the platform's logarithm; they may differ in their last bit between platforms and are never fed back.

mod adjust;
mod filter;
mod logprob;
mod philox;
mod rank;
mod sampler;
mod scan;
mod weight;

pub use philox::philox4x32_10;
pub use sampler::{SampleInput, Sampler};
