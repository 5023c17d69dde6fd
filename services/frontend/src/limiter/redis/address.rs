//! Where Redis is, and what can be wrong with it.

use std::fmt;
use std::path::{Path, PathBuf};

use ::redis::{Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, TlsCertificates};

/// Redis cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RedisFault {
    /// The text is no address. It is not repeated, since it may hold a password.
    #[error("the address of Redis cannot be read: expected redis://user@host:6379/0")]
    Address,
    /// Certificates are given for a connection that does not use them.
    #[error("certificates for Redis need an address with rediss://")]
    NotSealed,
    /// The file with certificates has none that can be used.
    #[error("certificates for Redis cannot be read from {}: {reason}", path.display())]
    Certificates {
        /// Which file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A password in the address and one beside it.
    #[error("the password of Redis is given twice: take it out of the address, or give none beside it")]
    PasswordTwice,
    /// The file with the password cannot be read.
    #[error("the password of Redis cannot be read from {}", path.display())]
    PasswordFile {
        /// Which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The file with the password has none.
    #[error("the password of Redis cannot be read: {} is empty", path.display())]
    NoPassword {
        /// Which file.
        path: PathBuf,
    },
    /// It answers what no script of ours says.
    #[error("redis answers something else than was asked")]
    Foreign,
    /// The server is away, or refuses.
    #[error("redis at {address}: {reason}")]
    Server {
        /// Where it should be.
        address: String,
        /// In one line.
        reason: String,
    },
}

/// How a certificate begins.
const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// The address of a Redis server. Never shows a password.
#[derive(Clone)]
pub struct RedisAddress {
    info: ConnectionInfo,
}

impl RedisAddress {
    /// Reads `redis://user@host:6379/0`, or `rediss://…` for a connection under TLS to a server that the system's
    /// authorities vouch for.
    ///
    /// # Errors
    /// When it is no such address, or asks not to check certificates.
    pub fn parse(address: &str) -> Result<Self, RedisFault> {
        // Whoever was here first has chosen the same: there is only one in this program.
        let _chosen_before = rustls::crypto::ring::default_provider().install_default();
        let info = address.into_connection_info().map_err(|_| RedisFault::Address)?;
        if let ConnectionAddr::TcpTls { insecure: true, .. } = info.addr() {
            return Err(RedisFault::Address);
        }
        Ok(Self { info })
    }

    /// Trusts servers that one of these authorities vouches for, and no others: certificates in a PEM file.
    ///
    /// # Errors
    /// When the address is not under TLS, or the file has no certificate.
    pub fn with_authorities(self, path: &Path) -> Result<Self, RedisFault> {
        if !matches!(self.info.addr(), ConnectionAddr::TcpTls { .. }) {
            return Err(RedisFault::NotSealed);
        }
        let fault = |reason: String| RedisFault::Certificates {
            path: path.to_owned(),
            reason,
        };
        let pem = std::fs::read(path).map_err(|error| fault(error.to_string()))?;
        if !pem.windows(BEGIN.len()).any(|window| window == BEGIN) {
            return Err(fault("it holds no certificate in PEM".to_owned()));
        }
        let certificates = TlsCertificates {
            client_tls: None,
            root_cert: Some(pem),
        };
        let client =
            Client::build_with_tls(self.info, certificates).map_err(|error| fault(error.to_string()))?;
        Ok(Self {
            info: client.get_connection_info().clone(),
        })
    }

    /// Takes the password from a file, where it stands alone. Spaces and line ends after it do not belong to it.
    ///
    /// # Errors
    /// When the file cannot be read or holds nothing, or the address has a password already.
    pub fn with_password_file(self, path: &Path) -> Result<Self, RedisFault> {
        let path = path.to_owned();
        match std::fs::read_to_string(&path) {
            Ok(text) if text.trim_end().is_empty() => Err(RedisFault::NoPassword { path }),
            Ok(text) => self.with_password(text.trim_end()),
            Err(source) => Err(RedisFault::PasswordFile { path, source }),
        }
    }

    /// Sets the password.
    ///
    /// # Errors
    /// When the address has one already: which one is meant cannot be told.
    pub fn with_password(self, password: &str) -> Result<Self, RedisFault> {
        let settings = self.info.redis_settings().clone();
        if settings.password().is_some() {
            return Err(RedisFault::PasswordTwice);
        }
        let info = self.info.set_redis_settings(settings.set_password(password));
        Ok(Self { info })
    }

    pub(super) fn info(&self) -> &ConnectionInfo {
        &self.info
    }

    /// Host and port: what an error may show.
    pub(super) fn place(&self) -> String {
        let place: &ConnectionAddr = self.info.addr();
        place.to_string()
    }
}

impl fmt::Debug for RedisAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("RedisAddress").field(&self.place()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_shows_a_password() {
        let address = RedisAddress::parse("redis://:s3cret@redis-1:6380/2").unwrap();
        assert_eq!(address.place(), "redis-1:6380");
        assert!(!format!("{address:?}").contains("s3cret"));
        assert!(matches!(
            address.with_password("another"),
            Err(RedisFault::PasswordTwice)
        ));
        for text in ["", "s3cret", "http://u:s3cret@h", "redis://:s3cret@h:port"] {
            let fault = RedisAddress::parse(text).unwrap_err();
            assert!(matches!(fault, RedisFault::Address), "{text}: {fault}");
        }
    }

    #[test]
    fn certificates_are_checked_or_the_address_is_refused() {
        assert!(RedisAddress::parse("rediss://:s3cret@h").is_ok());
        let fault = RedisAddress::parse("rediss://h:6379/#insecure").unwrap_err();
        assert!(matches!(fault, RedisFault::Address), "{fault}");
        let plain = RedisAddress::parse("redis://h").unwrap();
        let fault = plain.with_authorities(Path::new("/nowhere")).unwrap_err();
        assert!(matches!(fault, RedisFault::NotSealed), "{fault}");
        let file = tempfile::NamedTempFile::new().unwrap();
        let sealed = RedisAddress::parse("rediss://h").unwrap();
        let fault = sealed.with_authorities(file.path()).unwrap_err().to_string();
        assert!(fault.contains("holds no certificate"), "{fault}");
    }
}
