//! Random numbers, passed in so that a simulation can choose them.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

/// Gives random bits for ids and seeds. Not for secrets.
pub trait Entropy: Send + Sync + 'static {
    /// 64 bits that did not occur before, as far as anybody can tell.
    fn next_u64(&self) -> u64;
}

/// A keyed hash of a counter; the key comes from the operating system.
#[derive(Debug, Default)]
pub struct SystemEntropy {
    key: RandomState,
    counter: AtomicU64,
}

impl Entropy for SystemEntropy {
    fn next_u64(&self) -> u64 {
        self.key.hash_one(self.counter.fetch_add(1, Ordering::Relaxed))
    }
}
