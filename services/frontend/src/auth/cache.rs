//! What is known of keys for a moment: a bounded number of them, and a bounded number of texts that are none.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use vlinders_ledger::{KeyDigest, StoredKey};

/// What the cache says of a text.
pub(super) enum Cached {
    /// A key, or none.
    Fresh(Option<Arc<StoredKey>>),
    /// It was this key a while ago: good while nobody else can be asked.
    Stale(Arc<StoredKey>),
    Nothing,
}

pub(super) struct Cache {
    /// With the time at which it was read.
    keys: HashMap<KeyDigest, (Arc<StoredKey>, Instant)>,
    strangers: HashMap<KeyDigest, Instant>,
    entries: usize,
    fresh: Duration,
    stale: Duration,
}

impl Cache {
    /// `entries` keys and as many strangers; a word is good for `fresh`, and without anybody to ask for `stale`.
    pub(super) fn new(entries: usize, fresh: Duration, stale: Duration) -> Self {
        Self {
            keys: HashMap::new(),
            strangers: HashMap::new(),
            entries,
            fresh,
            stale,
        }
    }

    pub(super) fn get(&self, digest: &KeyDigest) -> Cached {
        if let Some((key, read)) = self.keys.get(digest) {
            return match read.elapsed() {
                age if age < self.fresh => Cached::Fresh(Some(Arc::clone(key))),
                age if age < self.stale => Cached::Stale(Arc::clone(key)),
                _ => Cached::Nothing,
            };
        }
        match self.strangers.get(digest) {
            Some(read) if read.elapsed() < self.fresh => Cached::Fresh(None),
            Some(_) | None => Cached::Nothing,
        }
    }

    pub(super) fn put(&mut self, digest: KeyDigest, key: Option<Arc<StoredKey>>) {
        let now = Instant::now();
        let Some(key) = key else {
            self.keys.remove(&digest);
            if self.strangers.len() >= self.entries {
                let fresh = self.fresh;
                self.strangers.retain(|_, read| read.elapsed() < fresh);
                // Somebody guesses. Forgetting costs a question, remembering memory.
                if self.strangers.len() >= self.entries {
                    self.strangers.clear();
                }
            }
            self.strangers.insert(digest, now);
            return;
        };
        self.strangers.remove(&digest);
        if self.keys.len() >= self.entries && !self.keys.contains_key(&digest) {
            let stale = self.stale;
            self.keys.retain(|_, (_, read)| read.elapsed() < stale);
            let oldest = self.keys.iter().min_by_key(|(_, (_, read))| *read);
            if self.keys.len() >= self.entries
                && let Some((oldest, _)) = oldest
            {
                let oldest = *oldest;
                self.keys.remove(&oldest);
            }
        }
        self.keys.insert(digest, (key, now));
    }
}

#[cfg(test)]
mod tests {
    use vlinders_ledger::{ApiKey, KeyRules};
    use vlinders_types::{KeyId, TenantId};

    use super::*;

    fn key(name: &str) -> (KeyDigest, Arc<StoredKey>) {
        let digest = KeyDigest::of(name);
        let key = ApiKey {
            id: KeyId::new(name),
            prefix: name.to_owned(),
            rules: KeyRules::new(name, TenantId::new("t")),
            created_ms: 0,
            revoked_ms: None,
            last_used_ms: None,
        };
        let stored = StoredKey {
            key,
            digest,
            previous: None,
        };
        (digest, Arc::new(stored))
    }

    #[tokio::test(start_paused = true)]
    async fn both_kinds_of_entries_are_bounded_and_age() {
        let mut cache = Cache::new(3, Duration::from_secs(2), Duration::from_secs(10));
        for number in 0..100 {
            cache.put(KeyDigest::of(&format!("stranger {number}")), None);
            let (digest, stored) = key(&format!("key {number}"));
            cache.put(digest, Some(stored));
            assert!(cache.keys.len() <= 3 && cache.strangers.len() <= 3);
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        let (last, _) = key("key 99");
        let stranger = KeyDigest::of("stranger 99");
        assert!(matches!(cache.get(&last), Cached::Fresh(Some(_))));
        assert!(matches!(cache.get(&stranger), Cached::Fresh(None)));
        assert!(
            matches!(cache.get(&key("key 0").0), Cached::Nothing),
            "the oldest goes"
        );
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(matches!(cache.get(&last), Cached::Stale(_)));
        assert!(matches!(cache.get(&stranger), Cached::Nothing));
        tokio::time::advance(Duration::from_secs(8)).await;
        assert!(matches!(cache.get(&last), Cached::Nothing));
    }
}
