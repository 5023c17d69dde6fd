//! Why a checkpoint could not be used.

use vlinders_kernel_api::{KernelError, ShardError};

/// A checkpoint that cannot be read, makes no sense, or asks for what is not supported.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file that must be there is not.
    #[error("{file} is missing in {place}")]
    MissingFile {
        /// Its name.
        file: String,
        /// The folder, or that the model is built in.
        place: String,
    },
    /// A file is there and cannot be read.
    #[error("{file} cannot be read")]
    Read {
        /// Path or name.
        file: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file is not what its name says: broken JSON, a broken weight header.
    #[error("{file}: {problem}")]
    Malformed {
        /// Path or name.
        file: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A field is missing, of the wrong kind or out of range.
    #[error("{file}: `{field}` {problem}")]
    Field {
        /// Path or name.
        file: String,
        /// Name of the field, with its parents: `rope_scaling.factor`.
        field: String,
        /// `is missing`, `is 0, must be between 1 and 1024`.
        problem: String,
    },
    /// The checkpoint is sound and asks for something this program cannot compute.
    #[error("{file}: {what} is not supported; supported: {supported}")]
    Unsupported {
        /// Path or name.
        file: String,
        /// What was asked for, by its name in the file.
        what: String,
        /// What could be used instead.
        supported: String,
    },
    /// The config asks for a tensor that no weight file holds.
    #[error("tensor `{tensor}` is missing: no weight file of {place} holds it")]
    MissingTensor {
        /// Its name.
        tensor: String,
        /// The folder, or that the model is built in.
        place: String,
    },
    /// A tensor does not have the shape that the config gives it.
    #[error("{file}: tensor `{tensor}` has shape {found:?}, but config.json asks for {expected:?}")]
    Shape {
        /// The file that holds it.
        file: String,
        /// Its name.
        tensor: String,
        /// What the config asks for.
        expected: Vec<usize>,
        /// What the file says.
        found: Vec<usize>,
    },
    /// Something else is wrong with one tensor.
    #[error("{file}: tensor `{tensor}` {problem}")]
    Tensor {
        /// The file that holds it.
        file: String,
        /// Its name.
        tensor: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The model cannot be cut in as many slices as there are devices.
    #[error("tensor_parallel_size: {0}")]
    Shards(#[from] ShardError),
    /// The backend refused a tensor.
    #[error("the backend refused the model's weights")]
    Backend(#[from] KernelError),
}

impl ModelError {
    /// Whether the checkpoint is sound and only beyond this program, rather than broken.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        match self {
            Self::Unsupported { .. } | Self::Shards(_) | Self::Backend(KernelError::Unsupported { .. }) => {
                true
            }
            Self::MissingFile { .. }
            | Self::Read { .. }
            | Self::Malformed { .. }
            | Self::Field { .. }
            | Self::MissingTensor { .. }
            | Self::Shape { .. }
            | Self::Tensor { .. }
            | Self::Backend(
                KernelError::Shape { .. }
                | KernelError::OutOfMemory { .. }
                | KernelError::Batch(_)
                | KernelError::Device(_),
            ) => false,
        }
    }
}
