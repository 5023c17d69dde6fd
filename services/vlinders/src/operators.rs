//! Opens the operators' port.

use std::sync::Arc;

use anyhow::{Context, ensure};
use tokio::net::TcpListener;
use vlinders_frontend::{AdminParts, KeyAuthenticator};
use vlinders_ledger::{KeyStore, Scope};
use vlinders_service_kit::{Clock, Metrics};

use crate::settings::{AccessSettings, AdminSettings};

/// What the port works with.
pub(crate) struct Opening<'a> {
    pub(crate) access: &'a AccessSettings,
    pub(crate) store: Arc<dyn KeyStore>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: &'a Metrics,
}

impl Opening<'_> {
    /// Listens where operators are to be served, if they are.
    ///
    /// # Errors
    /// When the address cannot be listened on, or is open to the network and nobody could come in.
    pub(crate) async fn open(self, settings: Option<&AdminSettings>) -> anyhow::Result<Option<AdminParts>> {
        let Some(AdminSettings { listen, token }) = settings else {
            return Ok(None);
        };
        if !listen.ip().is_loopback() && token.is_none() {
            let keys = self
                .store
                .keys()
                .await
                .context("--admin-listen: keys cannot be read")?;
            let now_ms = self.clock.now_ms();
            let has_key = keys
                .iter()
                .any(|key| key.is_valid_at(now_ms) && key.rules.scopes.has(Scope::Admin));
            ensure!(
                has_key,
                "--admin-listen: {listen} is open to the network and there is no credential for it; give \
                 --admin-token-file, make a key with `vlinders keys create --scopes admin`, or use a loopback address"
            );
        }
        let listener = TcpListener::bind(listen).await;
        let listener = listener.with_context(|| format!("--admin-listen: cannot listen on {listen}"))?;
        tracing::info!("operators are served on http://{}", listener.local_addr()?);
        let cache = self.access.cache.clone();
        let keys = KeyAuthenticator::new(Arc::clone(&self.store), cache, self.clock, self.metrics);
        Ok(Some(AdminParts {
            listener,
            store: self.store,
            keys: Arc::new(keys),
            token: *token,
        }))
    }
}
