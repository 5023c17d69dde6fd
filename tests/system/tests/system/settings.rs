//! Settings come from the environment under the names deployments use, and their faults are told together.

use anyhow::ensure;
use vlinders_system_tests::run_to_end_with;

use crate::Checked;

/// A text that cannot be this setting's.
fn bad(name: &str) -> &'static str {
    match name {
        "NATS_URL" => "http://nowhere",
        _ => "-x-",
    }
}

/// Every setting of a role with a text that cannot be right. The one line that comes must name them all: so each is read.
async fn all_are_read(role: &str, names: &[&str]) -> Checked {
    let home = tempfile::tempdir()?;
    let variables: Vec<(&str, &str)> = names.iter().map(|name| (*name, bad(name))).collect();
    let ended = run_to_end_with(home.path(), &variables, &[role]).await?;
    ensure!(ended.status.code() == Some(1), "{ended:?}");
    ensure!(
        ended.errors.lines().count() == 1 && ended.errors.starts_with("vlinders: "),
        "{ended:?}"
    );
    let missing: Vec<_> = names
        .iter()
        .filter(|name| !ended.errors.contains(&format!("{name}: ")))
        .collect();
    ensure!(missing.is_empty(), "not read: {missing:?}\n{}", ended.errors);
    Ok(())
}

const OF_ALL: &[&str] = &[
    "LOG_LEVEL",
    "LOG_FORMAT",
    "IO_THREADS",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_TRACES_SAMPLER_ARG",
];
const OF_NATS: &[&str] = &[
    "NATS_URL",
    "NATS_REPLICAS",
    "START_LIMIT_S",
    "NATS_PASSWORD_FILE",
    "NATS_NKEY_FILE",
    "NATS_CREDS_FILE",
    "NATS_CA_FILE",
    "NATS_CERT_FILE",
    "NATS_KEY_FILE",
];
const OF_MODELS: &[&str] = &[
    "MODEL_PATH",
    "TENSOR_PARALLEL_SIZE",
    "MAX_MODEL_LEN",
    "TOOL_FORMAT",
    "REASONING_FORMAT",
];

#[tokio::test]
async fn a_worker_reads_its_environment() -> Checked {
    for role in ["prefill", "decode"] {
        let own = [
            "BACKEND",
            "COMPUTE_THREADS",
            "GPU_MEMORY_UTILIZATION",
            "ENABLE_PREFIX_CACHING",
            "MAX_NUM_SEQS",
            "MAX_NUM_BATCHED_TOKENS",
            "PREFILL_CHUNK_TOKENS",
            "KV_MEMORY_MIB",
            "KV_LISTEN",
            "KV_TRANSPORTS",
            "HEALTH_LISTEN",
            "DRAIN_S",
            "MAX_QUEUED_REQUESTS",
            "REQUEST_DEADLINE_S",
        ];
        all_are_read(role, &[&own, OF_ALL, OF_NATS, OF_MODELS].concat()).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_frontend_reads_its_environment() -> Checked {
    let own = [
        "LISTEN",
        "ALLOW_ANONYMOUS",
        "REQUIRE_KEYS",
        "JWT_KEYS",
        "JWT_LEEWAY_S",
        "JWT_SECRET_KEY_FILE",
        "API_SECRET_KEY",
        "OPEN_METRICS",
        "KEY_CACHE_MS",
        "KEY_OUTAGE_S",
        "DATABASE_URL",
        "DATABASE_POOL_SIZE",
        "DATABASE_CA_FILE",
        "POSTGRES_PASSWORD_FILE",
        "REDIS_URL",
        "REDIS_MAX_CONNECTIONS",
        "REDIS_CA_FILE",
        "REDIS_PASSWORD_FILE",
        "RATE_LIMIT_RPM",
        "RATE_LIMIT_OUTAGE",
        "MAX_QUEUED_REQUESTS",
        "REQUEST_DEADLINE_S",
        "DRAIN_S",
    ];
    all_are_read("frontend", &[&own, OF_ALL, OF_NATS, OF_MODELS].concat()).await
}

#[tokio::test]
async fn the_usage_service_reads_its_environment() -> Checked {
    let own = [
        "DATABASE_URL",
        "DATABASE_POOL_SIZE",
        "DATABASE_CA_FILE",
        "POSTGRES_PASSWORD_FILE",
        "HEALTH_LISTEN",
    ];
    all_are_read("usage", &[&own, OF_ALL, OF_NATS].concat()).await
}

#[tokio::test]
async fn a_missing_file_of_models_or_settings_is_named() -> Checked {
    let home = tempfile::tempdir()?;
    for name in ["CONFIG_FILE", "MODELS_FILE"] {
        let ended = run_to_end_with(home.path(), &[(name, "/nowhere/x.yaml")], &["frontend"]).await?;
        ensure!(
            ended.status.code() == Some(1)
                && ended.errors.lines().count() == 1
                && ended.errors.contains("/nowhere/x.yaml: No such file"),
            "{ended:?}"
        );
    }
    Ok(())
}
