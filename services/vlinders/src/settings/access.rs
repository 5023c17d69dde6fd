//! Who may come in.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use vlinders_frontend::KeyCacheConfig;
use vlinders_service_kit::{Checks, Given};

/// An hour: a revoked key that goes on for longer is none.
const CACHE_MS: u64 = 3_600_000;
/// A week.
const OUTAGE_S: u64 = 7 * 24 * 3600;

/// Flags of processes that speak HTTP with clients.
#[derive(Args, Clone, Debug)]
pub(crate) struct AccessArgs {
    /// Let nobody in without an API key [default: true, false on a loopback address]
    #[arg(long, env = "REQUIRE_KEYS", value_name = "BOOL")]
    require_keys: Option<Given<bool>>,
    /// Serve /metrics and /version without a key [default: false, true on a loopback address]
    #[arg(long, env = "OPEN_METRICS", value_name = "BOOL")]
    open_metrics: Option<Given<bool>>,
    /// Milliseconds that a key is known without asking the database again, and so a revoked one goes on
    #[arg(long, env = "KEY_CACHE_MS", value_name = "MS", default_value = "2000")]
    key_cache_ms: Given<u64>,
    /// Seconds that keys seen before go on while the database is away
    #[arg(long, env = "KEY_OUTAGE_S", value_name = "SECONDS", default_value = "600")]
    key_outage_s: Given<u64>,
}

/// Who may come in.
#[derive(Clone, Debug)]
pub(crate) struct AccessSettings {
    /// Nobody without a key.
    pub(crate) requires_keys: bool,
    pub(crate) open_metrics: bool,
    pub(crate) cache: KeyCacheConfig,
}

/// What else decides about it.
pub(crate) struct Surroundings {
    pub(crate) listen: SocketAddr,
    /// Whether everybody was let in by name.
    pub(crate) allows_anonymous: bool,
    /// Whether there is anything that tells one caller from another.
    pub(crate) knows_callers: bool,
}

impl AccessArgs {
    pub(crate) fn read(&self, surroundings: &Surroundings, checks: &mut Checks) -> AccessSettings {
        let Surroundings {
            listen,
            allows_anonymous,
            knows_callers,
        } = *surroundings;
        let is_local = listen.ip().is_loopback();
        let asked = checks.optional("require_keys", self.require_keys.as_ref());
        let requires_keys = asked.unwrap_or(!is_local && !allows_anonymous);
        let (listen_name, consent) = ("listen", checks.name("allow_anonymous"));
        if requires_keys && allows_anonymous {
            checks.fault(
                "require_keys",
                format_args!("is true beside {consent}; give one of them"),
            );
        } else if requires_keys && !knows_callers {
            let text = "but there is nothing that knows API keys: give --database-url or --jwt-keys";
            match asked {
                Some(_) => checks.fault("require_keys", format_args!("is true, {text}")),
                None => checks.fault(
                    listen_name,
                    format_args!(
                        "{listen} is open to the network, {text}, use a loopback address, or set {consent} to true"
                    ),
                ),
            }
        } else if !requires_keys && !is_local && !allows_anonymous {
            checks.fault(
                "require_keys",
                format_args!("is false and {listen} is open to the network; use a loopback address"),
            );
        }
        let open_metrics = checks.optional("open_metrics", self.open_metrics.as_ref());
        let fresh = checks.number("key_cache_ms", &self.key_cache_ms, 0..=CACHE_MS);
        let outage = checks.number("key_outage_s", &self.key_outage_s, 0..=OUTAGE_S);
        AccessSettings {
            requires_keys,
            open_metrics: open_metrics.unwrap_or(is_local),
            cache: KeyCacheConfig {
                fresh: Duration::from_millis(fresh),
                outage: Duration::from_secs(outage),
                ..KeyCacheConfig::default()
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: AccessArgs,
    }

    fn read(words: &[&str], listen: &str, allows: bool, knows: bool) -> Result<AccessSettings, String> {
        let line = Line::try_parse_from(std::iter::once(&"x").chain(words)).unwrap();
        let surroundings = Surroundings {
            listen: listen.parse().unwrap(),
            allows_anonymous: allows,
            knows_callers: knows,
        };
        let mut checks = Checks::default();
        let settings = line.args.read(&surroundings, &mut checks);
        checks.finish().map_err(|faults| faults.to_string())?;
        Ok(settings)
    }

    const HERE: &str = "127.0.0.1:80";
    const OPEN: &str = "0.0.0.0:80";

    #[test]
    fn keys_are_asked_for_where_strangers_can_come() {
        let asks = |words: &[&str], listen, allows, knows| {
            read(words, listen, allows, knows).map(|settings| (settings.requires_keys, settings.open_metrics))
        };
        assert_eq!(asks(&[], HERE, false, false), Ok((false, true)));
        assert_eq!(asks(&[], HERE, false, true), Ok((false, true)));
        assert_eq!(
            asks(&["--require-keys", "true"], HERE, false, true),
            Ok((true, true))
        );
        assert_eq!(asks(&[], OPEN, false, true), Ok((true, false)));
        assert_eq!(asks(&[], OPEN, true, true), Ok((false, false)));
        assert_eq!(
            asks(&["--open-metrics", "true"], OPEN, false, true),
            Ok((true, true))
        );
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let refused = [
            (read(&[], OPEN, false, false), "--listen: 0.0.0.0:80 is open"),
            (
                read(&["--require-keys", "true"], HERE, false, false),
                "--database-url",
            ),
            (
                read(&["--require-keys", "true"], OPEN, true, true),
                "--allow-anonymous",
            ),
            (
                read(&["--require-keys", "false"], OPEN, false, true),
                "--require-keys: is false",
            ),
            (
                read(&["--key-cache-ms", "x"], HERE, false, false),
                "--key-cache-ms: `x`",
            ),
        ];
        for (told, word) in refused {
            let told = told.unwrap_err();
            assert!(told.contains(word), "{told}");
        }
    }
}
