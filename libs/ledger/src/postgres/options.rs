//! Where the database is and how it is used.

use std::fmt;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use deadpool_postgres::tokio_postgres::Config;
use deadpool_postgres::tokio_postgres::config::{Host, SslMode};

use crate::LedgerError;

/// How long a connection may take to be made.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// A peer that is silent for so long is asked whether it is there.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// How to use a Postgres database. Never shows a password.
#[derive(Clone)]
pub struct PostgresOptions {
    pub(crate) config: Config,
    pub(crate) pool_size: NonZeroUsize,
    pub(crate) statement_timeout: Duration,
    pub(crate) authorities: Option<PathBuf>,
}

impl PostgresOptions {
    /// Reads an address: `postgres://user@host:5432/database`, or `host=… user=… dbname=…`. With `sslmode=require`,
    /// `verify-ca` or `verify-full` connections are made under TLS, and all three check certificate and host; without one,
    /// or with `prefer`, they are not, unless [`Self::with_authorities`] says whom to trust.
    ///
    /// # Errors
    /// When it is none. The text itself is not repeated, since it may hold a password.
    pub fn parse(address: &str) -> Result<Self, LedgerError> {
        let address = ["verify-full", "verify-ca"]
            .iter()
            .fold(address.to_owned(), |text, mode| {
                text.replace(&format!("sslmode={mode}"), "sslmode=require")
            });
        let config = address.parse::<Config>().ok();
        let config =
            config.filter(|config| !config.get_hosts().is_empty() || !config.get_hostaddrs().is_empty());
        let Some(mut config) = config else {
            return Err(unusable(
                "the database's address cannot be read",
                "expected postgres://user@host:5432/database",
            ));
        };
        if config.get_application_name().is_none() {
            config.application_name("vlinders");
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_LIMIT);
        }
        config.keepalives_idle(KEEPALIVE);
        Ok(Self {
            config,
            pool_size: NonZeroUsize::new(4).expect("4 is not 0"),
            statement_timeout: Duration::from_secs(10),
            authorities: None,
        })
    }

    /// Makes connections under TLS only, to servers one of these authorities vouches for: certificates in a PEM file.
    ///
    /// # Errors
    /// When the address forbids TLS, or the file has no usable certificate.
    pub fn with_authorities(mut self, file: &Path) -> Result<Self, LedgerError> {
        if self.config.get_ssl_mode() == SslMode::Disable {
            let why = "take sslmode=disable out of the address, or give no certificates";
            return Err(unusable("the database's address forbids TLS", why));
        }
        self.config.ssl_mode(SslMode::Require);
        super::tls::connector(Some(file))?;
        self.authorities = Some(file.to_owned());
        Ok(self)
    }

    /// Whether connections are made under TLS only.
    pub(super) fn is_sealed(&self) -> bool {
        self.config.get_ssl_mode() == SslMode::Require
    }

    /// Takes the password from a file, where it stands alone. Spaces and line ends after it do not belong to it.
    ///
    /// # Errors
    /// When the file cannot be read or holds nothing, or the address has a password already.
    pub fn with_password_file(self, path: &Path) -> Result<Self, LedgerError> {
        let what = "the database's password cannot be read";
        match std::fs::read_to_string(path) {
            Ok(text) if text.trim_end().is_empty() => {
                Err(unusable(what, format!("{} is empty", path.display())))
            }
            Ok(text) => self.with_password(text.trim_end()),
            Err(error) => Err(unusable(what, format!("{}: {error}", path.display()))),
        }
    }

    /// Sets the password.
    ///
    /// # Errors
    /// When the address has one already: which one is meant cannot be told.
    pub fn with_password(mut self, password: &str) -> Result<Self, LedgerError> {
        if self.config.get_password().is_some() {
            let why = "take it out of the address, or give none beside it";
            return Err(unusable("the database's password is given twice", why));
        }
        self.config.password(password);
        Ok(self)
    }

    /// Connections at most. 4 unless set.
    #[must_use]
    pub fn with_pool_size(self, pool_size: NonZeroUsize) -> Self {
        Self { pool_size, ..self }
    }

    /// How long the server may work on one statement. 10 seconds unless set.
    #[must_use]
    pub fn with_statement_timeout(self, statement_timeout: Duration) -> Self {
        Self {
            statement_timeout,
            ..self
        }
    }

    /// Hosts, ports and database: what an error may show.
    pub(super) fn address(&self) -> String {
        let names = self.config.get_hosts().iter().map(|host| match host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(path) => path.display().to_string(),
        });
        let numbers = self.config.get_hostaddrs().iter().map(ToString::to_string);
        let hosts: Vec<String> = if self.config.get_hosts().is_empty() {
            numbers.collect()
        } else {
            names.collect()
        };
        let ports = self.config.get_ports();
        let places = hosts.iter().enumerate().map(|(index, host)| {
            let port = ports.get(index).or(ports.first()).copied().unwrap_or(5432);
            format!("{host}:{port}")
        });
        let places = Vec::from_iter(places).join(",");
        match self.config.get_dbname() {
            Some(database) => format!("{places}/{database}"),
            None => places,
        }
    }

    /// With the statement timeout in it, which the server then sets for every connection.
    pub(super) fn connection_config(&self) -> Config {
        let mut config = self.config.clone();
        let timeout = format!("-c statement_timeout={}", self.statement_timeout.as_millis());
        let options = match config.get_options() {
            Some(options) => format!("{options} {timeout}"),
            None => timeout,
        };
        config.options(options);
        config
    }
}

