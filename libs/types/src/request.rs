//! A request as the bus carries it, and its cancellation.

use crate::{
    BillingClass, Constraint, FrontendId, KeyId, ModelName, RequestId, SamplingParams, StopRules, TenantId,
    TextRules, TokenCounts, TokenId,
};

/// One request, validated and tokenized: all a worker needs to know.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The same for every attempt.
    pub request_id: RequestId,
    /// 0 for the first dispatch; a larger one fences all smaller ones.
    pub attempt: u32,
    /// Whose request it is; salts the prefix cache.
    pub tenant: TenantId,
    /// The key it came with.
    pub key: KeyId,
    /// The model, alias resolved.
    pub model: ModelName,
    /// Where tokens go.
    pub frontend: FrontendId,
    /// The frontend's own name for the stream, echoed in every chunk.
    pub handle: u64,
    /// When the frontend accepted it, milliseconds since 1970.
    pub created_ms: u64,
    /// When the answer is of no more use, milliseconds since 1970.
    pub deadline_ms: u64,
    /// Deliver each step; false delivers one chunk with everything at the end.
    pub stream: bool,
    /// The prompt, at least one token.
    pub prompt_ids: Vec<TokenId>,
    /// Tokens the client already has from earlier attempts.
    pub emitted_ids: Vec<TokenId>,
    /// How tokens are drawn.
    pub sampling: SamplingParams,
    /// When the sequence ends.
    pub stop: StopRules,
    /// The form its text must have.
    pub constraint: Option<Constraint>,
    /// Which of its tokens have text.
    pub text: TextRules,
    /// Its bill counts the prompt's tokens. Of several choices for one prompt only the first one's does.
    pub bills_prompt: bool,
    /// At which price its bill is.
    pub class: BillingClass,
    /// Larger goes first among waiting requests; 0 is normal.
    pub priority: i32,
    /// Keeps this request's cached prefixes apart from others of its tenant.
    pub cache_salt: Option<String>,
    /// W3C `traceparent` of the frontend's span.
    pub trace_parent: Option<String>,
    /// When this attempt was put into the queue, microseconds since 1970; told of requests whose trace is recorded.
    pub published_us: Option<u64>,
    /// What is asked of the model.
    pub task: Task,
    /// Report the log-probabilities of the prompt's own tokens, and this many of the most likely tokens at each position.
    pub prompt_logprobs: Option<u8>,
}

/// What a request asks of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Task {
    /// Tokens drawn after the prompt.
    #[default]
    Generate,
    /// No token: the prompt's log-probabilities from a position on, whose prefix may come from the cache.
    Score {
        /// Position of the first scored token, at least 1.
        first: u32,
    },
    /// No token: one vector for the whole prompt.
    Embed {
        /// Which positions make it.
        pooling: Pooling,
        /// Keep this many of its first elements; none keeps all.
        dimensions: Option<u32>,
    },
}

impl Task {
    /// Whether tokens are drawn. The others end with their prompt, and `max_tokens` is 0.
    #[must_use]
    pub const fn draws(self) -> bool {
        match self {
            Self::Generate => true,
            Self::Score { .. } | Self::Embed { .. } => false,
        }
    }
}

/// How the hidden states of a prompt become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Pooling {
    /// The last token's, which has seen all the others.
    #[default]
    LastToken,
    /// The mean of all.
    Mean,
}

impl Request {
    /// What its bill counts of what it used.
    #[must_use]
    pub fn billed(&self, used: TokenCounts) -> TokenCounts {
        if self.bills_prompt {
            return used;
        }
        TokenCounts {
            completion: used.completion,
            ..TokenCounts::default()
        }
    }
}

/// "Nobody waits for this any more."
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cancel {
    /// The request to end.
    pub request_id: RequestId,
    /// Attempts up to this one are meant.
    pub attempt: u32,
    /// A newer attempt goes on: the older ones end without a word and without a bill.
    pub superseded: bool,
}
