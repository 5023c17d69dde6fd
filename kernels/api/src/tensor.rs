//! Borrowed tensors as they lie in a checkpoint.

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
