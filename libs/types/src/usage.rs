//! What is billed.

use crate::{FinishReason, KeyId, ModelName, RequestId, TenantId, WorkerId};

/// Tokens of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct TokenCounts {
    /// Tokens of the prompt.
    pub prompt: u32,
    /// Prompt tokens whose keys and values were found in the prefix cache.
    pub cached: u32,
    /// Tokens generated and delivered, over all attempts.
    pub completion: u32,
}

/// The one usage event of a request. `request_id` is its identity: recording it twice changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageEvent {
    /// Unique in the ledger.
    pub request_id: RequestId,
    /// The attempt that ended it.
    pub attempt: u32,
    /// Who pays.
    pub tenant: TenantId,
    /// The key used.
    pub key: KeyId,
    /// The model, alias resolved.
    pub model: ModelName,
    /// Who wrote this event: a worker, or a frontend for a request no worker took.
    pub writer: WorkerId,
    /// What was used.
    pub counts: TokenCounts,
    /// How it ended.
    pub finish: FinishReason,
    /// Whether it was streamed.
    pub stream: bool,
    /// Accepted, milliseconds since 1970.
    pub created_ms: u64,
    /// First token sent, milliseconds since 1970; none when it never came to that.
    pub first_token_ms: Option<u64>,
    /// Ended, milliseconds since 1970.
    pub finished_ms: u64,
}
