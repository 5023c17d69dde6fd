//! What whoever made a batch may, written down: a signed token is gone when the batch runs.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vlinders_ledger::{Budget, KeyLimits};
use vlinders_types::{KeyId, TenantId};

use crate::Caller;

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Rights {
    scopes: String,
    models: Option<Vec<String>>,
    is_lenient: bool,
    requests_per_minute: Option<u32>,
    tokens_per_minute: Option<u64>,
    concurrent_streams: Option<u32>,
    daily_tokens: Option<u64>,
    daily_nanos: Option<u64>,
    monthly_tokens: Option<u64>,
    monthly_nanos: Option<u64>,
}

/// As text.
pub(super) fn written(caller: &Caller) -> String {
    let limits = &caller.limits;
    let rights = Rights {
        scopes: caller.scopes.to_string(),
        models: caller.models.as_deref().map(<[String]>::to_vec),
        is_lenient: caller.is_lenient,
        requests_per_minute: limits.requests_per_minute,
        tokens_per_minute: limits.tokens_per_minute,
        concurrent_streams: limits.concurrent_streams,
        daily_tokens: limits.daily.tokens,
        daily_nanos: limits.daily.nanos,
        monthly_tokens: limits.monthly.tokens,
        monthly_nanos: limits.monthly.nanos,
    };
    serde_json::to_string(&rights).expect("our shapes have text keys and no failing parts")
}

/// Whoever had them. None: they cannot be read.
pub(super) fn read(tenant: &TenantId, key: &KeyId, rights: &str) -> Option<Caller> {
    let rights: Rights = serde_json::from_str(rights).ok()?;
    let budget = |tokens, nanos| Budget { tokens, nanos };
    Some(Caller {
        scopes: rights.scopes.parse().ok()?,
        models: rights.models.map(Arc::from),
        is_lenient: rights.is_lenient,
        limits: KeyLimits {
            requests_per_minute: rights.requests_per_minute,
            tokens_per_minute: rights.tokens_per_minute,
            concurrent_streams: rights.concurrent_streams,
            daily: budget(rights.daily_tokens, rights.daily_nanos),
            monthly: budget(rights.monthly_tokens, rights.monthly_nanos),
        },
        ..Caller::new(tenant.clone(), key.clone())
    })
}

#[cfg(test)]
mod tests {
    use vlinders_ledger::{Scope, Scopes};

    use super::*;

    #[test]
    fn rights_read_back_as_they_were() {
        let mut caller = Caller::new(TenantId::new("t"), KeyId::new("jwt:1:t:s"));
        caller.scopes = Scopes::of(&[Scope::Inference, Scope::Metrics]);
        caller.models = Some(Arc::from(["m".to_owned()]));
        caller.is_lenient = true;
        caller.limits.concurrent_streams = Some(3);
        caller.limits.monthly.nanos = Some(9);
        let back = read(&caller.tenant, &caller.key, &written(&caller));
        assert_eq!(back, Some(caller.clone()));
        assert_eq!(read(&caller.tenant, &caller.key, "{"), None);
    }
}
