//! What a request comes with, and who can tell whose it is.

use std::sync::Arc;

use async_trait::async_trait;
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderValue};
use vlinders_ledger::{KeyDigest, Scope, Scopes};
use vlinders_openai_api::ApiError;
use vlinders_types::{KeyId, TenantId};

use super::tokens::is_of_token;
use super::{Authenticator, KeyAuthenticator, TokenAuthenticator, refusal};
use crate::Caller;

const API_KEY: &str = "x-api-key";
/// More than any key or token of ours has.
const CREDENTIAL_BYTES: usize = 8 * 1024;

/// A key that stands in the settings rather than in a database.
#[derive(Clone)]
pub struct FixedKey {
    digest: KeyDigest,
    caller: Caller,
}

impl FixedKey {
    /// Whoever comes with this secret is tenant `default` and key `fixed`.
    #[must_use]
    pub fn new(secret: &str) -> Self {
        Self {
            digest: KeyDigest::of(secret),
            caller: Caller {
                scopes: Scopes::of(&[Scope::Inference, Scope::Metrics]),
                ..Caller::new(TenantId::new("default"), KeyId::new("fixed"))
            },
        }
    }
}

/// Lets in whoever comes with a key or a signed token, as far as there is anybody who knows them.
#[derive(Clone, Default)]
pub struct Credentials {
    /// Knows keys.
    pub keys: Option<Arc<KeyAuthenticator>>,
    /// Knows signed tokens.
    pub tokens: Option<Arc<TokenAuthenticator>>,
    /// The key of the settings.
    pub fixed: Option<FixedKey>,
}

#[async_trait]
impl Authenticator for Credentials {
    async fn authenticate(&self, headers: &HeaderMap) -> Result<Caller, ApiError> {
        let credential = credential(headers)?;
        if let Some(tokens) = self.tokens.as_ref().filter(|_| is_token(credential)) {
            return tokens.caller(credential);
        }
        let fixed = self.fixed.as_ref();
        if let Some(fixed) = fixed.filter(|fixed| fixed.digest == KeyDigest::of(credential)) {
            return Ok(fixed.caller.clone());
        }
        match &self.keys {
            Some(keys) => keys.caller(credential).await,
            None => Err(refusal::unknown_key()),
        }
    }

    async fn renew(&self, caller: Caller) -> Result<Caller, ApiError> {
        // Nobody takes back a signed token: what it said then holds.
        if self.tokens.is_some() && is_of_token(&caller.key) {
            return Ok(caller);
        }
        let fixed = self.fixed.as_ref().map(|fixed| &fixed.caller);
        if let Some(fixed) = fixed.filter(|fixed| fixed.key == caller.key && fixed.tenant == caller.tenant) {
            return Ok(fixed.clone());
        }
        match &self.keys {
            Some(keys) => keys.renew(&caller).await,
            None => Err(refusal::unknown_key()),
        }
    }
}

/// A token begins with `{"` in base 64 and has three parts. No key of ours has a point.
fn is_token(credential: &str) -> bool {
    credential.starts_with("ey") && credential.matches('.').count() == 2
}

/// What stands in `authorization: Bearer …`, or else in `x-api-key`.
pub(crate) fn credential(headers: &HeaderMap) -> Result<&str, ApiError> {
    let bearer = only(headers, AUTHORIZATION.as_str())?.map(bearer).transpose()?;
    let credential = match bearer {
        Some(credential) => Some(credential),
        None => only(headers, API_KEY)?.map(text).transpose()?,
    };
    let credential = credential.filter(|credential| !credential.is_empty());
    credential.ok_or_else(refusal::missing)
}

fn only<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a HeaderValue>, ApiError> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (value, None) => Ok(value),
        (_, Some(_)) => Err(refusal::ambiguous()),
    }
}

fn text(value: &HeaderValue) -> Result<&str, ApiError> {
    let text = value.to_str().ok().map(str::trim);
    text.filter(|text| text.len() <= CREDENTIAL_BYTES)
        .ok_or_else(refusal::unknown_key)
}

/// Other schemes carry nothing that we know.
fn bearer(value: &HeaderValue) -> Result<&str, ApiError> {
    match text(value)?.split_once(' ') {
        Some((scheme, credential)) if scheme.eq_ignore_ascii_case("bearer") => Ok(credential.trim()),
        Some(_) | None => Err(refusal::missing()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(headers: &[(&'static str, &str)]) -> Result<String, u16> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        credential(&map).map(str::to_owned).map_err(|error| error.status)
    }

    #[test]
    fn a_key_stands_in_one_of_two_headers() {
        assert_eq!(told(&[("authorization", "Bearer k")]), Ok("k".to_owned()));
        assert_eq!(told(&[("authorization", "bearer  k ")]), Ok("k".to_owned()));
        assert_eq!(told(&[("x-api-key", "k")]), Ok("k".to_owned()));
        assert_eq!(
            told(&[("x-api-key", "other"), ("authorization", "Bearer k")]),
            Ok("k".to_owned())
        );
        let refused: [&[(&str, &str)]; 7] = [
            &[],
            &[("authorization", "")],
            &[("authorization", "Bearer ")],
            &[("authorization", "Basic dTpw")],
            &[("authorization", "k")],
            &[("x-api-key", "")],
            &[("authorization", "Bearer k"), ("authorization", "Bearer l")],
        ];
        for headers in refused {
            assert_eq!(told(headers), Err(401), "{headers:?}");
        }
        assert_eq!(
            told(&[("x-api-key", &"k".repeat(CREDENTIAL_BYTES + 1))]),
            Err(401)
        );
    }
}
