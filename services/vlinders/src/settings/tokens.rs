//! Signed tokens, and the one key that stands in the settings.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use vlinders_frontend::{FixedKey, KeySource, TokenAuthenticator, TokenConfig};
use vlinders_service_kit::{Checks, Given, Metrics, SettingValue};

use super::stores::{chain, secret_from_environment};

/// Clocks that are further apart are broken.
const LEEWAY_S: u64 = 600;
/// A shorter key can be guessed.
const FIXED_KEY_BYTES: usize = 24;

/// Flags of what callers may come with beside keys of the database.
#[derive(Args, Clone, Debug)]
pub(crate) struct TokenArgs {
    /// RSA public keys of signed tokens (JWT), separated by commas: NAME=FILE.pem or a set in FILE.json; read again when they
    /// change
    #[arg(long, env = "JWT_KEYS", value_name = "LIST")]
    jwt_keys: Option<Given<KeyList>>,
    /// Whoever tokens must be for (`aud`)
    #[arg(long, env = "JWT_AUDIENCE", value_name = "NAME", default_value = "vlinders")]
    jwt_audience: String,
    /// Whoever tokens must be from (`iss`) [default: not checked]
    #[arg(long, env = "JWT_ISSUER", value_name = "NAME")]
    jwt_issuer: Option<String>,
    /// Seconds that the signer's clock may be off
    #[arg(long, env = "JWT_LEEWAY_S", value_name = "SECONDS", default_value = "30")]
    jwt_leeway_s: Given<u64>,
    /// File with a secret of tokens signed by HS256, in place of JWT_SECRET_KEY [default: such tokens are refused]
    #[arg(long, env = "JWT_SECRET_KEY_FILE", value_name = "FILE")]
    jwt_secret_key_file: Option<PathBuf>,
    /// File with one key that lets in as tenant `default`, in place of API_SECRET_KEY
    #[arg(long, env = "API_SECRET_KEY_FILE", value_name = "FILE")]
    api_secret_key_file: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct KeyList(Vec<KeySource>);

impl SettingValue for KeyList {
    fn read(text: &str) -> Result<Self, String> {
        let sources = text.split(',').map(str::parse);
        let sources: Result<Vec<_>, String> = sources.collect();
        sources
            .map(Self)
            .map_err(|_| "is no list of NAME=FILE.pem or FILE.json".to_owned())
    }
}

/// What callers may come with beside keys of the database.
#[derive(Clone)]
pub(crate) struct TokenSettings {
    pub(crate) config: TokenConfig,
    pub(crate) secret: Option<String>,
    pub(crate) fixed: Option<FixedKey>,
}

/// Without the secrets.
impl fmt::Debug for TokenSettings {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("TokenSettings").field(&self.config).finish()
    }
}

impl TokenSettings {
    /// Whether tokens are looked at at all.
    pub(crate) fn are_taken(&self) -> bool {
        self.secret.is_some() || !self.config.sources.is_empty()
    }
}

impl TokenArgs {
    /// Whether somebody can come in with what these settings name.
    pub(crate) fn know_callers(settings: &TokenSettings) -> bool {
        settings.are_taken() || settings.fixed.is_some()
    }

    pub(crate) fn read(&self, checks: &mut Checks) -> TokenSettings {
        let sources = checks.optional("jwt_keys", self.jwt_keys.as_ref());
        let mut config = TokenConfig::new(sources.map_or_else(Vec::new, |KeyList(sources)| sources));
        if self.jwt_audience.is_empty() {
            checks.fault("jwt_audience", "is empty");
        }
        config.audience.clone_from(&self.jwt_audience);
        config.issuer = self.jwt_issuer.clone().filter(|issuer| !issuer.is_empty());
        let leeway = checks.number("jwt_leeway_s", &self.jwt_leeway_s, 0..=LEEWAY_S);
        config.leeway = Duration::from_secs(leeway);
        let secret = secret_from_environment("JWT_SECRET_KEY");
        let secret = checks.secret(
            "jwt_secret_key",
            secret.as_ref(),
            self.jwt_secret_key_file.as_ref(),
        );
        // Read here too, so that what is wrong is told beside everything else.
        let of_files = TokenAuthenticator::new(config.clone(), None, &Metrics::default());
        if let Err(error) = of_files {
            checks.fault("jwt_keys", chain(&error));
        }
        let of_secret = TokenAuthenticator::new(
            TokenConfig::new(Vec::new()),
            secret.as_deref(),
            &Metrics::default(),
        );
        if let Err(error) = of_secret {
            checks.fault("jwt_secret_key", error);
        }
        let fixed = secret_from_environment("API_SECRET_KEY");
        let fixed = checks.secret(
            "api_secret_key",
            fixed.as_ref(),
            self.api_secret_key_file.as_ref(),
        );
        if fixed.as_ref().is_some_and(|key| key.len() < FIXED_KEY_BYTES) {
            checks.fault(
                "api_secret_key",
                format_args!("has fewer than {FIXED_KEY_BYTES} bytes"),
            );
        }
        TokenSettings {
            config,
            secret,
            fixed: fixed.as_deref().map(FixedKey::new),
        }
    }
}