impl fmt::Debug for PostgresOptions {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("PostgresOptions")
            .field("address", &self.address())
            .field("pool_size", &self.pool_size)
            .field("statement_timeout", &self.statement_timeout)
            .finish_non_exhaustive()
    }
}

fn unusable(what: &'static str, why: impl Into<String>) -> LedgerError {
    LedgerError::Unusable {
        what,
        source: why.into().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(error: &LedgerError) -> String {
        let source = std::error::Error::source(error).map(ToString::to_string);
        format!("{error}: {}", source.unwrap_or_default())
    }

    #[test]
    fn an_address_shows_where_the_database_is_and_no_password() {
        let options = PostgresOptions::parse("postgres://vl:s3cret@db-1,db-2:5433/usage").unwrap();
        assert_eq!(options.address(), "db-1:5432,db-2:5433/usage");
        assert!(!format!("{options:?}").contains("s3cret"));
        let options = PostgresOptions::parse("host=/run/postgresql dbname=usage").unwrap();
        assert_eq!(options.address(), "/run/postgresql:5432/usage");
    }

    #[test]
    fn what_is_no_address_is_refused_without_repeating_it() {
        for address in [
            "",
            "s3cret",
            "mysql://u:s3cret@h/d",
            "postgres://u:s3cret@h:port/d",
            "password=my s3cret",
        ] {
            let error = PostgresOptions::parse(address).unwrap_err();
            assert!(!error.is_retryable());
            assert!(!reason(&error).contains("s3cret"), "{error:?}");
        }
    }

    #[test]
    fn whoever_asks_for_tls_gets_it_and_whoever_forbids_it_is_not_overruled() {
        let parsed = |mode: &str| {
            let address = format!("postgres://u@h/d?sslmode={mode}");
            PostgresOptions::parse(&address).unwrap()
        };
        for (mode, is_sealed) in [
            ("require", true),
            ("verify-full", true),
            ("verify-ca", true),
            ("prefer", false),
            ("disable", false),
        ] {
            assert_eq!(parsed(mode).is_sealed(), is_sealed, "{mode}");
        }
        let nowhere = Path::new("/nowhere/ca.pem");
        let told = |mode: &str| reason(&parsed(mode).with_authorities(nowhere).unwrap_err());
        assert!(told("disable").contains("forbids TLS"));
        assert!(told("prefer").contains("/nowhere/ca.pem"));
    }

    #[test]
    fn a_password_comes_from_one_place_only() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        let parsed = || PostgresOptions::parse("postgres://u@h/d").unwrap();
        assert!(reason(&parsed().with_password_file(&file).unwrap_err()).contains("password:"));
        std::fs::write(&file, "\n").unwrap();
        assert!(reason(&parsed().with_password_file(&file).unwrap_err()).ends_with("is empty"));
        std::fs::write(&file, "two words\n").unwrap();
        let options = parsed().with_password_file(&file).unwrap();
        assert_eq!(options.config.get_password(), Some(&b"two words"[..]));
        assert!(options.with_password("another").is_err());
    }

    #[test]
    fn the_statement_timeout_joins_other_options() {
        let options = PostgresOptions::parse("host=h options='-c work_mem=1MB'").unwrap();
        let options = options.with_statement_timeout(Duration::from_secs(2));
        let config = options.connection_config();
        assert_eq!(
            config.get_options(),
            Some("-c work_mem=1MB -c statement_timeout=2000")
        );
    }
}
