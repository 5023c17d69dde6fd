//! What the tests of this crate share.

use crate::IsaLevel;
use crate::isa::Isa;

/// Every level that this machine runs.
pub(crate) fn levels() -> Vec<Isa> {
    IsaLevel::ALL.into_iter().filter_map(Isa::new).collect()
}

/// Numbers between -1 and 1, the same for the same seed.
pub(crate) fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}
