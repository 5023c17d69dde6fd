//! Databases, folders and secrets.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use vlinders_bus::SpoolSync;
use vlinders_ledger::PostgresOptions;
use vlinders_service_kit::{Checks, Given};

use crate::spool::SpoolSettings;

const CONNECTIONS: usize = 1000;
/// An hour.
const SYNC_MS: u64 = 3_600_000;
/// An answer that waits longer is late.
const CONFIRM_MS: u64 = 60_000;
/// Not that of `vlinders up`, whose usage belongs into a ledger of its own.
const CLUSTER_SPOOL: &str = "cluster-spool";

/// Flags of the ledger in Postgres.
#[derive(Args, Clone, Debug)]
pub(crate) struct DatabaseArgs {
    /// Postgres database of usage, API keys and what is kept for tenants, without a password: postgres://user@host:5432/database
    #[arg(long, env = "DATABASE_URL", value_name = "URL", hide_env_values = true)]
    database_url: Option<String>,
    /// File with the password, in place of POSTGRES_PASSWORD
    #[arg(long, env = "POSTGRES_PASSWORD_FILE", value_name = "FILE")]
    postgres_password_file: Option<PathBuf>,
    /// Certificates of those who may vouch for the database, PEM; TLS is then a must [default: those the system trusts,
    /// when the URL says sslmode=require, verify-ca or verify-full]
    #[arg(long, env = "DATABASE_CA_FILE", value_name = "FILE")]
    database_ca_file: Option<PathBuf>,
    /// Connections to the database at most
    #[arg(long, env = "DATABASE_POOL_SIZE", value_name = "N", default_value = "4")]
    database_pool_size: Given<usize>,
}

impl DatabaseArgs {
    pub(crate) fn is_given(&self) -> bool {
        self.database_url.is_some()
    }

    /// The database, if one is given.
    pub(crate) fn read(&self, checks: &mut Checks) -> Option<PostgresOptions> {
        let connections = checks.number("database_pool_size", &self.database_pool_size, 1..=CONNECTIONS);
        let password = secret_from_environment("POSTGRES_PASSWORD");
        let password = checks.secret(
            "postgres_password",
            password.as_ref(),
            self.postgres_password_file.as_ref(),
        );
        let authorities = pem_file(
            checks,
            "database_ca_file",
            self.database_ca_file.as_ref(),
            "CERTIFICATE",
        );
        let url = self.database_url.as_deref()?;
        let options = PostgresOptions::parse(url).and_then(|options| match &password {
            Some(password) => options.with_password(password),
            None => Ok(options),
        });
        let options = options
            .map_err(|error| checks.fault("database_url", chain(&error)))
            .ok()?;
        let options = match authorities {
            Some(file) => options.with_authorities(file),
            None => Ok(options),
        };
        match options {
            Ok(options) => Some(options.with_pool_size(NonZeroUsize::new(connections)?)),
            Err(error) => {
                checks.fault("database_ca_file", chain(&error));
                None
            }
        }
    }
}

/// Flags of processes that bill.
#[derive(Args, Clone, Debug)]
pub(crate) struct SpoolArgs {
    /// Folder on a local disk that holds usage until NATS has it, the same for all processes of one installation on a host
    /// [default: $XDG_DATA_HOME/vlinders or ~/.local/share/vlinders]
    #[arg(long, env = "DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Milliseconds until usage in that folder survives a loss of power too; 0 makes answers wait for the disk
    #[arg(long, env = "SPOOL_SYNC_MS", value_name = "MS", default_value = "200")]
    spool_sync_ms: Given<u64>,
    /// Milliseconds that the end of an answer waits at most until NATS has its usage too, for folders that are lost with
    /// their machine; 0 is not at all. While NATS is away nobody waits
    #[arg(long, env = "SPOOL_CONFIRM_MS", value_name = "MS", default_value = "0")]
    spool_confirm_ms: Given<u64>,
}

impl SpoolArgs {
    /// Where and how usage is spooled.
    pub(crate) fn read(&self, checks: &mut Checks) -> SpoolSettings {
        let folder = data_dir(self.data_dir.as_ref());
        let folder = folder.unwrap_or_else(|_| {
            checks.fault("data_dir", "is missing, and there is no home folder to use");
            PathBuf::new()
        });
        let sync = match checks.number("spool_sync_ms", &self.spool_sync_ms, 0..=SYNC_MS) {
            0 => SpoolSync::BeforeKept,
            pause => SpoolSync::Every(Duration::from_millis(pause)),
        };
        let confirm_ms = checks.number("spool_confirm_ms", &self.spool_confirm_ms, 0..=CONFIRM_MS);
        SpoolSettings {
            folder: folder.join(CLUSTER_SPOOL),
            sync,
            confirm_within: (confirm_ms > 0).then(|| Duration::from_millis(confirm_ms)),
        }
    }
}

/// An error with its causes.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Secrets are no flags: the arguments of a process are shown to everybody on its host.
pub(super) fn secret_from_environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|secret| !secret.is_empty())
}

/// A file in PEM that can be read and holds something of this kind.
pub(super) fn pem_file<'a>(
    checks: &mut Checks,
    id: &str,
    file: Option<&'a PathBuf>,
    content: &str,
) -> Option<&'a PathBuf> {
    let file = file?;
    let shown = file.display();
    let has_it = |line: &str| line.starts_with("-----BEGIN ") && line.contains(content);
    match std::fs::read_to_string(file) {
        Ok(text) if text.lines().any(has_it) => return Some(file),
        Ok(_) => {
            let content = content.to_lowercase();
            checks.fault(id, format_args!("{shown} holds no {content} in PEM"));
        }
        Err(error) => checks.fault(id, format_args!("{shown} cannot be read: {error}")),
    }
    None
}

/// Where usage is kept.
///
/// # Errors
/// When no folder is given and there is no home to put one in.
pub(crate) fn data_dir(given: Option<&PathBuf>) -> anyhow::Result<PathBuf> {
    if let Some(given) = given {
        return Ok(given.clone());
    }
    let folder = |name: &str| {
        std::env::var_os(name)
            .filter(|path| !path.is_empty())
            .map(PathBuf::from)
    };
    let base = folder("XDG_DATA_HOME").or_else(|| folder("HOME").map(|home| home.join(".local/share")));
    let base =
        base.ok_or_else(|| anyhow::anyhow!("--data-dir: give a folder, there is no home folder to use"))?;
    Ok(base.join("vlinders"))
}
