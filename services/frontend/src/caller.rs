//! Who calls, and what they may.

use std::sync::Arc;

use vlinders_ledger::{ApiKey, KeyLimits, Scope, Scopes};
use vlinders_openai_api::{ApiError, UnknownFields};
use vlinders_types::{BillingClass, KeyId, TenantId};

/// Whoever sent a request, once known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Who pays, and whose cache it is.
    pub tenant: TenantId,
    /// The key the request came with.
    pub key: KeyId,
    /// What the key is for.
    pub scopes: Scopes,
    /// Names of the models it may use, as clients write them. None: all.
    pub models: Option<Arc<[String]>>,
    /// Fields nobody knows are passed over rather than refused.
    pub is_lenient: bool,
    /// Requests go into the queue with this priority at most.
    pub max_priority: Option<i32>,
    /// How much it may use.
    pub limits: KeyLimits,
}

impl Caller {
    /// Somebody who may use every model, without limits of their own.
    #[must_use]
    pub fn new(tenant: TenantId, key: KeyId) -> Self {
        Self {
            tenant,
            key,
            scopes: Scopes::default(),
            models: None,
            is_lenient: false,
            max_priority: None,
            limits: KeyLimits::default(),
        }
    }

    /// Whoever holds this key.
    #[must_use]
    pub fn of_key(key: &ApiKey) -> Self {
        let rules = &key.rules;
        Self {
            tenant: rules.tenant.clone(),
            key: key.id.clone(),
            scopes: rules.scopes.clone(),
            models: rules.models.as_deref().map(Arc::from),
            is_lenient: rules.is_lenient,
            max_priority: rules.max_priority,
            limits: rules.limits,
        }
    }

    /// Whether this model may be used, under the name the client wrote.
    #[must_use]
    pub fn may_use(&self, model: &str) -> bool {
        self.models
            .as_ref()
            .is_none_or(|models| models.iter().any(|name| name == model))
    }

    /// The place in the queue of a request that asks for this one. What nobody waits for comes after everything else.
    pub(crate) fn priority(&self, class: BillingClass, asked: i32) -> i32 {
        match class {
            BillingClass::Batch => i32::MIN,
            BillingClass::Standard | BillingClass::Cached => asked.min(self.max_priority.unwrap_or(i32::MAX)),
        }
    }

    /// Refuses a model that may not be used.
    pub(crate) fn require_model(&self, model: &str) -> Result<(), ApiError> {
        if self.may_use(model) {
            return Ok(());
        }
        let text = "model: this API key is not for this model; GET /v1/models lists those it is for";
        Err(ApiError {
            param: Some("model".to_owned()),
            ..ApiError::new(403, "model_not_allowed", text)
        })
    }

    /// What to do with fields nobody knows, where the server does `usual`.
    pub(crate) fn unknown_fields(&self, usual: UnknownFields) -> UnknownFields {
        if self.is_lenient {
            UnknownFields::Ignore
        } else {
            usual
        }
    }

    /// Whether the key is for this. Whoever may change everything may read how it fares.
    #[must_use]
    pub fn may(&self, scope: Scope) -> bool {
        let is_reading = matches!(scope, Scope::Metrics | Scope::Usage);
        self.scopes.has(scope) || (is_reading && self.scopes.has(Scope::Admin))
    }
}
