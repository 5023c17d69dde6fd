//! Usage events, and the words they share with other messages.

use bytes::Bytes;
use vlinders_types::{
    BillingClass, FinishReason, KeyId, ModelName, TenantId, TokenCounts, UsageEvent, WorkerId,
};

use crate::check::{Check, encode, request_id_bytes};
use crate::limits::MAX_CONTROL_BYTES;
use crate::{Fault, WireError, generated};

const USAGE: Check = Check {
    message: "UsageEvent",
};
const COUNTS: Check = Check {
    message: "TokenCounts",
};

/// As bytes.
#[must_use]
pub fn encode_usage_event(event: &UsageEvent) -> Bytes {
    encode(&generated::UsageEvent {
        request_id: request_id_bytes(event.request_id),
        attempt: event.attempt,
        tenant: event.tenant.as_str().to_owned(),
        key: event.key.as_str().to_owned(),
        model: event.model.as_str().to_owned(),
        writer: event.writer.as_str().to_owned(),
        counts: Some(event.counts.into()),
        finish: generated::FinishReason::from(event.finish).into(),
        stream: event.stream,
        created_ms: event.created_ms,
        first_token_ms: event.first_token_ms,
        finished_ms: event.finished_ms,
        class: generated::BillingClass::from(event.class).into(),
    })
}

/// From bytes.
///
/// # Errors
/// Too large, malformed, or a field that breaks its rule.
pub fn decode_usage_event(bytes: &[u8]) -> Result<UsageEvent, WireError> {
    let wire: generated::UsageEvent = USAGE.decode(bytes, MAX_CONTROL_BYTES)?;
    USAGE.name("tenant", &wire.tenant)?;
    USAGE.name("key", &wire.key)?;
    USAGE.name("model", &wire.model)?;
    USAGE.name("writer", &wire.writer)?;
    Ok(UsageEvent {
        request_id: USAGE.request_id(&wire.request_id)?,
        attempt: wire.attempt,
        tenant: TenantId::new(&wire.tenant),
        key: KeyId::new(&wire.key),
        model: ModelName::new(&wire.model),
        writer: WorkerId::new(&wire.writer),
        counts: USAGE.present("counts", wire.counts)?.try_into()?,
        finish: finish_reason(USAGE, "finish", wire.finish)?,
        stream: wire.stream,
        created_ms: wire.created_ms,
        first_token_ms: wire.first_token_ms,
        finished_ms: wire.finished_ms,
        class: billing_class(USAGE, wire.class)?,
    })
}

impl From<TokenCounts> for generated::TokenCounts {
    fn from(counts: TokenCounts) -> Self {
        Self {
            prompt: counts.prompt,
            cached: counts.cached,
            completion: counts.completion,
        }
    }
}

impl TryFrom<generated::TokenCounts> for TokenCounts {
    type Error = WireError;

    fn try_from(wire: generated::TokenCounts) -> Result<Self, WireError> {
        COUNTS.require("cached", wire.cached <= wire.prompt, Fault::Disagrees("prompt"))?;
        Ok(Self {
            prompt: wire.prompt,
            cached: wire.cached,
            completion: wire.completion,
        })
    }
}

impl From<BillingClass> for generated::BillingClass {
    fn from(class: BillingClass) -> Self {
        match class {
            BillingClass::Standard => Self::Standard,
            BillingClass::Batch => Self::Batch,
            BillingClass::Cached => Self::Cached,
        }
    }
}

/// A class that this version does not know has a price that it does not know: refused, never guessed.
pub(crate) fn billing_class(check: Check, value: i32) -> Result<BillingClass, WireError> {
    use generated::BillingClass as Wire;
    let known = Wire::try_from(value).map_err(|_| check.fault("class", Fault::UnknownValue(value)))?;
    Ok(match known {
        Wire::Standard => BillingClass::Standard,
        Wire::Batch => BillingClass::Batch,
        Wire::Cached => BillingClass::Cached,
    })
}

impl From<FinishReason> for generated::FinishReason {
    fn from(reason: FinishReason) -> Self {
        match reason {
            FinishReason::Stop => Self::Stop,
            FinishReason::Length => Self::Length,
            FinishReason::Cancelled => Self::Cancelled,
            FinishReason::Error => Self::Error,
        }
    }
}

pub(crate) fn finish_reason(
    check: Check,
    field: &'static str,
    value: i32,
) -> Result<FinishReason, WireError> {
    use generated::FinishReason as Wire;
    Ok(match check.known(field, value)? {
        Wire::Unspecified => return Err(check.fault(field, Fault::Missing)),
        Wire::Stop => FinishReason::Stop,
        Wire::Length => FinishReason::Length,
        Wire::Cancelled => FinishReason::Cancelled,
        Wire::Error => FinishReason::Error,
    })
}
