//! Names of full blocks: a keyed BLAKE3 chain, so that equal hashes mean equal tokens from the first one on.

use vlinders_types::{BLOCK_TOKENS, BlockHash, TokenId};

/// Separates these keys from every other use of BLAKE3. A new block format gets a new text.
const CONTEXT: &str = "vlinders 2026-01 kv prefix chain v1";

/// Tag, parent hash, and four bytes per token.
const INPUT_BYTES: usize = 1 + 16 + 4 * BLOCK_TOKENS as usize;

/// Hashes full blocks of one model for one tenant. Different salts never produce the same hash, so tenants cannot
/// find, or even probe for, each other's blocks.
#[derive(Clone)]
pub struct PrefixHasher {
    key: [u8; 32],
}

impl std::fmt::Debug for PrefixHasher {
    /// Without the key: who knows it can compute the hashes of guessed prompts.
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("PrefixHasher").finish_non_exhaustive()
    }
}

impl PrefixHasher {
    /// A hasher for blocks of `model` that are shared among holders of `tenant_salt`.
    #[must_use]
    pub fn new(model: &str, tenant_salt: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        // The length keeps salt and model apart: ("ab", "c") is not ("a", "bc").
        hasher.update(&(tenant_salt.len() as u64).to_le_bytes());
        hasher.update(tenant_salt);
        hasher.update(model.as_bytes());
        Self {
            key: *hasher.finalize().as_bytes(),
        }
    }

    /// Hash of the full block `tokens` that follows the block `parent`; none for the first block.
    ///
    /// # Panics
    /// When `tokens` is not exactly one block.
    #[must_use]
    pub fn block(&self, parent: Option<BlockHash>, tokens: &[TokenId]) -> BlockHash {
        assert_eq!(
            tokens.len(),
            BLOCK_TOKENS as usize,
            "only full blocks have a hash"
        );
        let mut input = [0u8; INPUT_BYTES];
        if let Some(BlockHash(parent)) = parent {
            input[0] = 1;
            input[1..17].copy_from_slice(&parent);
        }
        for (slot, token) in input[17..].chunks_exact_mut(4).zip(tokens) {
            slot.copy_from_slice(&token.to_le_bytes());
        }
        let wide = blake3::keyed_hash(&self.key, &input);
        let mut hash = [0u8; 16];
        hash.copy_from_slice(&wide.as_bytes()[..16]);
        BlockHash(hash)
    }

    /// Hashes of the full blocks of `tokens`, which follow the block `parent`. An incomplete last block has none.
    #[must_use]
    pub fn extend(&self, mut parent: Option<BlockHash>, tokens: &[TokenId]) -> Vec<BlockHash> {
        let mut hashes = Vec::with_capacity(tokens.len() / BLOCK_TOKENS as usize);
        for block in tokens.chunks_exact(BLOCK_TOKENS as usize) {
            let hash = self.block(parent, block);
            hashes.push(hash);
            parent = Some(hash);
        }
        hashes
    }

    /// Hashes of the full blocks of a sequence that starts with `tokens`.
    #[must_use]
    pub fn hashes(&self, tokens: &[TokenId]) -> Vec<BlockHash> {
        self.extend(None, tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(count: u32) -> Vec<TokenId> {
        (0..count).collect()
    }

    #[test]
    fn a_chain_can_be_extended_block_by_block() {
        let hasher = PrefixHasher::new("m", b"salt");
        let whole = hasher.hashes(&tokens(50));
        assert_eq!(whole.len(), 3, "the incomplete block has no hash");
        let mut parts = hasher.hashes(&tokens(50)[..16]);
        parts.extend(hasher.extend(Some(parts[0]), &tokens(50)[16..]));
        assert_eq!(whole, parts);
    }

    #[test]
    fn salt_model_parent_and_tokens_all_change_the_hash() {
        let block = tokens(16);
        let base = PrefixHasher::new("bc", b"a");
        let parent = base.block(None, &block);
        let mut other = block.clone();
        other[15] = 99;
        let hashes = [
            parent,
            PrefixHasher::new("c", b"ab").block(None, &block),
            PrefixHasher::new("bc", b"").block(None, &block),
            base.block(Some(parent), &block),
            base.block(Some(BlockHash([0; 16])), &block),
            base.block(None, &other),
        ];
        for (index, hash) in hashes.iter().enumerate() {
            assert!(
                !hashes[..index].contains(hash),
                "hash {index} repeats an earlier one"
            );
        }
    }

    #[test]
    fn the_key_is_not_printed() {
        assert_eq!(
            format!("{:?}", PrefixHasher::new("m", b"s")),
            "PrefixHasher { .. }"
        );
    }
}
