//! The settings of processes that run one role each.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use vlinders_bus::NatsOptions;
use vlinders_frontend::{DuringOutage, KeptRules, RedisAddress, RedisLimits, TapForm};
use vlinders_ledger::{PostgresOptions, PriceTable};
use vlinders_service_kit::{Checks, Given, SettingValue};
use vlinders_worker::Role;

use super::stores::{chain, pem_file, secret_from_environment};
use super::transports::KvTransports;
use super::{
    AccessArgs, AccessSettings, AdminArgs, AdminSettings, DatabaseArgs, EngineArgs, EngineSettings, KeptArgs,
    LogSettings, ModelArgs, ModelChoice, NatsArgs, PriceArgs, ProcessArgs, QueueArgs, QueueSettings,
    SpoolArgs, StripeArgs, StripeSettings, Surroundings, TokenArgs, TokenSettings, WebhookArgs,
};
use crate::spool::SpoolSettings;

/// A day.
const DRAIN_S: u64 = 24 * 3600;
const STEP_LIMIT_S: u64 = 24 * 3600;
const CONNECTIONS: u32 = 10_000;
const REQUESTS_PER_MINUTE: u32 = 10_000_000;
/// What a key may send in a minute when nobody has said anything about it.
pub(crate) const REQUESTS_OF_A_KEY: u32 = 100;

/// Flags of `vlinders frontend`.
#[derive(Args, Clone, Debug)]
pub(crate) struct FrontendArgs {
    /// Where to listen
    #[arg(
        long,
        env = "LISTEN",
        value_name = "ADDR:PORT",
        default_value = "127.0.0.1:8000"
    )]
    listen: Given<SocketAddr>,
    /// Let in whoever reaches a port that is open to the network
    #[arg(long, env = "ALLOW_ANONYMOUS", value_name = "BOOL", default_value = "false")]
    allow_anonymous: Given<bool>,
    #[command(flatten)]
    access: AccessArgs,
    #[command(flatten)]
    tokens: TokenArgs,
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    prices: PriceArgs,
    #[command(flatten)]
    admin: AdminArgs,
    #[command(flatten)]
    webhook: WebhookArgs,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    nats: NatsArgs,
    #[command(flatten)]
    queue: QueueArgs,
    /// Requests in a minute of a key without a limit of its own, at all frontends together [default: 100 when keys are
    /// required, else no limit]
    #[arg(long, env = "RATE_LIMIT_RPM", value_name = "N")]
    rate_limit_rpm: Option<Given<u32>>,
    /// Redis that counts them for all frontends, without a password: redis://user@host:6379/0 [default: each frontend
    /// counts for itself]
    #[arg(long, env = "REDIS_URL", value_name = "URL", hide_env_values = true)]
    redis_url: Option<String>,
    /// File with the password of Redis, in place of REDIS_PASSWORD
    #[arg(long, env = "REDIS_PASSWORD_FILE", value_name = "FILE")]
    redis_password_file: Option<PathBuf>,
    /// Certificates of those who may vouch for Redis, PEM, for a rediss:// URL [default: those the system trusts]
    #[arg(long, env = "REDIS_CA_FILE", value_name = "FILE")]
    redis_ca_file: Option<PathBuf>,
    /// Connections to Redis at most; one carries all commands
    #[arg(long, env = "REDIS_MAX_CONNECTIONS", value_name = "N", default_value = "1")]
    redis_max_connections: Given<u32>,
    /// While Redis is away: `limit-locally` or `refuse`
    #[arg(
        long,
        env = "RATE_LIMIT_OUTAGE",
        value_name = "POLICY",
        default_value = "limit-locally"
    )]
    rate_limit_outage: Given<Outage>,
    /// Tell what tenants are answered on vl.ev.TENANT.MODEL: `off`, `protobuf` or `json`
    #[arg(long, env = "TAP", value_name = "FORM", default_value = "off")]
    tap: Given<TapSetting>,
    /// Seconds that running requests may go on once the process is asked to stop
    #[arg(long, env = "DRAIN_S", value_name = "SECONDS", default_value = "300")]
    drain_s: Given<u64>,
    #[command(flatten)]
    kept: KeptArgs,
    #[command(flatten)]
    spool: SpoolArgs,
    #[command(flatten)]
    process: ProcessArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TapSetting(Option<TapForm>);

