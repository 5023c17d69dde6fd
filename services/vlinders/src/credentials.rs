//! Who lets callers in, as the settings have it.

use std::sync::Arc;

use anyhow::Context;
use vlinders_frontend::{Anonymous, Authenticator, Credentials, KeyAuthenticator, TokenAuthenticator};
use vlinders_ledger::KeyStore;
use vlinders_service_kit::{Clock, Metrics, Tasks};

use crate::settings::{AccessSettings, TokenSettings};

/// What an authenticator works with.
pub(crate) struct Doorkeeping<'a> {
    pub(crate) access: &'a AccessSettings,
    pub(crate) tokens: &'a TokenSettings,
    /// Where keys are, if anywhere.
    pub(crate) store: Option<Arc<dyn KeyStore>>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) tasks: &'a Tasks,
    pub(crate) metrics: &'a Metrics,
}

impl Doorkeeping<'_> {
    /// Starts what has to be watched.
    ///
    /// # Errors
    /// When the keys of tokens have become unreadable.
    pub(crate) fn begin(self) -> anyhow::Result<Arc<dyn Authenticator>> {
        if !self.access.requires_keys {
            return Ok(Arc::new(Anonymous));
        }
        let keys = self.store.map(|store| {
            let keys = KeyAuthenticator::new(store, self.access.cache.clone(), self.clock, self.metrics);
            let keys = Arc::new(keys);
            keys.watch(self.tasks);
            keys
        });
        let tokens = self.tokens.are_taken().then(|| {
            let (config, secret) = (self.tokens.config.clone(), self.tokens.secret.as_deref());
            let tokens =
                Arc::new(TokenAuthenticator::new(config, secret, self.metrics).context("--jwt-keys")?);
            tokens.watch(self.tasks);
            anyhow::Ok(tokens)
        });
        Ok(Arc::new(Credentials {
            keys,
            tokens: tokens.transpose()?,
            fixed: self.tokens.fixed.clone(),
        }))
    }
}
