//! The operators' port.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use vlinders_ledger::KeyDigest;
use vlinders_service_kit::{Checks, Given};

use super::stores::secret_from_environment;

/// A shorter one can be guessed.
const TOKEN_BYTES: usize = 24;

/// Flags of the operators' port.
#[derive(Args, Clone, Debug)]
pub(crate) struct AdminArgs {
    /// Where operators are served: keys, limits, models, health [default: nowhere]
    #[arg(long, env = "ADMIN_LISTEN", value_name = "ADDR:PORT")]
    admin_listen: Option<Given<SocketAddr>>,
    /// File with a secret that lets operators in beside keys for `admin`, in place of ADMIN_TOKEN
    #[arg(long, env = "ADMIN_TOKEN_FILE", value_name = "FILE")]
    admin_token_file: Option<PathBuf>,
}

/// The operators' port.
#[derive(Clone, Debug)]
pub(crate) struct AdminSettings {
    pub(crate) listen: SocketAddr,
    /// Of the secret that lets in beside keys.
    pub(crate) token: Option<KeyDigest>,
}

impl AdminArgs {
    /// Whether there is to be one. `has_keys` tells whether there is a database of keys.
    pub(crate) fn read(&self, has_keys: bool, checks: &mut Checks) -> Option<AdminSettings> {
        let token = secret_from_environment("ADMIN_TOKEN");
        let token = checks.secret("admin_token", token.as_ref(), self.admin_token_file.as_ref());
        if token.as_ref().is_some_and(|token| token.len() < TOKEN_BYTES) {
            checks.fault("admin_token", format_args!("has fewer than {TOKEN_BYTES} bytes"));
        }
        let listen = checks.optional("admin_listen", self.admin_listen.as_ref())?;
        if !has_keys {
            checks.fault("admin_listen", "needs --database-url, where keys are");
        }
        Some(AdminSettings {
            listen,
            token: token.as_deref().map(KeyDigest::of),
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: AdminArgs,
    }

    fn read(words: &[&str], has_keys: bool) -> Result<Option<AdminSettings>, String> {
        let line = Line::try_parse_from(std::iter::once(&"x").chain(words)).unwrap();
        let mut checks = Checks::default();
        let settings = line.args.read(has_keys, &mut checks);
        checks.finish().map_err(|faults| faults.to_string())?;
        Ok(settings)
    }

    #[test]
    fn the_port_is_shut_unless_it_is_named() {
        assert!(read(&[], true).unwrap().is_none());
        assert!(read(&[], false).unwrap().is_none());
        let open = read(&["--admin-listen", "127.0.0.1:9000"], true)
            .unwrap()
            .unwrap();
        assert_eq!((open.listen.port(), open.token), (9000, None));
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let short = folder.path().join("token");
        std::fs::write(&short, "short\n").unwrap();
        let short = short.to_str().unwrap();
        for (words, has_keys, told) in [
            (vec!["--admin-listen", "here"], true, "--admin-listen: `here`"),
            (vec!["--admin-listen", "127.0.0.1:1"], false, "--database-url"),
            (
                vec!["--admin-token-file", short],
                true,
                "--admin-token: has fewer",
            ),
        ] {
            let fault = read(&words, has_keys).unwrap_err();
            assert!(fault.contains(told), "{fault}");
        }
    }
}
