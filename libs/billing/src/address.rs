//! Where the API is.

use hyper::Uri;

/// An address that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no address such as https://api.stripe.com")]
pub struct BadAddress;

/// Host, port and whether it is sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiAddress {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) is_sealed: bool,
}

impl ApiAddress {
    /// Reads `https://HOST[:PORT]`, or `http://` where the key may travel in the clear: in a test, on one's own host.
    ///
    /// # Errors
    /// When it is something else.
    pub fn parse(text: &str) -> Result<Self, BadAddress> {
        let uri: Uri = text.parse().map_err(|_| BadAddress)?;
        let host = uri.host().filter(|host| !host.is_empty()).ok_or(BadAddress)?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let has_path = uri.path() != "/" || uri.query().is_some();
        let has_user = uri.authority().is_some_and(|place| place.as_str().contains('@'));
        if has_path || has_user {
            return Err(BadAddress);
        }
        let (is_sealed, usual) = match uri.scheme_str() {
            Some("https") => (true, 443),
            Some("http") if ["127.0.0.1", "::1", "localhost"].contains(&host.as_str()) => (false, 80),
            Some(_) | None => return Err(BadAddress),
        };
        let port = uri.port_u16().unwrap_or(usual);
        Ok(Self {
            host,
            port,
            is_sealed,
        })
    }

    /// For the header `host`.
    pub(crate) fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

impl Default for ApiAddress {
    fn default() -> Self {
        Self {
            host: "api.stripe.com".to_owned(),
            port: 443,
            is_sealed: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_travels_sealed_or_not_at_all() {
        assert_eq!(
            ApiAddress::parse("https://api.stripe.com"),
            Ok(ApiAddress::default())
        );
        let here = ApiAddress::parse("http://127.0.0.1:12111").unwrap();
        assert_eq!((here.port, here.is_sealed), (12111, false));
        for text in [
            "http://api.stripe.com",
            "https://",
            "ftp://x",
            "https://a@b",
            "https://a/v1",
            "x",
        ] {
            assert!(ApiAddress::parse(text).is_err(), "{text}");
        }
    }
}
