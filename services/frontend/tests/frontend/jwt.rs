//! Signed tokens: good ones say who calls, and no other comes in.

#![expect(
    clippy::unwrap_used,
    reason = "a failed step of a test ends it, here as in the test itself"
)]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use vlinders_frontend::{Credentials, FixedKey, KeySource, TokenAuthenticator, TokenConfig};
use vlinders_service_kit::Metrics;

use crate::support::{Setting, World, check_error, within};

const ONE: &[u8] = include_bytes!("rsa/one.private.pem");
const TWO: &[u8] = include_bytes!("rsa/two.private.pem");
const SECRET: &str = "a secret of more than thirty-two bytes";

fn now_s() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap().as_secs()
}

/// Claims that are good, with these changes; null takes a claim away.
fn claims(changes: &Value) -> Value {
    let mut claims =
        json!({"sub": "ann", "tenant": "acme", "aud": "vlinders", "iss": "us", "exp": now_s() + 60});
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
        .as_object_mut()
        .unwrap()
        .retain(|_, value| !value.is_null());
    claims
}

fn header(algorithm: Algorithm, kid: Option<&str>) -> Header {
    Header {
        kid: kid.map(str::to_owned),
        ..Header::new(algorithm)
    }
}

/// Signed with the first key under the name `one`.
fn signed(changes: &Value) -> String {
    let key = EncodingKey::from_rsa_pem(ONE).unwrap();
    encode(&header(Algorithm::RS256, Some("one")), &claims(changes), &key).unwrap()
}

fn public(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/frontend/rsa/{name}.public.pem"))
}

fn pem(name: &str, file: &str) -> KeySource {
    KeySource::Pem {
        name: name.to_owned(),
        path: public(file),
    }
}

fn set_of(names: &[(&str, &[u8])]) -> String {
    let keys = names.iter().map(|(name, pem)| {
        let key = EncodingKey::from_rsa_pem(pem).unwrap();
        let mut key = Jwk::from_encoding_key(&key, Algorithm::RS256).unwrap();
        key.common.key_id = Some((*name).to_owned());
        key
    });
    serde_json::to_string(&JwkSet { keys: keys.collect() }).unwrap()
}

fn tokens(sources: Vec<KeySource>, secret: Option<&str>) -> TokenAuthenticator {
    let config = TokenConfig {
        issuer: Some("us".to_owned()),
        ..TokenConfig::new(sources)
    };
    TokenAuthenticator::new(config, secret, &Metrics::default()).unwrap()
}

fn base64(text: &str) -> String {
    // Through a token of the library's own: its first part is the header, its second the claims.
    let token = encode(
        &Header::default(),
        &serde_json::from_str::<Value>(text).unwrap(),
        &EncodingKey::from_secret(b"x"),
    );
    token.unwrap().split('.').nth(1).unwrap().to_owned()
}

#[test]
fn a_good_token_says_who_calls_and_how_much() {
    let tokens = tokens(vec![pem("one", "one"), pem("two", "two")], None);
    let changes = json!({
        "scope": "openid metrics inference", "models": ["a"], "max_priority": 1, "requests_per_minute": 2,
        "tokens_per_minute": 3, "concurrent_streams": 4, "daily_tokens": 5, "monthly_tokens": 6, "nbf": now_s(),
        "aud": ["others", "vlinders"],
    });
    let caller = tokens.caller(&signed(&changes)).unwrap();
    assert_eq!(
        (caller.tenant.as_str(), caller.key.as_str()),
        ("acme", "jwt:4:acme:ann")
    );
    assert_eq!(caller.scopes.to_string(), "inference,metrics");
    assert!(caller.may_use("a") && !caller.may_use("b"));
    assert_eq!(caller.max_priority, Some(1));
    assert_eq!(caller.limits.requests_per_minute, Some(2));
    assert_eq!(caller.limits.tokens_per_minute, Some(3));
    assert_eq!(caller.limits.concurrent_streams, Some(4));
    assert_eq!(
        (caller.limits.daily.tokens, caller.limits.monthly.tokens),
        (Some(5), Some(6))
    );
    let plain = tokens.caller(&signed(&json!({}))).unwrap();
    assert_eq!(plain.scopes.to_string(), "inference");
}

#[test]
fn claims_that_are_not_good_are_refused() {
    let tokens = tokens(vec![pem("one", "one")], None);
    let late = now_s() - 31;
    for changes in [
        json!({"exp": late}),
        json!({"exp": null}),
        json!({"exp": "never"}),
        json!({"nbf": now_s() + 60}),
        json!({"aud": "others"}),
        json!({"aud": null}),
        json!({"iss": "them"}),
        json!({"iss": null}),
        json!({"sub": null}),
        json!({"sub": ""}),
        json!({"tenant": null}),
        json!({"tenant": "a\nb"}),
        json!({"tenant": "a".repeat(129)}),
        json!({"tokens_per_minute": -1}),
        json!({"models": "all"}),
    ] {
        let refused = tokens.caller(&signed(&changes));
        assert_eq!(refused.map_err(|error| error.status), Err(401), "{changes}");
    }
    // A clock may be off by a little.
    assert!(
        tokens
            .caller(&signed(&json!({"exp": now_s() - 10, "nbf": now_s() + 10})))
            .is_ok()
    );
}

