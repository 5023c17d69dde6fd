//! Addresses of servers.

use std::fmt;
use std::str::FromStr;

/// Where requests go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Whether the connection is encrypted.
    pub is_https: bool,
    /// Name or address, without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// What stands before the endpoint, beginning with a slash and without one at its end, such as `/v1`.
    pub base: String,
}

impl Target {
    /// As the `host` header names it: the port only when it is not the scheme's own.
    #[must_use]
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        if self.port == usual_port(self.is_https) {
            host
        } else {
            format!("{host}:{}", self.port)
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_https { "https" } else { "http" };
        write!(out, "{scheme}://{}{}", self.authority(), self.base)
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| format!("{what}; write http://HOST:PORT or https://HOST");
        let (is_https, rest) = if let Some(rest) = text.strip_prefix("http://") {
            (false, rest)
        } else if let Some(rest) = text.strip_prefix("https://") {
            (true, rest)
        } else {
            return Err(wrong("the address has no http:// or https://"));
        };
        let (authority, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
        let unfit = |char: char| !char.is_ascii_graphic() || "@?#\"<>\\^`{|}".contains(char);
        if rest.contains(unfit) {
            return Err(wrong("the address has a sign that cannot stand there"));
        }
        let (host, port) =
            split_authority(authority).ok_or_else(|| wrong("the host or the port is wrong"))?;
        let path = path.trim_end_matches('/');
        let base = if path.ends_with("/v1") {
            path.to_owned()
        } else {
            format!("{path}/v1")
        };
        Ok(Self {
            is_https,
            host: host.to_owned(),
            port: port.unwrap_or(usual_port(is_https)),
            base,
        })
    }
}

const fn usual_port(is_https: bool) -> u16 {
    if is_https { 443 } else { 80 }
}

/// Host without brackets, and port.
fn split_authority(authority: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (host, port) = rest.split_once(']')?;
        if !host.contains(':') {
            return None;
        }
        (
            host,
            if port.is_empty() {
                None
            } else {
                Some(port.strip_prefix(':')?)
            },
        )
    } else if let Some((host, port)) = authority.split_once(':') {
        (host, Some(port))
    } else {
        (authority, None)
    };
    if host.is_empty() || host.contains(['[', ']']) {
        return None;
    }
    match port {
        None => Some((host, None)),
        Some(port) => port
            .parse()
            .ok()
            .filter(|port| *port != 0)
            .map(|port| (host, Some(port))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_with_and_without_their_version_are_the_same() {
        for (text, shown, authority) in [
            (
                "http://127.0.0.1:8000",
                "http://127.0.0.1:8000/v1",
                "127.0.0.1:8000",
            ),
            (
                "http://127.0.0.1:8000/v1/",
                "http://127.0.0.1:8000/v1",
                "127.0.0.1:8000",
            ),
            (
                "https://api.example.com",
                "https://api.example.com/v1",
                "api.example.com",
            ),
            ("http://[::1]:9/llm", "http://[::1]:9/llm/v1", "[::1]:9"),
            ("http://[::1]", "http://[::1]/v1", "[::1]"),
        ] {
            let target: Target = text.parse().unwrap();
            assert_eq!(
                (target.to_string().as_str(), target.authority().as_str()),
                (shown, authority)
            );
        }
    }

    #[test]
    fn wrong_addresses_are_refused() {
        for text in [
            "127.0.0.1:8000",
            "ftp://x",
            "http://",
            "http://:80",
            "http://x:0",
            "http://x:99999",
            "http://x:",
            "http://a b",
            "http://user@x",
            "http://[::1",
            "http://[x]",
            "http://::1",
        ] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }
}
