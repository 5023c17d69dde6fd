//! The oracle: every operation in plain loops, summed in f64 and stored in f32. Slow, of any shape, and easy to check
//! by reading. Fast backends are tested against [`ops`] and against [`ReferenceBackend`].

mod backend;
mod executor;
mod memory;
pub mod ops;

pub use backend::ReferenceBackend;
