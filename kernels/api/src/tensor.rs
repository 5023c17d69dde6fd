//! Borrowed tensors as they lie in a checkpoint.

use half::{bf16, f16};

use crate::KernelError;

/// How a number is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of an f32.
    Bf16,
}

impl Dtype {
    /// Bytes of one element.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// The name in logs and errors.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }
}

/// A dense row-major tensor somebody else owns. `bytes` may be unaligned and is little-endian.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a> {
    /// Its name in the checkpoint, for errors.
    pub name: &'a str,
    /// Element type.
    pub dtype: Dtype,
    /// Sizes, slowest dimension first.
    pub shape: &'a [usize],
    /// `shape` product times `dtype.bytes()` bytes.
    pub bytes: &'a [u8],
}

impl TensorView<'_> {
    /// Whether it has this shape, and as many bytes as its shape says.
    ///
    /// # Errors
    /// [`KernelError::Shape`] when not.
    pub fn check_shape(&self, expected: &[usize]) -> Result<(), KernelError> {
        let fits = self.shape == expected;
        let elements = expected
            .iter()
            .try_fold(1_usize, |all, size| all.checked_mul(*size));
        let bytes = elements.and_then(|elements| elements.checked_mul(self.dtype.bytes()));
        if fits && bytes == Some(self.bytes.len()) {
            return Ok(());
        }
        let what = if fits {
            format!("{}: {} bytes", self.name, self.bytes.len())
        } else {
            self.name.to_owned()
        };
        Err(KernelError::Shape {
            what,
            expected: expected.to_vec(),
            found: self.shape.to_vec(),
        })
    }

    /// Elements `first..first + into.len()` in row-major order, widened without loss.
    ///
    /// # Panics
    /// When they are not all in the tensor.
    pub fn widen_into(&self, first: usize, into: &mut [f32]) {
        let width = self.dtype.bytes();
        let bytes = &self.bytes[first * width..(first + into.len()) * width];
        match self.dtype {
            Dtype::F32 => {
                for (value, bytes) in into.iter_mut().zip(bytes.chunks_exact(4)) {
                    *value = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
                }
            }
            Dtype::F16 => {
                for (value, bytes) in into.iter_mut().zip(bytes.chunks_exact(2)) {
                    *value = f16::from_le_bytes([bytes[0], bytes[1]]).to_f32();
                }
            }
            Dtype::Bf16 => {
                for (value, bytes) in into.iter_mut().zip(bytes.chunks_exact(2)) {
                    *value = bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32();
                }
            }
        }
    }

    /// All elements in row-major order, widened without loss.
    #[must_use]
    pub fn widen(&self) -> Vec<f32> {
        let mut wide = vec![0.0; self.bytes.len() / self.dtype.bytes()];
        self.widen_into(0, &mut wide);
        wide
    }
}
