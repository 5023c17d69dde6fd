//! Where Redis is, and what can be wrong with it.

use std::fmt;
use std::path::{Path, PathBuf};

use ::redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};

/// Redis cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RedisFault {
    /// The text is no address. It is not repeated, since it may hold a password.
    #[error("the address of Redis cannot be read: expected redis://user@host:6379/0")]
    Address,
    /// The address asks for TLS.
    #[error("the address of Redis asks for TLS, which is not offered yet")]
    Tls,
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
    /// The server is away, or refuses.
    #[error("redis at {address}: {reason}")]
    Server {
        /// Where it should be.
        address: String,
        /// In one line.
        reason: String,
    },
}

/// The address of a Redis server. Never shows a password.
#[derive(Clone)]
pub struct RedisAddress {
    info: ConnectionInfo,
}

impl RedisAddress {
    /// Reads `redis://user@host:6379/0`.
    ///
    /// # Errors
    /// When it is no such address, or asks for TLS.
    pub fn parse(address: &str) -> Result<Self, RedisFault> {
        if address.starts_with("rediss:") {
            return Err(RedisFault::Tls);
        }
        let info = address.into_connection_info().map_err(|_| RedisFault::Address)?;
        Ok(Self { info })
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
        let fault = RedisAddress::parse("rediss://:s3cret@h").unwrap_err();
        assert!(matches!(fault, RedisFault::Tls), "{fault}");
    }
}