impl SettingValue for TapSetting {
    fn read(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self(None)),
            "protobuf" => Ok(Self(Some(TapForm::Protobuf))),
            "json" => Ok(Self(Some(TapForm::Json))),
            _ => Err("is no form; use `off`, `protobuf` or `json`".to_owned()),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outage {
    LimitLocally,
    Refuse,
}

impl SettingValue for Outage {
    fn read(text: &str) -> Result<Self, String> {
        match text {
            "limit-locally" => Ok(Self::LimitLocally),
            "refuse" => Ok(Self::Refuse),
            _ => Err("is no policy; use `limit-locally` or `refuse`".to_owned()),
        }
    }
}

/// How much is let in, and who counts.
pub(crate) enum RateSettings {
    Unlimited,
    Local {
        per_minute: u32,
    },
    Shared {
        address: Box<RedisAddress>,
        limits: RedisLimits,
    },
}

/// Checked settings of `vlinders frontend`.
pub(crate) struct FrontendSettings {
    pub(crate) listen: SocketAddr,
    pub(crate) access: AccessSettings,
    pub(crate) tokens: TokenSettings,
    /// Where keys and usage are, and what is kept for tenants.
    pub(crate) database: Option<PostgresOptions>,
    pub(crate) prices: Option<PriceTable>,
    pub(crate) admin: Option<AdminSettings>,
    pub(crate) webhook_secret: Option<String>,
    pub(crate) models: Vec<ModelChoice>,
    pub(crate) nats: NatsOptions,
    pub(crate) queue: QueueSettings,
    pub(crate) rate: RateSettings,
    pub(crate) tap: Option<TapForm>,
    pub(crate) drain: Duration,
    pub(crate) kept: KeptRules,
    pub(crate) spool: SpoolSettings,
    pub(crate) log: LogSettings,
}

impl FrontendArgs {
    /// Reads all settings.
    ///
    /// # Errors
    /// One line with every fault.
    pub(crate) fn read(self, mut checks: Checks) -> anyhow::Result<FrontendSettings> {
        let checks_of = &mut checks;
        let listen = checks_of
            .value("listen", &self.listen)
            .unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)));
        let allowed = checks_of.value("allow_anonymous", &self.allow_anonymous);
        let tokens = self.tokens.read(checks_of);
        let surroundings = Surroundings {
            listen,
            allows_anonymous: allowed == Some(true),
            knows_callers: self.database.is_given() || TokenArgs::know_callers(&tokens),
        };
        let access = self.access.read(&surroundings, checks_of);
        let settings = FrontendSettings {
            listen,
            rate: self.rate(access.requires_keys, checks_of),
            access,
            tokens,
            database: self.database.read(checks_of),
            prices: self.prices.read(checks_of),
            admin: self.admin.read(self.database.is_given(), checks_of),
            webhook_secret: self.webhook.read(self.database.is_given(), checks_of),
            models: self.model.read_all(checks_of),
            nats: self.nats.read("vlinders-frontend".to_owned(), checks_of),
            queue: self.queue.read(checks_of),
            tap: checks_of
                .value("tap", &self.tap)
                .and_then(|TapSetting(form)| form),
            drain: Duration::from_secs(checks_of.number("drain_s", &self.drain_s, 0..=DRAIN_S)),
            kept: self.kept.read(checks_of),
            spool: self.spool.read(checks_of),
            log: self.process.read(checks_of),
        };
        checks.finish()?;
        Ok(settings)
    }

    fn rate(&self, requires_keys: bool, checks: &mut Checks) -> RateSettings {
        checks.number(
            "redis_max_connections",
            &self.redis_max_connections,
            1..=CONNECTIONS,
        );
        let outage = checks.value("rate_limit_outage", &self.rate_limit_outage);
        let per_minute = checks.optional_number(
            "rate_limit_rpm",
            self.rate_limit_rpm.as_ref(),
            1..=REQUESTS_PER_MINUTE,
        );
        let per_minute = per_minute.or(requires_keys.then_some(REQUESTS_OF_A_KEY));
        let password = secret_from_environment("REDIS_PASSWORD");
        let password = checks.secret(
            "redis_password",
            password.as_ref(),
            self.redis_password_file.as_ref(),
        );
        let authorities = pem_file(
            checks,
            "redis_ca_file",
            self.redis_ca_file.as_ref(),
            "CERTIFICATE",
        );
        let address = self.redis_url.as_deref().and_then(|url| {
            let address = RedisAddress::parse(url).and_then(|address| match &password {
                Some(password) => address.with_password(password),
                None => Ok(address),
            });
            let address = address
                .map_err(|error| checks.fault("redis_url", chain(&error)))
                .ok()?;
            match authorities {
                Some(file) => address
                    .with_authorities(file)
                    .map_err(|error| checks.fault("redis_ca_file", chain(&error)))
                    .ok(),
                None => Some(address),
            }
        });
        match (per_minute, address) {
            (None, _) => RateSettings::Unlimited,
            (Some(per_minute), None) => RateSettings::Local { per_minute },
            (Some(per_minute), Some(address)) => {
                let mut limits = RedisLimits::per_minute(per_minute);
                if outage == Some(Outage::Refuse) {
                    limits.during_outage = DuringOutage::Refuse;
                }
                RateSettings::Shared {
                    address: Box::new(address),
                    limits,
                }
            }
        }
    }
}

