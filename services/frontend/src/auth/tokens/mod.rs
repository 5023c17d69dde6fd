//! Signed tokens (JWT): who calls stands in the token, and whoever signed it answers for that.
//!
//! A token names its key, which must be one of those allowed here; what else its header says of keys and places is not
//! looked at. RS256 is the one algorithm, and HS256 where a secret is configured for it.

mod claims;
mod keys;

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use tokio::time::MissedTickBehavior;
use vlinders_openai_api::ApiError;
use vlinders_service_kit::{Counter, Metrics, Stage, Tasks};

use self::claims::Claims;
pub(super) use self::claims::is_of_token;
pub use self::keys::{KeySource, TokenFault};
use self::keys::{PublicKeys, read_all};
use super::refusal;
use crate::Caller;

/// A shorter secret can be guessed by whoever has one token.
const SECRET_BYTES: usize = 32;

/// Which tokens are good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenConfig {
    /// Files of RSA public keys, read again when they change.
    pub sources: Vec<KeySource>,
    /// Whoever tokens must be for (`aud`).
    pub audience: String,
    /// Whoever they must be from (`iss`), if that is checked.
    pub issuer: Option<String>,
    /// How far the signer's clock may be off.
    pub leeway: Duration,
    /// How often the files are looked at.
    pub look_every: Duration,
}

impl TokenConfig {
    /// Tokens for `vlinders`, signed with keys from these files.
    #[must_use]
    pub fn new(sources: Vec<KeySource>) -> Self {
        Self {
            sources,
            audience: "vlinders".to_owned(),
            issuer: None,
            leeway: Duration::from_secs(30),
            look_every: Duration::from_secs(5),
        }
    }
}

/// Lets in whoever has a signed token.
pub struct TokenAuthenticator {
    config: TokenConfig,
    keys: RwLock<Arc<PublicKeys>>,
    secret: Option<DecodingKey>,
    refused: Counter,
}

impl TokenAuthenticator {
    /// Reads the keys. With `secret`, tokens signed with it by HS256 are good too.
    ///
    /// # Errors
    /// When a file cannot be read or holds no RSA key, two keys have one name, or the secret is short.
    pub fn new(config: TokenConfig, secret: Option<&str>, metrics: &Metrics) -> Result<Self, TokenFault> {
        if secret.is_some_and(|secret| secret.len() < SECRET_BYTES) {
            return Err(TokenFault::ShortSecret { bytes: SECRET_BYTES });
        }
        let keys = PublicKeys::parse(&read_all(&config.sources)?)?;
        Ok(Self {
            config,
            keys: RwLock::new(Arc::new(keys)),
            secret: secret.map(|secret| DecodingKey::from_secret(secret.as_bytes())),
            refused: metrics.counter("tokens_refused", "Signed tokens that were refused", &[]),
        })
    }

    /// Reads changed files until the tasks stop. One that cannot be read changes nothing.
    pub fn watch(self: &Arc<Self>, tasks: &Tasks) {
        let (tokens, stopping) = (Arc::clone(self), tasks.stopping(Stage::Intake));
        tasks.spawn(Stage::Intake, "token-keys", async move {
            let mut ticks = tokio::time::interval(tokens.config.look_every);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut told = None;
            loop {
                tokio::select! {
                    biased;
                    () = stopping.cancelled() => return,
                    _ = ticks.tick() => {}
                }
                let looker = Arc::clone(&tokens);
                let looked = tokio::task::spawn_blocking(move || looker.look()).await;
                let fault = looked.ok().and_then(Result::err).map(|fault| fault.to_string());
                if let Some(fault) = &fault
                    && told.as_ref() != Some(fault)
                {
                    tracing::warn!(fault, "the keys of tokens stay as they are");
                }
                told = fault;
            }
        });
    }

    /// Reads the files and takes what they hold. Blocks.
    ///
    /// # Errors
    /// When they hold no usable keys: those read before stay.
    pub fn look(&self) -> Result<(), TokenFault> {
        let files = read_all(&self.config.sources)?;
        if self.keys().is_of(&files) {
            return Ok(());
        }
        let keys = Arc::new(PublicKeys::parse(&files)?);
        tracing::info!(keys = keys.names(), "the keys of tokens have changed");
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
        Ok(())
    }

    /// Who comes with this token.
    ///
    /// # Errors
    /// 401 when it is none, or not good here and now.
    pub fn caller(&self, token: &str) -> Result<Caller, ApiError> {
        let claims = self.claims(token).and_then(Claims::into_caller);
        claims.ok_or_else(|| {
            self.refused.inc();
            refusal::bad_token()
        })
    }

    fn claims(&self, token: &str) -> Option<Claims> {
        let header = decode_header(token).ok()?;
        // What must be understood, and is not.
        if header.crit.is_some() {
            return None;
        }
        let keys = self.keys();
        // The key decides about the algorithm, never the token about the key's use.
        let (algorithm, key) = if header.alg == Algorithm::RS256 {
            (Algorithm::RS256, keys.find(header.kid.as_deref()?)?)
        } else if header.alg == Algorithm::HS256 {
            (Algorithm::HS256, self.secret.as_ref()?)
        } else {
            return None;
        };
        Some(decode(token, key, &self.validation(algorithm)).ok()?.claims)
    }

    fn validation(&self, algorithm: Algorithm) -> Validation {
        let mut validation = Validation::new(algorithm);
        validation.leeway = self.config.leeway.as_secs();
        validation.validate_nbf = true;
        validation.set_audience(&[&self.config.audience]);
        let mut required = vec!["exp", "aud", "sub"];
        if let Some(issuer) = &self.config.issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        validation.set_required_spec_claims(&required);
        validation
    }

    fn keys(&self) -> Arc<PublicKeys> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }
}
