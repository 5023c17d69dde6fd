//! How much a key may use.

/// What one key may use in a day or a month of UTC. None is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// Tokens, of prompts and answers together.
    pub tokens: Option<u64>,
    /// Money, in billionths of the price table's currency.
    pub nanos: Option<u64>,
}

/// How much one key may use. None is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyLimits {
    /// Requests in a minute. None: what the server gives every key.
    pub requests_per_minute: Option<u32>,
    /// Tokens in a minute, of prompts and answers together.
    pub tokens_per_minute: Option<u64>,
    /// Requests that may run at one time.
    pub concurrent_streams: Option<u32>,
    /// In a day of UTC.
    pub daily: Budget,
    /// In a month of UTC.
    pub monthly: Budget,
}
