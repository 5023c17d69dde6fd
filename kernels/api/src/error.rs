//! What can go wrong below the door.

/// A failed backend operation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    /// A tensor does not have the shape its use asks for.
    #[error("{what}: expected shape {expected:?}, found {found:?}")]
    Shape {
        /// The tensor or operand.
        what: String,
        /// What its use asks for.
        expected: Vec<usize>,
        /// What it is.
        found: Vec<usize>,
    },
    /// The backend has no kernel for this.
    #[error("the {backend} backend does not support {what}")]
    Unsupported {
        /// Who.
        backend: &'static str,
        /// What.
        what: String,
    },
    /// Memory for weights, activations or blocks is not to be had.
    #[error("out of memory for {what}: {bytes} bytes; lower the KV budget or the batch limits")]
    OutOfMemory {
        /// For what.
        what: String,
        /// How much was asked for.
        bytes: u64,
    },
    /// The batch does not fit what the executor was made for, or contradicts itself.
    #[error("batch refused: {0}")]
    Batch(String),
    /// The device failed; nothing computed since can be trusted.
    #[error("device failure: {0}")]
    Device(String),
}
