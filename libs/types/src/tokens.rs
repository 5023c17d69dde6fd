//! What workers send back: one [`StepBatch`] per engine step and frontend.

use crate::{Epoch, FrontendId, TokenCounts, TokenId, TokenScore, WorkerId};

/// All chunks of one engine step for one frontend.
#[derive(Clone, Debug, PartialEq)]
pub struct StepBatch {
    /// Who computed it.
    pub worker: WorkerId,
    /// Which life of that worker.
    pub epoch: Epoch,
    /// Counts the batches of this worker to this frontend, from 1 without gaps.
    pub batch_seq: u64,
    /// One entry per sequence that has news.
    pub chunks: Vec<Chunk>,
}

/// News of one sequence. Without ids, text, finish and anything else it says that the worker has taken the request out of
/// the queue.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Chunk {
    /// The frontend's name for the stream.
    pub handle: u64,
    /// The attempt that produced it; older ones are dropped.
    pub attempt: u32,
    /// Index of the first of `ids` among the generated tokens, emitted ones of earlier attempts included.
    pub position: u32,
    /// New tokens.
    pub ids: Vec<TokenId>,
    /// New text. May lag behind `ids` while a character or a possible stop text is incomplete.
    pub text: String,
    /// One per entry of `ids` when asked for, else empty.
    pub logprobs: Vec<TokenLogprob>,
    /// Set on the last chunk of the sequence.
    pub finish: Option<Finish>,
    /// Its worker leaves and lets go of the sequence here: it goes on with another attempt, at once. Never beside `finish`.
    pub handed_back: bool,
    /// Scores of prompt tokens, when asked for. All of them come before or with the first token, in order.
    pub prompt_scores: Option<PromptScores>,
    /// The vector of a [`crate::Task::Embed`], of length 1; with `finish`. Empty for all others.
    pub embedding: Vec<f32>,
}

/// Scores of prompt tokens that follow one another.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptScores {
    /// Position of the first of them, at least 1: nothing comes before the prompt's first token.
    pub first: u32,
    /// At least one.
    pub scores: Vec<TokenScore>,
}

impl Chunk {
    /// Whether it tells nothing of the sequence. As a whole chunk it then says that the worker has taken the request.
    #[must_use]
    pub fn says_nothing(&self) -> bool {
        let is_silent = self.ids.is_empty() && self.text.is_empty() && self.logprobs.is_empty();
        let has_no_end = self.finish.is_none() && !self.handed_back;
        is_silent && has_no_end && self.prompt_scores.is_none() && self.embedding.is_empty()
    }
}

/// A token's log-probability and its most likely rivals, natural logarithm of the unmodified distribution.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprob {
    /// The token.
    pub id: TokenId,
    /// The bytes it stands for; not always whole characters.
    pub bytes: Vec<u8>,
    /// At most 0.
    pub logprob: f32,
    /// Most likely first: token, bytes, log-probability.
    pub top: Vec<(TokenId, Vec<u8>, f32)>,
}

/// How a sequence ended, with what it used.
#[derive(Clone, Debug, PartialEq)]
pub struct Finish {
    /// Why.
    pub reason: FinishReason,
    /// The stop text that matched, if one did.
    pub stop_text: Option<String>,
    /// What was used and delivered.
    pub counts: TokenCounts,
    /// Present when `reason` is [`FinishReason::Error`].
    pub fault: Option<RequestFault>,
}

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FinishReason {
    /// End-of-sequence token, stop token or stop text.
    Stop,
    /// `max_tokens` or the context is used up.
    Length,
    /// The client left or its frontend is gone.
    Cancelled,
    /// It failed; the fault says why.
    Error,
}

impl FinishReason {
    /// The name in the ledger and in metric labels.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Cancelled => "cancelled",
            Self::Error => "error",
        }
    }
}

/// What went wrong with one request, fit for the caller's eyes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestFault {
    /// Decides the HTTP status.
    pub kind: FaultKind,
    /// A fixed text that names what to do. Details go to the log only.
    pub message: String,
}

/// The classes of failure a worker can report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// The request itself cannot be served: 400.
    Invalid,
    /// Nothing has room for it now: 503.
    Overloaded,
    /// Its deadline passed: 504.
    Deadline,
    /// Our fault: 500.
    Internal,
}

/// A worker's sign of life, beside its [`crate::Beacon`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// The frontend that lives.
    pub frontend: FrontendId,
}
