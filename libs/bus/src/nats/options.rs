//! What a connection needs to know, and how starting it can fail.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// The oldest server that does what this code relies on. Older ones take a consumer's filters and ignore them without
/// a word, so they would hand out other people's requests.
pub(super) const OLDEST_VERSION: (u32, u32) = (2, 11);

/// How to reach the servers and what to ask of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatsOptions {
    /// Addresses such as `nats://host:4222`; any of them may be down.
    pub servers: Vec<String>,
    /// What the servers call this connection in their lists.
    pub name: String,
    /// Who this is.
    pub login: NatsLogin,
    /// How the connection is sealed. Servers that want TLS get it in any case, as do addresses with `tls://`.
    pub tls: NatsTls,
    /// How long the start waits for servers that are not up yet.
    pub start_limit: Duration,
    /// The longest a call to a stream takes, an outage in between included.
    pub call_timeout: Duration,
    /// The longest a message without storage waits for a connection that is down or too slow.
    pub publish_timeout: Duration,
    /// Messages that wait for one subscriber; it loses what comes on top.
    pub subscriber_queue: usize,
    /// Where requests are kept. Usage and dead letters are always on disk.
    pub request_storage: NatsStorage,
    /// Servers that hold a copy of each stream, when this connection is the one that creates it.
    pub replicas: u8,
    /// The consumer whose acknowledgements decide which usage events are done.
    pub usage_consumer: String,
}

impl NatsOptions {
    /// The usual settings for these servers.
    #[must_use]
    pub fn new(servers: Vec<String>) -> Self {
        Self {
            servers,
            name: "vlinders".to_owned(),
            login: NatsLogin::Nobody,
            tls: NatsTls::default(),
            start_limit: Duration::from_secs(60),
            call_timeout: Duration::from_secs(5),
            publish_timeout: Duration::from_secs(2),
            subscriber_queue: 4096,
            request_storage: NatsStorage::File,
            replicas: 1,
            usage_consumer: "usage".to_owned(),
        }
    }

    /// Whether the addresses can be used, without asking anybody.
    ///
    /// # Errors
    /// The first one that cannot.
    pub fn check(&self) -> Result<(), ConnectError> {
        super::connect::addresses(&self.servers).map(|_| ())
    }
}

/// Files of a connection under TLS, all in PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NatsTls {
    /// Certificates of those who may vouch for a server; none means those the system trusts. With them, TLS is a must.
    pub authorities: Option<PathBuf>,
    /// Our own certificate and its key, for servers that want one. With them, TLS is a must.
    pub own: Option<OwnCertificate>,
}

/// A certificate and its key, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnCertificate {
    /// The certificate, with those between it and an authority behind it.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl NatsTls {
    /// Whether a connection without TLS is out of the question.
    pub(super) fn is_must(&self) -> bool {
        self.authorities.is_some() || self.own.is_some()
    }
}

/// Who asks to be let in. Never shown in logs.
#[derive(Clone, PartialEq, Eq)]
pub enum NatsLogin {
    /// The servers ask nobody.
    Nobody,
    /// One secret for everybody.
    Token(String),
    /// A name and a secret.
    Password {
        /// The name.
        user: String,
        /// The secret.
        password: String,
    },
    /// The seed of an nkey, `SU…`: the secret itself never travels.
    Nkey(String),
    /// The content of a `.creds` file: an account's token and the seed that proves it.
    Credentials(String),
}

impl fmt::Debug for NatsLogin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nobody => out.write_str("Nobody"),
            Self::Token(_) => out.write_str("Token"),
            Self::Password { user, .. } => write!(out, "Password({user})"),
            Self::Nkey(_) => out.write_str("Nkey"),
            Self::Credentials(_) => out.write_str("Credentials"),
        }
    }
}

/// Where a stream's messages are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NatsStorage {
    /// On disk: they survive a restart of all servers.
    File,
    /// In memory: quicker, and gone with the last server that has them.
    Memory,
}

/// Why there is no connection to start with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// An address that cannot be used.
    #[error("server address {address}: {reason}")]
    Address {
        /// Which one.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No server answered in time.
    #[error("no NATS server at {servers} within {waited_ms} ms: {reason}")]
    Unreachable {
        /// Where was looked.
        servers: String,
        /// How long.
        waited_ms: u64,
        /// What the last try said.
        reason: String,
    },
    /// A server lets this process in under no condition.
    #[error("NATS server {server} refuses this connection: {reason}")]
    Refused {
        /// Which one.
        server: String,
        /// Why.
        reason: String,
    },
    /// A server too old to be relied on.
    #[error("NATS server {server} has version {version}; {}.{} or newer is needed", OLDEST_VERSION.0, OLDEST_VERSION.1)]
    TooOld {
        /// Which one.
        server: String,
        /// Its version.
        version: String,
    },
}

/// Why a running connection cannot go on. The process should end: waiting does not help.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NatsFatal {
    /// This account may not do what the process needs.
    #[error("the NATS account lacks a permission: {0}")]
    Permission(String),
    /// The servers no longer let this account in.
    #[error("the NATS servers no longer accept this login")]
    Login,
    /// The connection moved to a server that is too old.
    #[error("the NATS server now has version {version}; {}.{} or newer is needed", OLDEST_VERSION.0, OLDEST_VERSION.1)]
    TooOld {
        /// Its version.
        version: String,
    },
}

/// Whether a server of this version can be relied on. What cannot be read is too old.
pub(super) fn is_new_enough(version: &str) -> bool {
    let mut numbers = version.split(['.', '-']).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= OLDEST_VERSION,
        (Some(_) | None, Some(_) | None) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        for good in ["2.11.0", "2.11.0-RC.1", "2.12.8", "2.100.0", "3.0.0"] {
            assert!(is_new_enough(good), "{good}");
        }
        for bad in ["2.10.29", "2.9.0", "1.99.0", "", "2", "two.eleven"] {
            assert!(!is_new_enough(bad), "{bad}");
        }
    }

    #[test]
    fn addresses_are_checked_without_a_server_and_no_secret_is_repeated() {
        let told = |address: &str| {
            NatsOptions::new(vec![address.to_owned()])
                .check()
                .unwrap_err()
                .to_string()
        };
        NatsOptions::new(vec!["nats://a:1".to_owned(), "nats://b".to_owned()])
            .check()
            .unwrap();
        assert!(told("http://a:1").contains("http://a:1"));
        let line = told("nats://user:hush@a:1");
        assert!(line.contains("holds a login") && !line.contains("hush"), "{line}");
        assert!(NatsOptions::new(Vec::new()).check().is_err());
    }

    #[test]
    fn secrets_are_not_shown() {
        let mut options = NatsOptions::new(Vec::new());
        for login in [
            NatsLogin::Token("hush".to_owned()),
            NatsLogin::Nkey("hush".to_owned()),
            NatsLogin::Credentials("hush".to_owned()),
            NatsLogin::Password {
                user: "worker".to_owned(),
                password: "hush".to_owned(),
            },
        ] {
            options.login = login;
            assert!(!format!("{options:?}").contains("hush"));
        }
    }
}