#[test]
fn no_algorithm_but_the_keys_own_is_good() {
    let sources = || vec![pem("one", "one"), pem("two", "two")];
    let (without, with) = (tokens(sources(), None), tokens(sources(), Some(SECRET)));
    let good = claims(&json!({}));
    let rsa = |algorithm, kid, pem: &[u8]| {
        encode(
            &header(algorithm, kid),
            &good,
            &EncodingKey::from_rsa_pem(pem).unwrap(),
        )
        .unwrap()
    };
    let hmac = |secret: &[u8]| {
        encode(
            &header(Algorithm::HS256, Some("one")),
            &good,
            &EncodingKey::from_secret(secret),
        )
        .unwrap()
    };
    let body = base64(&good.to_string());
    let unsigned = base64(r#"{"alg":"none","kid":"one"}"#);
    let of_the_public_key = hmac(&std::fs::read(public("one")).unwrap());
    let whole = signed(&json!({}));
    let (front, _) = whole.rsplit_once('.').unwrap();
    let critical = Header {
        crit: Some(vec!["x".to_owned()]),
        ..header(Algorithm::RS256, Some("one"))
    };
    let critical = encode(&critical, &good, &EncodingKey::from_rsa_pem(ONE).unwrap()).unwrap();
    let refused = [
        ("no key named", rsa(Algorithm::RS256, None, ONE)),
        ("an unknown key", rsa(Algorithm::RS256, Some("three"), ONE)),
        ("another's signature", rsa(Algorithm::RS256, Some("one"), TWO)),
        (
            "another algorithm of the key",
            rsa(Algorithm::RS512, Some("one"), ONE),
        ),
        ("padding of another kind", rsa(Algorithm::PS256, Some("one"), ONE)),
        ("the public key as a secret", of_the_public_key),
        ("no signature", format!("{front}.")),
        ("alg none", format!("{unsigned}.{body}.")),
        ("something to be understood", critical),
        ("no token", "eyJ.eyJ.x".to_owned()),
    ];
    for (what, token) in refused {
        for tokens in [&without, &with] {
            assert!(tokens.caller(&token).is_err(), "{what}");
        }
    }
    assert!(without.caller(&rsa(Algorithm::RS256, Some("two"), TWO)).is_ok());
    assert!(
        without.caller(&hmac(SECRET.as_bytes())).is_err(),
        "no secret is configured"
    );
    assert!(with.caller(&hmac(SECRET.as_bytes())).is_ok());
}

#[test]
fn a_changed_file_is_taken_without_a_restart_and_a_bad_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.json");
    std::fs::write(&file, set_of(&[("one", ONE)])).unwrap();
    let tokens = tokens(vec![KeySource::Set(file.clone())], None);
    let of_two = encode(
        &header(Algorithm::RS256, Some("two")),
        &claims(&json!({})),
        &EncodingKey::from_rsa_pem(TWO).unwrap(),
    );
    let (of_one, of_two) = (signed(&json!({})), of_two.unwrap());
    assert!(tokens.caller(&of_one).is_ok() && tokens.caller(&of_two).is_err());
    std::fs::write(&file, set_of(&[("one", ONE), ("two", TWO)])).unwrap();
    tokens.look().unwrap();
    assert!(tokens.caller(&of_one).is_ok() && tokens.caller(&of_two).is_ok());
    for bad in ["", "{}", r#"{"keys":[]}"#] {
        std::fs::write(&file, bad).unwrap();
        assert!(tokens.look().is_err());
    }
    std::fs::remove_file(&file).unwrap();
    assert!(tokens.look().is_err());
    assert!(tokens.caller(&of_one).is_ok());
    std::fs::write(&file, set_of(&[("two", TWO)])).unwrap();
    tokens.look().unwrap();
    assert!(tokens.caller(&of_one).is_err() && tokens.caller(&of_two).is_ok());
}

#[test]
fn keys_that_cannot_be_right_are_refused_at_the_start() {
    let new =
        |sources, secret| TokenAuthenticator::new(TokenConfig::new(sources), secret, &Metrics::default());
    let private = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/frontend/rsa/one.private.pem");
    let private = KeySource::Pem {
        name: "one".to_owned(),
        path: private,
    };
    for (sources, secret, word) in [
        (
            vec![pem("one", "one"), pem("one", "two")],
            None,
            "two keys are named `one`",
        ),
        (vec![private], None, "private key"),
        (
            vec![KeySource::Set("/nowhere/x.json".into())],
            None,
            "/nowhere/x.json: No such file",
        ),
        (vec![], Some("short"), "fewer than 32 bytes"),
    ] {
        let told = new(sources, secret).err().unwrap().to_string();
        assert!(told.contains(word), "{told}");
    }
}

#[tokio::test]
async fn a_token_and_the_key_of_the_settings_open_the_door() {
    let credentials = Credentials {
        tokens: Some(Arc::new(tokens(vec![pem("one", "one")], None))),
        fixed: Some(FixedKey::new(SECRET)),
        ..Credentials::default()
    };
    let world = World::with(Setting {
        authenticator: Arc::new(credentials),
        ..Default::default()
    })
    .await;
    let get = async |path: &str, key: &str| {
        let request = world
            .client
            .get(world.url(path))
            .bearer_auth(key)
            .timeout(Duration::from_secs(20));
        within(request.send()).await.unwrap()
    };
    let only_metrics = signed(&json!({"scope": "metrics"}));
    assert_eq!(get("/v1/models", &signed(&json!({}))).await.status(), 200);
    assert_eq!(get("/v1/models", SECRET).await.status(), 200);
    assert_eq!(get("/metrics", &only_metrics).await.status(), 200);
    let refused = within(world.chat(&json!({})).bearer_auth(&only_metrics).send());
    check_error(refused.await.unwrap(), 403, "missing_scope").await;
    for bad in [
        signed(&json!({"aud": "others"})),
        "vl-0".to_owned(),
        "a.b.c".to_owned(),
    ] {
        check_error(get("/v1/models", &bad).await, 401, "invalid_api_key").await;
    }
}
