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

/// At which of its prices a request is billed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum BillingClass {
    /// Answered while its caller waited.
    #[default]
    Standard,
    /// A line of a batch.
    Batch,
    /// Answered from answers given before, without a worker.
    Cached,
}

impl BillingClass {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Standard, Self::Batch, Self::Cached];

    /// The name in the ledger, in exports and in metric labels.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Batch => "batch",
            Self::Cached => "cached",
        }
    }

    /// The class of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.name() == name)
    }
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
    /// At which price.
    pub class: BillingClass,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_is_found_by_its_name_and_no_other_is() {
        for class in BillingClass::ALL {
            assert_eq!(BillingClass::named(class.name()), Some(class));
        }
        assert_eq!(BillingClass::named("Batch"), None);
        assert_eq!(BillingClass::default().name(), "standard");
    }
}
