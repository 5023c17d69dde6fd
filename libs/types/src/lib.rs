//! The words every other crate speaks: ids, units, limits, and the messages of one request's life.
//!
//! Nothing here acts: no I/O, no clock, no policy. A type belongs here when two crates that must not know
//! each other both name it.

mod batch;
mod constraint;
mod handoff;
mod ids;
mod prompt;
mod request;
mod sampling;
mod tokens;
mod units;
mod usage;

pub use batch::{Batch, BatchRow, SampleResult, SampleRow, Sampled, Span, StepOutput};
pub use constraint::{AwaitedMask, Constraint, TokenMask};
pub use handoff::{Beacon, Hello, Offer, OfferReply, Presence, RefuseReason, ResumeState, Ticket};
pub use ids::{
    BlockHash, BlockId, Epoch, FrontendId, InvalidRequestId, KeyId, ModelName, Pool, PrefixMark, RequestId,
    SequenceId, TenantId, WorkerId,
};
pub use prompt::{PoolResult, PoolRow, ScoreResult, ScoreRow, TokenScore};
pub use request::{Cancel, Pooling, Request, Task};
pub use sampling::{SamplingParams, SpecialTokens, StopRules, TextRules};
pub use tokens::{
    Chunk, FaultKind, Finish, FinishReason, Heartbeat, PromptScores, RequestFault, StepBatch, TokenLogprob,
};
pub use units::{BLOCK_TOKENS, TokenId, blocks_for_tokens};
pub use usage::{BillingClass, TokenCounts, UsageEvent};
