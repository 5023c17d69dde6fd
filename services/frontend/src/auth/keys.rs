//! API keys, looked up in the ledger's database and remembered for a moment.
//!
//! While the database is away, keys that were seen lately go on; nobody else comes in.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, timeout};
use vlinders_ledger::{KeyDigest, KeyStore, StoredKey};
use vlinders_openai_api::ApiError;
use vlinders_service_kit::{Clock, Counter, Gauge, Metrics, Stage, Tasks};
use vlinders_types::KeyId;

use super::cache::{Cache, Cached};
use super::refusal;
use crate::Caller;
use crate::gate::Gate;

/// Questions to the database at one time. More wait for their turn, and who asks for the same key finds the answer.
const TURNS: usize = 16;

/// How keys are remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyCacheConfig {
    /// How long a key is known without asking again: so long a revoked one goes on.
    pub fresh: Duration,
    /// How long it goes on while the database is away.
    pub outage: Duration,
    /// Keys remembered, and as many texts that are none.
    pub entries: usize,
    /// How long one request may wait for the database.
    pub answer_limit: Duration,
    /// How long a database that is away is left alone.
    pub pause: Duration,
    /// How often it is noted which keys were used.
    pub note_every: Duration,
}

impl Default for KeyCacheConfig {
    fn default() -> Self {
        Self {
            fresh: Duration::from_secs(2),
            outage: Duration::from_secs(600),
            entries: 10_000,
            answer_limit: Duration::from_secs(2),
            pause: Duration::from_secs(1),
            note_every: Duration::from_secs(10),
        }
    }
}

/// Lets in whoever has a key.
pub struct KeyAuthenticator {
    store: Arc<dyn KeyStore>,
    clock: Arc<dyn Clock>,
    config: KeyCacheConfig,
    cache: Mutex<Cache>,
    turns: [tokio::sync::Mutex<()>; TURNS],
    gate: Gate,
    /// Milliseconds since 1970 of the last use, until that is noted.
    used: Mutex<HashMap<KeyId, u64>>,
    lookups: Counter,
    failures: Counter,
    is_up: Gauge,
}

impl KeyAuthenticator {
    /// With an empty cache.
    #[must_use]
    pub fn new(
        store: Arc<dyn KeyStore>,
        config: KeyCacheConfig,
        clock: Arc<dyn Clock>,
        metrics: &Metrics,
    ) -> Self {
        let lookups = |result| {
            let help = "Keys looked up in the database, by result";
            metrics.counter("key_lookups", help, &[("result", result)])
        };
        let is_up = metrics.gauge("keys_up", "Whether the database of keys answers", &[]);
        is_up.set(1.0);
        Self {
            store,
            clock,
            cache: Mutex::new(Cache::new(config.entries, config.fresh, config.outage)),
            turns: [(); TURNS].map(|()| tokio::sync::Mutex::new(())),
            gate: Gate::new(config.pause),
            used: Mutex::default(),
            lookups: lookups("answered"),
            failures: lookups("failed"),
            is_up,
            config,
        }
    }

    /// Notes now and then which keys were used, until the tasks stop.
    pub fn watch(self: &Arc<Self>, tasks: &Tasks) {
        let (keys, stopping) = (Arc::clone(self), tasks.stopping(Stage::Flush));
        tasks.spawn(Stage::Flush, "keys-used", async move {
            let mut ticks = tokio::time::interval(keys.config.note_every);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                let is_last = tokio::select! {
                    biased;
                    () = stopping.cancelled() => true,
                    _ = ticks.tick() => false,
                };
                keys.note_used().await;
                if is_last {
                    return;
                }
            }
        });
    }

    /// Who comes with this text.
    ///
    /// # Errors
    /// 401 when it is no key or one that is not valid now; 503 when nobody can tell.
    pub async fn caller(&self, credential: &str) -> Result<Caller, ApiError> {
        let digest = KeyDigest::of(credential);
        let now_ms = self.clock.now_ms();
        let stored = self.find(digest).await?;
        // Equal hashes are compared in constant time, and whatever the cache holds has its own dates.
        let stored = stored.filter(|stored| stored.opens_with(&digest, now_ms));
        let stored = stored.ok_or_else(refusal::unknown_key)?;
        self.remember_use(&stored.key.id, now_ms);
        Ok(Caller::of_key(&stored.key))
    }

    /// Whether the holder of this key would come in now.
    ///
    /// # Errors
    /// 401 when not; 503 when nobody can tell.
    pub async fn renew(&self, caller: &Caller) -> Result<Caller, ApiError> {
        let found = timeout(self.config.answer_limit, self.store.key(&caller.key)).await;
        let key = match found {
            Ok(Ok(key)) => key,
            Ok(Err(error)) => {
                self.failed(&error.to_string());
                return Err(refusal::unavailable());
            }
            Err(_late) => {
                self.failed("no answer within the limit");
                return Err(refusal::unavailable());
            }
        };
        let now_ms = self.clock.now_ms();
        let key = key.filter(|key| key.is_valid_at(now_ms) && key.rules.tenant == caller.tenant);
        let key = key.ok_or_else(refusal::unknown_key)?;
        self.remember_use(&key.id, now_ms);
        Ok(Caller::of_key(&key))
    }

    async fn find(&self, digest: KeyDigest) -> Result<Option<Arc<StoredKey>>, ApiError> {
        if let Cached::Fresh(found) = self.cache().get(&digest) {
            return Ok(found);
        }
        match timeout(self.config.answer_limit, self.ask(digest)).await {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => {}
            Err(_late) => self.failed("no answer within the limit"),
        }
        match self.cache().get(&digest) {
            Cached::Fresh(found) => Ok(found),
            Cached::Stale(key) => Ok(Some(key)),
            Cached::Nothing => Err(refusal::unavailable()),
        }
    }

    /// What the database says, or nothing when it is away.
    async fn ask(&self, digest: KeyDigest) -> Option<Option<Arc<StoredKey>>> {
        let turn = digest.spread() % TURNS;
        let _turn = self.turns[turn].lock().await;
        // Somebody may have asked while this one waited.
        if let Cached::Fresh(found) = self.cache().get(&digest) {
            return Some(found);
        }
        if !self.gate.lets_ask(Instant::now()) {
            return None;
        }
        match self.store.find_key(&digest).await {
            Ok(found) => {
                let found = found.map(Arc::new);
                self.cache().put(digest, found.clone());
                self.lookups.inc();
                self.is_up.set(1.0);
                if self.gate.answered() {
                    tracing::info!("keys can be looked up again");
                }
                Some(found)
            }
            Err(error) => {
                self.failed(&error.to_string());
                None
            }
        }
    }

    fn failed(&self, why: &str) {
        self.failures.inc();
        self.is_up.set(0.0);
        if self.gate.failed(Instant::now()) {
            tracing::warn!(why, "keys cannot be looked up; those seen lately go on");
        }
    }

    fn remember_use(&self, id: &KeyId, now_ms: u64) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if used.len() < self.config.entries || used.contains_key(id) {
            used.insert(id.clone(), now_ms);
        }
    }

    async fn note_used(&self) {
        let used = std::mem::take(&mut *self.used.lock().unwrap_or_else(PoisonError::into_inner));
        if used.is_empty() {
            return;
        }
        let used = Vec::from_iter(used);
        if let Err(error) = self.store.keys_used(&used).await {
            tracing::debug!(%error, "the last uses of keys are not noted");
        }
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
