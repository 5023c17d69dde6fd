//! The settings file: what its keys are called, and how it lies under flags and environment.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{ArgMatches, Command};
use vlinders_service_kit::FileSettings;

/// Keys of the file and the settings they are. `server.host` and `server.port` together are `listen`.
const KEYS: &[(&str, &str)] = &[
    ("server.listen", "listen"),
    ("server.workers", "io_threads"),
    ("server.allow_anonymous", "allow_anonymous"),
    ("access.require_keys", "require_keys"),
    ("access.open_metrics", "open_metrics"),
    ("access.key_cache_ms", "key_cache_ms"),
    ("access.key_outage_s", "key_outage_s"),
    ("jwt.keys", "jwt_keys"),
    ("jwt.audience", "jwt_audience"),
    ("jwt.issuer", "jwt_issuer"),
    ("jwt.leeway_s", "jwt_leeway_s"),
    ("jwt.secret_key_file", "jwt_secret_key_file"),
    ("admin.listen", "admin_listen"),
    ("admin.token_file", "admin_token_file"),
    ("access.api_secret_key_file", "api_secret_key_file"),
    ("server.drain_s", "drain_s"),
    ("server.data_dir", "data_dir"),
    ("server.spool_sync_ms", "spool_sync_ms"),
    ("server.spool_confirm_ms", "spool_confirm_ms"),
    ("logging.level", "log_level"),
    ("logging.format", "log_format"),
    ("traces.endpoint", "otel_exporter_otlp_endpoint"),
    ("traces.sample_ratio", "trace_sample_ratio"),
    ("health.listen", "health_listen"),
    ("models.file", "models_file"),
    ("prices.file", "prices"),
    ("stripe.key_file", "stripe_key_file"),
    ("stripe.meter", "stripe_meter"),
    ("stripe.value", "stripe_value"),
    ("stripe.every_s", "stripe_every_s"),
    ("stripe.url", "stripe_url"),
    ("stripe.webhook_secret_file", "stripe_webhook_secret_file"),
    ("nats.url", "nats_url"),
    ("nats.user", "nats_user"),
    ("nats.password_file", "nats_password_file"),
    ("nats.token_file", "nats_token_file"),
    ("nats.nkey_file", "nats_nkey_file"),
    ("nats.creds_file", "nats_creds_file"),
    ("nats.ca_file", "nats_ca_file"),
    ("nats.cert_file", "nats_cert_file"),
    ("nats.key_file", "nats_key_file"),
    ("nats.replicas", "nats_replicas"),
    ("nats.start_limit_s", "start_limit_s"),
    ("redis.url", "redis_url"),
    ("redis.password_file", "redis_password_file"),
    ("redis.ca_file", "redis_ca_file"),
    ("redis.max_connections", "redis_max_connections"),
    ("database.url", "database_url"),
    ("database.password_file", "postgres_password_file"),
    ("database.ca_file", "database_ca_file"),
    ("database.pool_size", "database_pool_size"),
    ("limits.requests_per_minute", "rate_limit_rpm"),
    ("limits.during_outage", "rate_limit_outage"),
    ("limits.max_queued_requests", "max_queued_requests"),
    ("limits.request_deadline_s", "request_deadline_s"),
    ("engine.backend", "backend"),
    ("engine.threads", "threads"),
    ("engine.max_model_len", "max_model_len"),
    ("engine.max_num_seqs", "max_num_seqs"),
    ("engine.max_num_batched_tokens", "max_num_batched_tokens"),
    ("engine.prefill_chunk_tokens", "prefill_chunk_tokens"),
    ("engine.enable_prefix_caching", "enable_prefix_caching"),
    ("engine.kv_memory_mib", "kv_memory_mib"),
    ("engine.gpu_memory_utilization", "gpu_memory_utilization"),
    ("engine.tensor_parallel_size", "tensor_parallel_size"),
    ("engine.step_limit_s", "step_limit_s"),
    ("kv.listen", "kv_listen"),
    ("kv.transports", "kv_transports"),
    ("kv.socket_dir", "kv_socket_dir"),
];
const HOST: &str = "server.host";
const PORT: &str = "server.port";

/// A command with a file's values as its defaults, and the names of the keys they came from.
pub(crate) struct Layered {
    pub(crate) command: Command,
    /// By the setting's id.
    pub(crate) keys: BTreeMap<String, String>,
    /// Keys that nobody knows.
    pub(crate) faults: Vec<String>,
}

