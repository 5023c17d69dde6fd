//! The KV pool of [`crate::SimEngine`]: one 64-bit word per token.

use std::sync::atomic::{AtomicU64, Ordering};

use vlinders_kernel_api::KvMemory;
use vlinders_types::{BLOCK_TOKENS, BlockId};

const WORDS: usize = BLOCK_TOKENS as usize;
const WORD_BYTES: usize = 8;

/// Bytes of one block.
pub(crate) const BLOCK_BYTES: usize = WORDS * WORD_BYTES;

/// Words are atomic only so that blocks can be written through a shared reference; their order is kept by the rule of
/// [`KvMemory`], and whatever hands a block from thread to thread orders the memory too.
pub(crate) struct SimMemory {
    words: Vec<AtomicU64>,
}

impl SimMemory {
    /// Panics when the pool would be larger than the address space.
    pub(crate) fn new(block_count: u32) -> Self {
        let words = (0..block_count as usize * WORDS).map(|_| AtomicU64::new(0));
        Self {
            words: words.collect(),
        }
    }

    pub(crate) fn read(&self, block: BlockId, token: usize) -> u64 {
        self.block(block)[token].load(Ordering::Relaxed)
    }

    pub(crate) fn write(&self, block: BlockId, token: usize, word: u64) {
        self.block(block)[token].store(word, Ordering::Relaxed);
    }

    /// The words of a block's first `tokens` tokens.
    pub(crate) fn words(&self, block: BlockId, tokens: usize) -> impl Iterator<Item = u64> {
        self.block(block)[..tokens]
            .iter()
            .map(|word| word.load(Ordering::Relaxed))
    }

    fn block(&self, block: BlockId) -> &[AtomicU64] {
        let start = block.0 as usize * WORDS;
        &self.words[start..start + WORDS]
    }
}

impl KvMemory for SimMemory {
    fn block_count(&self) -> u32 {
        u32::try_from(self.words.len() / WORDS).expect("it was made from a 32-bit count")
    }

    fn block_bytes(&self) -> usize {
        BLOCK_BYTES
    }

    fn with_block(&self, block: BlockId, see: &mut dyn FnMut(&[u8])) {
        let mut bytes = [0; BLOCK_BYTES];
        for (slot, word) in bytes.chunks_exact_mut(WORD_BYTES).zip(self.words(block, WORDS)) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        see(&bytes);
    }

    fn write_block(&self, block: BlockId, bytes: &[u8]) {
        assert_eq!(bytes.len(), BLOCK_BYTES, "a write is exactly one block");
        let (words, rest) = bytes.as_chunks::<WORD_BYTES>();
        debug_assert!(rest.is_empty());
        for (slot, word) in self.block(block).iter().zip(words) {
            slot.store(u64::from_le_bytes(*word), Ordering::Relaxed);
        }
    }
}
