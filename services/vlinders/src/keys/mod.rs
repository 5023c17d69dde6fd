//! `vlinders keys`: makes, shows, changes and ends API keys.

mod options;
mod show;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand};
use vlinders_ledger::{
    ApiKey, KeySecret, KeyStore, NewKey, NewSecret, PostgresLedger, PostgresOptions, SqliteLedger, new_key_id,
};
use vlinders_service_kit::{Checks, Clock, Given, SystemClock};
use vlinders_types::KeyId;

use self::options::RuleArgs;
use crate::settings::{DatabaseArgs, data_dir};

/// A year: a secret that goes on for longer was not replaced.
const GRACE_S: u64 = 365 * 24 * 3600;

/// Flags of `vlinders keys`.
#[derive(Args, Debug)]
pub(crate) struct KeysArgs {
    #[command(subcommand)]
    command: KeysCommand,
}

/// What to do with keys.
#[derive(Debug, Subcommand)]
enum KeysCommand {
    /// Make a key and show its secret, this once
    Create {
        #[command(flatten)]
        rules: Box<RuleArgs>,
        #[command(flatten)]
        place: PlaceArgs,
    },
    /// Show all keys, without their secrets
    List {
        #[command(flatten)]
        place: PlaceArgs,
    },
    /// Give a key other rules; those not named stay
    Change {
        /// The key's id, as `list` shows it
        id: String,
        #[command(flatten)]
        rules: Box<RuleArgs>,
        #[command(flatten)]
        place: PlaceArgs,
    },
    /// Give a key another secret and show it, this once
    Rotate {
        /// The key's id, as `list` shows it
        id: String,
        /// Seconds that the secret it has goes on
        #[arg(long, value_name = "SECONDS", default_value = "86400")]
        grace_s: Given<u64>,
        #[command(flatten)]
        place: PlaceArgs,
    },
    /// End a key, for good
    Revoke {
        /// The key's id, as `list` shows it
        id: String,
        #[command(flatten)]
        place: PlaceArgs,
    },
}

/// Where keys are, and how they are shown.
#[derive(Args, Debug)]
struct PlaceArgs {
    /// Folder of `vlinders up` [default: $XDG_DATA_HOME/vlinders or ~/.local/share/vlinders]
    #[arg(long, env = "DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    database: DatabaseArgs,
    /// One JSON object per line
    #[arg(long)]
    json: bool,
}

/// Runs one of them.
///
/// # Errors
/// When the settings are wrong, there is no such key, or the database cannot be used.
pub(crate) fn run(args: KeysArgs, mut checks: Checks) -> anyhow::Result<()> {
    let place = match &args.command {
        KeysCommand::Create { place, .. }
        | KeysCommand::List { place }
        | KeysCommand::Change { place, .. }
        | KeysCommand::Rotate { place, .. }
        | KeysCommand::Revoke { place, .. } => place,
    };
    let database = place.database.read(&mut checks);
    let (folder, json) = (place.data_dir.clone(), place.json);
    let order = Order::read(args.command, &mut checks);
    checks.finish()?;
    let order = order.context("the settings cannot be read")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("no threads to be had")?;
    runtime.block_on(async {
        let store = open(database, folder.as_ref()).await?;
        carry_out(&*store, order, json).await
    })
}

/// What was asked for, checked.
enum Order {
    Create(Box<RuleArgs>),
    List,
    Change(KeyId, Box<RuleArgs>),
    Rotate(KeyId, Duration),
    Revoke(KeyId),
}

impl Order {
    fn read(command: KeysCommand, checks: &mut Checks) -> Option<Self> {
        Some(match command {
            KeysCommand::Create { rules, .. } => {
                rules.check(true, checks);
                Self::Create(rules)
            }
            KeysCommand::List { .. } => Self::List,
            KeysCommand::Change { id, rules, .. } => {
                rules.check(false, checks);
                Self::Change(KeyId::new(&id), rules)
            }
            KeysCommand::Rotate { id, grace_s, .. } => {
                let grace = checks.number("grace_s", &grace_s, 0..=GRACE_S);
                Self::Rotate(KeyId::new(&id), Duration::from_secs(grace))
            }
            KeysCommand::Revoke { id, .. } => Self::Revoke(KeyId::new(&id)),
        })
    }
}

async fn open(
    database: Option<PostgresOptions>,
    folder: Option<&PathBuf>,
) -> anyhow::Result<Box<dyn KeyStore>> {
    if let Some(options) = database {
        let ledger = PostgresLedger::open(options).await.context("--database-url")?;
        return Ok(Box::new(ledger));
    }
    let folder = data_dir(folder)?;
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("--data-dir: cannot create {}", folder.display()))?;
    let path = folder.join(crate::ledger::LEDGER_FILE);
    let ledger = SqliteLedger::open(&path);
    Ok(Box::new(ledger.with_context(|| {
        format!("--data-dir: cannot open {}", path.display())
    })?))
}

async fn carry_out(store: &dyn KeyStore, order: Order, json: bool) -> anyhow::Result<()> {
    let now_ms = SystemClock.now_ms();
    match order {
        Order::Create(args) => {
            let secret = KeySecret::generate()?;
            let key = ApiKey {
                id: new_key_id()?,
                prefix: secret.prefix(),
                rules: args.rules(now_ms)?,
                created_ms: now_ms,
                revoked_ms: None,
                last_used_ms: None,
            };
            let digest = secret.digest();
            let new = NewKey { key, digest };
            store.insert_key(&new).await?;
            show::secret(&new.key, &secret, json)
        }
        Order::List => show::all(&store.keys().await?, now_ms, json),
        Order::Change(id, args) => {
            let key = existing(store, &id).await?;
            let rules = args.over(key.rules, now_ms)?;
            ensure!(store.change_key(&id, &rules).await?, "{id} is revoked");
            show::all(&[existing(store, &id).await?], now_ms, json)
        }
        Order::Rotate(id, grace) => {
            let secret = KeySecret::generate()?;
            let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
            let new = NewSecret {
                digest: secret.digest(),
                prefix: secret.prefix(),
                previous_until_ms: now_ms.saturating_add(grace_ms),
            };
            existing(store, &id).await?;
            ensure!(store.rotate_key(&id, &new).await?, "{id} is revoked");
            show::secret(&existing(store, &id).await?, &secret, json)
        }
        Order::Revoke(id) => {
            existing(store, &id).await?;
            // Revoked before is revoked too.
            store.revoke_key(&id, now_ms).await?;
            show::all(&[existing(store, &id).await?], now_ms, json)
        }
    }
}

async fn existing(store: &dyn KeyStore, id: &KeyId) -> anyhow::Result<ApiKey> {
    match store.key(id).await? {
        Some(key) => Ok(key),
        None => bail!("there is no key {id}; `vlinders keys list` shows those there are"),
    }
}
