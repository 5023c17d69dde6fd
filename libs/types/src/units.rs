//! Units that the whole system shares.

/// A token of a model's vocabulary, as the tokenizer numbers it.
pub type TokenId = u32;

/// Tokens in one KV block. One block holds these tokens for every layer and head.
pub const BLOCK_TOKENS: u32 = 16;

/// Blocks needed to hold the keys and values of `tokens` tokens.
#[must_use]
pub const fn blocks_for_tokens(tokens: u32) -> u32 {
    tokens.div_ceil(BLOCK_TOKENS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_counted_from_its_first_token() {
        assert_eq!([0, 1, 16, 17].map(blocks_for_tokens), [0, 1, 1, 2]);
    }
}