/// Flags of `vlinders prefill` and `vlinders decode`.
#[derive(Args, Clone, Debug)]
pub(crate) struct WorkerArgs {
    /// Name of this worker, unique in the installation [default: made from the host's name]
    #[arg(long, env = "WORKER_NAME", value_name = "NAME")]
    worker_name: Option<String>,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    nats: NatsArgs,
    #[command(flatten)]
    queue: QueueArgs,
    /// Address at which other workers read KV blocks; of one interface, since whoever reaches it may ask
    #[arg(
        long,
        env = "KV_LISTEN",
        value_name = "ADDR:PORT",
        default_value = "127.0.0.1:0"
    )]
    kv_listen: Given<SocketAddr>,
    /// How KV blocks travel: `shm`, `tcp`, `nixl` or several of them; `auto` is what this backend can do, with `nixl`
    /// where its library is installed, over RDMA only
    #[arg(long, env = "KV_TRANSPORTS", value_name = "LIST", default_value = "auto")]
    kv_transports: Given<KvTransports>,
    /// Folder for the sockets of `shm`, shared by the workers of a host [default: one in the system's temporary folder]
    #[arg(long, env = "KV_SOCKET_DIR", value_name = "DIR")]
    kv_socket_dir: Option<PathBuf>,
    /// Where /health, /live, /ready and /metrics are served
    #[arg(
        long,
        env = "HEALTH_LISTEN",
        value_name = "ADDR:PORT",
        default_value = "127.0.0.1:0"
    )]
    health_listen: Given<SocketAddr>,
    /// Seconds that running sequences may go on once the process is asked to stop; then others take them over
    #[arg(long, env = "DRAIN_S", value_name = "SECONDS", default_value = "30")]
    drain_s: Given<u64>,
    /// Seconds after which an engine step that has not ended counts as hung: /live says so, and the process leaves; 0 is
    /// never. Above the longest step this machine takes, with all of --max-num-batched-tokens
    #[arg(long, env = "STEP_LIMIT_S", value_name = "SECONDS", default_value = "300")]
    step_limit_s: Given<u64>,
    #[command(flatten)]
    spool: SpoolArgs,
    #[command(flatten)]
    process: ProcessArgs,
}

/// Checked settings of `vlinders prefill` and `vlinders decode`.
pub(crate) struct WorkerSettings {
    pub(crate) name: String,
    pub(crate) model: ModelChoice,
    pub(crate) engine: EngineSettings,
    pub(crate) nats: NatsOptions,
    pub(crate) queue: QueueSettings,
    pub(crate) kv_listen: SocketAddr,
    pub(crate) kv_transports: KvTransports,
    pub(crate) kv_socket_dir: PathBuf,
    pub(crate) health_listen: SocketAddr,
    pub(crate) drain: Duration,
    /// How long a step may take; for ever without one.
    pub(crate) step_limit: Option<Duration>,
    pub(crate) spool: SpoolSettings,
    pub(crate) log: LogSettings,
}

