//! `vlinders prefill` and `vlinders decode`: the workers of a cluster.

use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;

use anyhow::Context;
use vlinders_engine::Engine;
use vlinders_kernel_api::Urgency;
use vlinders_kv_transfer::{KvTransport, ShmOptions, ShmTransport, TcpOptions, TcpTransport};
use vlinders_types::Epoch;
use vlinders_worker::{Parting, Role};

use super::process::Starting;
use crate::greeting::greet_operators;
use crate::serving::Model;
use crate::settings::WorkerSettings;
use crate::streams;
use crate::watches::watch_gpu;
use crate::workers::{Surroundings, WorkerOrder};

/// Runs until a signal.
///
/// # Errors
/// When the model, a port or a server does not allow it to start.
pub(crate) fn run(role: Role, settings: WorkerSettings) -> anyhow::Result<()> {
    settings.log.start()?.block_on(serve(role, settings))
}

async fn serve(role: Role, settings: WorkerSettings) -> anyhow::Result<()> {
    let starting = Starting::new()?;
    let health = starting.open_health_port(settings.health_listen).await?;
    let (model, engine) = tokio::task::block_in_place(|| {
        let model = Model::load(&settings.model, &settings.engine, settings.kv_transports.shm)?;
        let urgency = match role {
            Role::Prefill => Urgency::Prefill,
            Role::Decode | Role::Both => Urgency::Decode,
        };
        let engine = model.engine(&settings.engine, urgency, 1)?;
        anyhow::Ok((model, engine))
    })?;
    let transports = transports(&settings, &*engine)?;
    let process = starting.connect(settings.nats).await?;
    streams::make_missing(&*process.bus, settings.queue).await?;
    let surroundings = Surroundings {
        bus: Arc::clone(&process.bus) as _,
        spool: process.open_spool(&settings.spool).await?,
        tasks: process.tasks.clone(),
        metrics: process.metrics.clone(),
        traces: settings.log.start_traces(&process.tasks, &process.metrics)?,
        clock: Arc::clone(&process.clock),
        epoch: Epoch(process.clock.now_ms()),
    };
    if model.is_on_gpu() {
        watch_gpu(&process.tasks, &process.metrics);
    }
    let order = WorkerOrder {
        role,
        name: &settings.name,
        model: &model,
        settings: &settings.engine,
        engine,
        transports,
        drain_limit: settings.drain,
        parting: Parting::HandBack,
        pulse: process.watch_pulse(settings.step_limit),
    };
    let started = surroundings.start(order).await;
    // The worker has its spool, and when it is gone nobody has.
    drop(surroundings);
    started.with_context(|| {
        let folder = settings.kv_socket_dir.display();
        format!(
            "the worker cannot start with --kv-listen {} and --kv-socket-dir {folder}",
            settings.kv_listen
        )
    })?;
    let who = format!("{} {}", role.name(), settings.name);
    greet_operators(settings.log.format(), &who, health)?;
    process.serve(settings.drain).await
}

/// The ways to other workers, best first.
fn transports(settings: &WorkerSettings, engine: &dyn Engine) -> anyhow::Result<Vec<Arc<dyn KvTransport>>> {
    let mut transports: Vec<Arc<dyn KvTransport>> = Vec::new();
    if settings.kv_transports.shm {
        let folder = &settings.kv_socket_dir;
        // Whoever may open a socket in it may read blocks.
        let made = std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder);
        made.with_context(|| format!("--kv-socket-dir: cannot create {}", folder.display()))?;
        transports.push(ShmTransport::new(ShmOptions::new(folder.clone()))?);
    }
    transports.extend(nixl(settings, engine)?);
    if settings.kv_transports.tcp {
        transports.push(TcpTransport::new(TcpOptions::new(settings.kv_listen)));
    }
    Ok(transports)
}

/// `nixl`, if it is wanted and there is such a thing here.
#[cfg(feature = "nixl")]
fn nixl(settings: &WorkerSettings, engine: &dyn Engine) -> anyhow::Result<Option<Arc<dyn KvTransport>>> {
    use crate::settings::NixlUse;
    use vlinders_kv_transfer::{NixlLanes, NixlOptions, NixlTransport};

    let Some(wanted) = settings.kv_transports.nixl else {
        return Ok(None);
    };
    let mut options = NixlOptions::new(settings.kv_listen);
    if settings.kv_transports.tcp {
        // `tcp` has the port that was named.
        options.listen.set_port(0);
    }
    if wanted == NixlUse::Always {
        options.lanes = NixlLanes::Any;
    }
    let made = NixlTransport::new(options).and_then(|nixl| {
        nixl.prepare(engine.memory())?;
        Ok(nixl)
    });
    match (made, wanted) {
        (Ok(nixl), NixlUse::Always | NixlUse::IfProtected) => Ok(Some(nixl)),
        (Err(error), NixlUse::Always) => Err(error).context("--kv-transports: `nixl` cannot be used"),
        (Err(error), NixlUse::IfProtected) => {
            tracing::info!(%error, "kv blocks travel without nixl");
            Ok(None)
        }
    }
}

#[cfg(not(feature = "nixl"))]
fn nixl(_: &WorkerSettings, _: &dyn Engine) -> anyhow::Result<Option<Arc<dyn KvTransport>>> {
    Ok(None)
}
