//! What every store of keys does. Each claim gets an empty one.

use vlinders_types::{KeyId, TenantId};

use crate::{
    ApiKey, Budget, KeyDigest, KeyLimits, KeyRules, KeySecret, KeyStore, NewKey, NewSecret, Scope, Scopes,
    new_key_id,
};

/// A key with every rule set, and its secret.
///
/// # Panics
/// When the system has no random numbers.
#[must_use]
pub fn new_key(name: &str, created_ms: u64) -> (NewKey, KeySecret) {
    let secret = KeySecret::generate().expect("the system has random numbers");
    let rules = KeyRules {
        scopes: Scopes::of(&[Scope::Inference, Scope::Admin]),
        models: Some(vec![
            "gpt-4".to_owned(),
            "a/b'; DROP TABLE api_keys; --".to_owned(),
        ]),
        is_lenient: true,
        max_priority: Some(-3),
        limits: KeyLimits {
            requests_per_minute: Some(u32::MAX),
            tokens_per_minute: Some(1),
            concurrent_streams: Some(0),
            daily: Budget {
                tokens: Some(u64::MAX / 2),
                nanos: None,
            },
            monthly: Budget {
                tokens: None,
                nanos: Some(5_000_000_000),
            },
        },
        expires_ms: Some(253_402_300_800_000),
        ..KeyRules::new(name, TenantId::new("tenant \u{1F98B}"))
    };
    let key = ApiKey {
        id: new_key_id().expect("the system has random numbers"),
        prefix: secret.prefix(),
        rules,
        created_ms,
        revoked_ms: None,
        last_used_ms: None,
    };
    let digest = secret.digest();
    (NewKey { key, digest }, secret)
}

fn following(secret: &KeySecret, previous_until_ms: u64) -> NewSecret {
    NewSecret {
        digest: secret.digest(),
        prefix: secret.prefix(),
        previous_until_ms,
    }
}

/// Keys read back as they were, by secret, by name and in the order in which they were made.
///
/// # Panics
/// When they do not.
pub async fn keys_read_back(store: &dyn KeyStore) {
    let (full, secret) = new_key("full", 2);
    let (mut plain, _) = new_key("plain", 1);
    plain.key.rules = KeyRules::new("plain", TenantId::new("t"));
    for key in [&full, &plain] {
        store.insert_key(key).await.expect("a new key is stored");
    }
    let found = store.find_key(&secret.digest()).await.expect("keys can be read");
    let found = found.expect("it is there");
    assert_eq!(found.key, full.key);
    assert!(found.opens_with(&secret.digest(), 3) && found.previous.is_none());
    assert!(
        !found.opens_with(&secret.digest(), 253_402_300_800_000),
        "it has expired"
    );
    assert!(!found.opens_with(&plain.digest, 3));
    let all = store.keys().await.expect("keys can be read");
    assert_eq!(all, [plain.key.clone(), full.key]);
    assert_eq!(
        store.key(&plain.key.id).await.expect("keys can be read"),
        Some(plain.key)
    );
    let stranger = KeyDigest::of("vl-0");
    assert_eq!(store.find_key(&stranger).await.expect("keys can be read"), None);
    assert_eq!(store.key(&KeyId::new("x")).await.expect("keys can be read"), None);
}

/// After a rotation the old secret is good for a while, and the one before that no more.
///
/// # Panics
/// When it is otherwise.
pub async fn a_rotated_key_has_two_secrets_for_a_while(store: &dyn KeyStore) {
    let (new, first) = new_key("rotated", 1);
    store.insert_key(&new).await.expect("a new key is stored");
    let id = &new.key.id;
    let mut secrets = vec![first];
    for until_ms in [100, 200] {
        let secret = KeySecret::generate().expect("the system has random numbers");
        let rotated = store.rotate_key(id, &following(&secret, until_ms)).await;
        assert!(rotated.expect("keys can be changed"));
        secrets.push(secret);
    }
    let opens = async |secret: &KeySecret, now_ms| {
        let found = store.find_key(&secret.digest()).await.expect("keys can be read");
        found.is_some_and(|key| key.opens_with(&secret.digest(), now_ms))
    };
    assert!(!opens(&secrets[0], 50).await, "two rotations ago");
    assert!(opens(&secrets[1], 199).await && !opens(&secrets[1], 200).await);
    assert!(opens(&secrets[2], 199).await && opens(&secrets[2], 200).await);
    let key = store
        .key(id)
        .await
        .expect("keys can be read")
        .expect("it is there");
    assert_eq!(key.prefix, secrets[2].prefix());
    assert_eq!(key.rules, new.key.rules);
}

/// A revoked key is worth nothing and stays so, and whoever changes it is told.
///
/// # Panics
/// When it is otherwise.
pub async fn a_revoked_key_stays_revoked(store: &dyn KeyStore) {
    let (new, secret) = new_key("revoked", 1);
    store.insert_key(&new).await.expect("a new key is stored");
    let id = &new.key.id;
    assert!(store.revoke_key(id, 5).await.expect("keys can be changed"));
    assert!(!store.revoke_key(id, 9).await.expect("keys can be changed"));
    let rules = KeyRules::new("other", TenantId::new("t"));
    assert!(!store.change_key(id, &rules).await.expect("keys can be changed"));
    let rotated = store.rotate_key(id, &following(&secret, 1)).await;
    assert!(!rotated.expect("keys can be changed"));
    let found = store.find_key(&secret.digest()).await.expect("keys can be read");
    let found = found.expect("it is there");
    assert!(!found.opens_with(&secret.digest(), 1));
    assert_eq!((found.key.revoked_ms, found.key.rules), (Some(5), new.key.rules));
}

/// Rules can be changed; the last use is the latest that anybody saw.
///
/// # Panics
/// When it is otherwise.
pub async fn rules_and_last_uses_can_be_changed(store: &dyn KeyStore) {
    let (new, _) = new_key("changed", 1);
    store.insert_key(&new).await.expect("a new key is stored");
    let id = &new.key.id;
    let rules = KeyRules::new("other name", TenantId::new("other tenant"));
    assert!(store.change_key(id, &rules).await.expect("keys can be changed"));
    let used = [(id.clone(), 7), (KeyId::new("stranger"), 8), (id.clone(), 6)];
    store.keys_used(&used).await.expect("keys can be changed");
    let key = store
        .key(id)
        .await
        .expect("keys can be read")
        .expect("it is there");
    assert_eq!((key.rules, key.last_used_ms), (rules, Some(7)));
    let mut again = new.clone();
    again.key.id = KeyId::new("another");
    assert!(store.insert_key(&again).await.is_err(), "one secret, one key");
}
