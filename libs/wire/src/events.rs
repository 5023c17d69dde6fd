//! The tap: one request's tokens for outside subscribers of its tenant.

use bytes::Bytes;
use vlinders_types::{FinishReason, KeyId, ModelName, RequestId, TokenCounts, TokenId};

use crate::check::{Check, encode, request_id_bytes};
use crate::limits::{MAX_MESSAGE_BYTES, MAX_TOKENS};
use crate::usage::finish_reason;
use crate::{WireError, generated};

const EVENT: Check = Check {
    message: "TenantTokens",
};

/// News of one request, published on the subject of its tenant and nowhere else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantTokens {
    /// Whose news.
    pub request_id: RequestId,
    /// The served model.
    pub model: ModelName,
    /// The key the request came with.
    pub key: KeyId,
    /// Index of the first of `ids` among the generated tokens.
    pub position: u32,
    /// New tokens.
    pub ids: Vec<TokenId>,
    /// New text.
    pub text: String,
    /// With the last news: why it ended and what was used.
    pub finish: Option<(FinishReason, TokenCounts)>,
}

/// As bytes.
#[must_use]
pub fn encode_tenant_tokens(event: &TenantTokens) -> Bytes {
    let reason = match event.finish {
        None => generated::FinishReason::Unspecified,
        Some((reason, _)) => reason.into(),
    };
    encode(&generated::TenantTokens {
        request_id: request_id_bytes(event.request_id),
        model: event.model.as_str().to_owned(),
        key: event.key.as_str().to_owned(),
        position: event.position,
        ids: event.ids.clone(),
        text: event.text.clone(),
        finish: reason.into(),
        counts: event.finish.map(|(_, counts)| counts.into()),
    })
}

/// From bytes.
///
/// # Errors
/// Too large, malformed, or a field that breaks its rule.
pub fn decode_tenant_tokens(bytes: &[u8]) -> Result<TenantTokens, WireError> {
    let wire: generated::TenantTokens = EVENT.decode(bytes, MAX_MESSAGE_BYTES)?;
    EVENT.name("model", &wire.model)?;
    EVENT.name("key", &wire.key)?;
    EVENT.length("ids", wire.ids.len(), MAX_TOKENS)?;
    let finish = match wire.counts {
        None if wire.finish == 0 => None,
        None => return Err(EVENT.fault("counts", crate::Fault::Missing)),
        Some(counts) => Some((finish_reason(EVENT, "finish", wire.finish)?, counts.try_into()?)),
    };
    Ok(TenantTokens {
        request_id: EVENT.request_id(&wire.request_id)?,
        model: ModelName::new(&wire.model),
        key: KeyId::new(&wire.key),
        position: wire.position,
        ids: wire.ids,
        text: wire.text,
        finish,
    })
}