/// Puts the file that `matches` names under the subcommand. None is named: nothing changes.
///
/// # Errors
/// When the file cannot be read.
pub(crate) fn layered(command: Command, matches: &ArgMatches) -> anyhow::Result<Layered> {
    let mut layered = Layered {
        command,
        keys: BTreeMap::new(),
        faults: Vec::new(),
    };
    let Some((role, given)) = matches.subcommand() else {
        return Ok(layered);
    };
    let path = given.try_get_one::<PathBuf>("config_file").ok().flatten();
    let Some(path) = path else { return Ok(layered) };
    let file = FileSettings::read(path)?;
    layered.faults = unknown_keys(&file, path);
    // A file is shared by all roles: a key of another role's is none of ours.
    let subcommand = layered.command.find_subcommand(role);
    let known: Vec<String> = subcommand
        .into_iter()
        .flat_map(Command::get_arguments)
        .map(|argument| argument.get_id().to_string())
        .collect();
    let mut values = Vec::new();
    for (key, id, value) in file_values(&file) {
        if known.contains(&id) {
            layered
                .keys
                .insert(id.clone(), format!("{key} in {}", path.display()));
            values.push((id, value));
        }
    }
    layered.command = layered.command.mut_subcommand(role, |mut subcommand| {
        for (id, value) in values {
            subcommand = subcommand.mut_arg(id, |argument| argument.default_value(value));
        }
        subcommand
    });
    Ok(layered)
}

fn unknown_keys(file: &FileSettings, path: &Path) -> Vec<String> {
    let is_known = |key: &str| key == HOST || key == PORT || KEYS.iter().any(|(known, _)| *known == key);
    let unknown = file.keys().filter(|key| !is_known(key));
    unknown
        .map(|key| {
            let section = key.split('.').next().unwrap_or_default();
            let near: Vec<&str> = [HOST, PORT]
                .into_iter()
                .chain(KEYS.iter().map(|(known, _)| *known))
                .filter(|known| known.split('.').next() == Some(section))
                .collect();
            let near = if near.is_empty() {
                "no such section".to_owned()
            } else {
                format!("known are {}", near.join(", "))
            };
            format!("{key} in {}: no such setting; {near}", path.display())
        })
        .collect()
}

/// Key, setting and value.
fn file_values(file: &FileSettings) -> Vec<(String, String, String)> {
    let mut values: Vec<_> = KEYS
        .iter()
        .filter_map(|(key, id)| Some(((*key).to_owned(), (*id).to_owned(), file.get(key)?.to_owned())))
        .collect();
    if file.get(HOST).is_some() || file.get(PORT).is_some() {
        let host = file.get(HOST).unwrap_or("127.0.0.1");
        let host = if host == "localhost" { "127.0.0.1" } else { host };
        let host = if host.contains(':') && !host.starts_with('[') {
            format!("[{host}]")
        } else {
            host.to_owned()
        };
        let listen = format!("{host}:{}", file.get(PORT).unwrap_or("8000"));
        values.push((format!("{HOST} and {PORT}"), "listen".to_owned(), listen));
    }
    values
}

/// The name each setting was given by, where that is not its flag.
pub(crate) fn origins(
    command: &Command,
    given: &ArgMatches,
    keys: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let mut names = BTreeMap::new();
    for secret in [
        "nats_password",
        "nats_token",
        "redis_password",
        "postgres_password",
        "jwt_secret_key",
        "api_secret_key",
        "admin_token",
        "stripe_key",
        "stripe_webhook_secret",
    ] {
        names.insert(secret.to_owned(), secret.to_ascii_uppercase());
    }
    for argument in command.get_arguments() {
        let id = argument.get_id().as_str();
        let name = match given.value_source(id) {
            Some(ValueSource::EnvVariable) => {
                argument.get_env().map(|name| name.to_string_lossy().into_owned())
            }
            Some(ValueSource::DefaultValue) => keys.get(id).cloned(),
            Some(_) | None => None,
        };
        let flag = argument.get_long().map(|long| format!("--{long}"));
        if let Some(name) = name.or(flag) {
            names.insert(id.to_owned(), name);
        }
    }
    names
}