impl WorkerArgs {
    /// Reads all settings.
    ///
    /// # Errors
    /// One line with every fault.
    pub(crate) fn read(self, role: Role, mut checks: Checks) -> anyhow::Result<WorkerSettings> {
        let local = || SocketAddr::from(([127, 0, 0, 1], 0));
        let name = self.worker_name.clone().unwrap_or_else(|| own_name(role));
        if name.is_empty() || name.len() > 128 {
            checks.fault("worker_name", "is empty or longer than 128 bytes");
        }
        let engine = self.engine.read(&mut checks);
        let model = self.model.read_one(&mut checks);
        let transports = checks.value("kv_transports", &self.kv_transports);
        let transports = transports.unwrap_or(KvTransports::AUTO);
        let transports = transports
            .with(engine.backend.kind, model.devices.unwrap_or(1))
            .unwrap_or_else(|text| {
                checks.fault("kv_transports", text);
                transports
            });
        let kv_listen = checks.value("kv_listen", &self.kv_listen).unwrap_or_else(local);
        if transports.listen() && kv_listen.ip().is_unspecified() {
            let text = format!(
                "{kv_listen} means every interface; name the address at which other workers reach this one"
            );
            checks.fault("kv_listen", text);
        }
        let settings = WorkerSettings {
            model,
            nats: self.nats.read(format!("vlinders-{name}"), &mut checks),
            queue: self.queue.read(&mut checks),
            kv_listen,
            kv_transports: transports,
            kv_socket_dir: self.kv_socket_dir.unwrap_or_else(default_socket_dir),
            health_listen: checks
                .value("health_listen", &self.health_listen)
                .unwrap_or_else(local),
            drain: Duration::from_secs(checks.number("drain_s", &self.drain_s, 0..=DRAIN_S)),
            step_limit: Some(checks.number("step_limit_s", &self.step_limit_s, 0..=STEP_LIMIT_S))
                .filter(|seconds| *seconds > 0)
                .map(Duration::from_secs),
            spool: self.spool.read(&mut checks),
            log: self.process.read(&mut checks),
            name,
            engine,
        };
        checks.finish()?;
        Ok(settings)
    }
}

/// The host's name and this process's number tell workers of one role apart, on one host and on many.
fn own_name(role: Role) -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}-{}-{}", role.name(), host.trim(), std::process::id())
}

/// One for each user: only processes of one user exchange memory.
fn default_socket_dir() -> PathBuf {
    let user = std::os::unix::fs::MetadataExt::uid;
    let user = std::fs::metadata("/proc/self").map_or(0, |facts| user(&facts));
    std::env::temp_dir().join(format!("vlinders-{user}"))
}

/// Flags of `vlinders usage`.
#[derive(Args, Clone, Debug)]
pub(crate) struct UsageRoleArgs {
    #[command(flatten)]
    nats: NatsArgs,
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    prices: PriceArgs,
    #[command(flatten)]
    stripe: StripeArgs,
    /// Where /health, /live, /ready and /metrics are served
    #[arg(
        long,
        env = "HEALTH_LISTEN",
        value_name = "ADDR:PORT",
        default_value = "127.0.0.1:0"
    )]
    health_listen: Given<SocketAddr>,
    #[command(flatten)]
    process: ProcessArgs,
}

/// Checked settings of `vlinders usage`.
pub(crate) struct UsageRoleSettings {
    pub(crate) nats: NatsOptions,
    pub(crate) database: PostgresOptions,
    pub(crate) prices: Option<PriceTable>,
    pub(crate) stripe: Option<StripeSettings>,
    pub(crate) health_listen: SocketAddr,
    pub(crate) log: LogSettings,
}

impl UsageRoleArgs {
    /// Reads all settings.
    ///
    /// # Errors
    /// One line with every fault.
    pub(crate) fn read(self, mut checks: Checks) -> anyhow::Result<UsageRoleSettings> {
        let database = self.database.read(&mut checks);
        if !self.database.is_given() {
            checks.fault("database_url", "is missing: usage is kept in a Postgres database");
        }
        let nats = self.nats.read("vlinders-usage".to_owned(), &mut checks);
        let health_listen = checks.value("health_listen", &self.health_listen);
        let log = self.process.read(&mut checks);
        let prices = self.prices.read(&mut checks);
        let stripe = self.stripe.read(prices.is_some(), &mut checks);
        checks.finish()?;
        // What is missing here was a fault above.
        let (Some(database), Some(health_listen)) = (database, health_listen) else {
            anyhow::bail!("the settings cannot be read");
        };
        Ok(UsageRoleSettings {
            nats,
            database,
            prices,
            stripe,
            health_listen,
            log,
        })
    }
}
