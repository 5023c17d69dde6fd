//! What every process of a cluster has: tasks, metrics, the bus, a port that tells how it fares, and an orderly end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use vlinders_bus::{NatsBus, NatsOptions, Spool, SpoolUntil};
use vlinders_service_kit::{
    Clock, HealthParts, Metrics, Probe, Pulse, Stage, StopSignals, SystemClock, Tasks, serve_health,
};

use crate::spool::{SpoolParts, SpoolSettings, open_spool};
use crate::watches::watch_bus;

/// How long everything but running requests may take to stop.
const STOP: Duration = Duration::from_secs(10);

/// Where a process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Stand {
    Starting,
    Ready,
    Draining,
}

/// A process of one role.
pub(super) struct Process {
    pub(super) tasks: Tasks,
    pub(super) metrics: Metrics,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) bus: Arc<NatsBus>,
    health: Health,
    signals: StopSignals,
}

/// The state that the health port shows.
#[derive(Clone)]
pub(super) struct Health {
    stand: Arc<AtomicU8>,
    bus: Arc<std::sync::OnceLock<Arc<NatsBus>>>,
    failed: CancellationToken,
    hung: CancellationToken,
}

impl Health {
    fn new(tasks: &Tasks) -> Self {
        Self {
            stand: Arc::new(AtomicU8::new(Stand::Starting as u8)),
            bus: Arc::default(),
            failed: tasks.failed(),
            hung: CancellationToken::new(),
        }
    }

    fn obstacle(&self) -> Option<&'static str> {
        let stand = self.stand.load(Ordering::Relaxed);
        if stand == Stand::Starting as u8 {
            return Some("starting");
        }
        if stand == Stand::Draining as u8 {
            return Some("draining");
        }
        let is_up = self.bus.get().is_some_and(|bus| bus.is_up());
        (!is_up).then_some("bus not reachable")
    }

    fn ready(&self) -> Probe {
        let health = self.clone();
        Arc::new(move || health.obstacle())
    }

    fn live(&self) -> Probe {
        let (failed, hung) = (self.failed.clone(), self.hung.clone());
        Arc::new(move || {
            if failed.is_cancelled() {
                return Some("a task failed");
            }
            hung.is_cancelled().then_some("the engine hangs")
        })
    }
}

/// A process that has its health port and not yet the bus.
pub(super) struct Starting {
    tasks: Tasks,
    metrics: Metrics,
    health: Health,
    signals: StopSignals,
}

impl Starting {
    /// # Errors
    /// When signals cannot be watched.
    pub(super) fn new() -> anyhow::Result<Self> {
        let tasks = Tasks::new();
        Ok(Self {
            metrics: Metrics::of_process(env!("CARGO_PKG_VERSION")),
            health: Health::new(&tasks),
            tasks,
            signals: StopSignals::watch().context("signals cannot be watched")?,
        })
    }

    /// Opens the health port: whoever watches sees from the beginning that the process lives.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub(super) async fn open_health_port(&self, listen: SocketAddr) -> anyhow::Result<SocketAddr> {
        let listener = TcpListener::bind(listen).await;
        let listener = listener.with_context(|| format!("--health-listen: cannot listen on {listen}"))?;
        let parts = HealthParts {
            metrics: self.metrics.clone(),
            ready: self.health.ready(),
            live: self.health.live(),
            version: env!("CARGO_PKG_VERSION"),
        };
        Ok(serve_health(listener, parts, &self.tasks)?)
    }

    /// Waits for the servers of the bus. A signal ends the waiting.
    ///
    /// # Errors
    /// When none can be used, or somebody wants the process to leave.
    pub(super) async fn connect(mut self, options: NatsOptions) -> anyhow::Result<Process> {
        let bus = tokio::select! {
            bus = NatsBus::connect(options) => Arc::new(bus?),
            signal = self.signals.next() => bail!("{signal} while waiting for NATS"),
        };
        // Set once, here.
        let _first = self.health.bus.set(Arc::clone(&bus));
        watch_bus(Arc::clone(&bus), &self.tasks, &self.metrics);
        Ok(Process {
            tasks: self.tasks,
            metrics: self.metrics,
            clock: Arc::new(SystemClock),
            bus,
            health: self.health,
            signals: self.signals,
        })
    }
}

impl Process {
    /// Opens the spool. Whoever holds it last lets its task end.
    ///
    /// # Errors
    /// When nothing can be written there.
    pub(super) async fn open_spool(&self, settings: &SpoolSettings) -> anyhow::Result<Spool> {
        let parts = SpoolParts {
            settings,
            until: SpoolUntil::Stored,
            bus: Arc::clone(&self.bus) as _,
            tasks: &self.tasks,
            metrics: &self.metrics,
            clock: Arc::clone(&self.clock),
        };
        open_spool(parts).await
    }

    /// A pulse for the engine's loop. When one of its turns takes longer than `limit`, the process says so and leaves: a
    /// thread that hangs cannot be helped from within, and whoever supervises the process starts another.
    pub(super) fn watch_pulse(&self, limit: Option<Duration>) -> Pulse {
        let pulse = Pulse::default();
        if let Some(limit) = limit {
            let stopping = self.tasks.stopping(Stage::Flush);
            let watch = pulse.clone().watch(limit, self.health.hung.clone(), stopping);
            self.tasks.spawn(Stage::Flush, "pulse-watch", watch);
        }
        pulse
    }

    /// Serves until a signal comes, then stops: running work has `drain`, everything else a little longer. A second
    /// signal ends all at once.
    ///
    /// # Errors
    /// When a task failed, the engine hangs, the bus is lost for good, or not everything stopped in time.
    pub(super) async fn serve(mut self, drain: Duration) -> anyhow::Result<()> {
        self.health.stand.store(Stand::Ready as u8, Ordering::Relaxed);
        let (failed, hung) = (self.tasks.failed(), self.health.hung.clone());
        let ended: anyhow::Result<()> = tokio::select! {
            signal = self.signals.next() => {
                tracing::info!(cause = signal, "stopping; a second signal ends all at once");
                Ok(())
            }
            () = failed.cancelled() => Err(anyhow::anyhow!("a task failed; the log has the reason")),
            () = hung.cancelled() => {
                tracing::error!("the engine computes one step for longer than --step-limit-s; the process leaves");
                Err(anyhow::anyhow!("the engine hangs: one step took longer than --step-limit-s"))
            }
            fatal = self.bus.fatal() => Err(fatal.into()),
        };
        self.health.stand.store(Stand::Draining as u8, Ordering::Relaxed);
        // Without the bus nothing can be finished.
        let limit = if ended.is_ok() { drain + STOP } else { STOP };
        let stopped = tokio::select! {
            stopped = self.tasks.stop(limit) => stopped.context("not everything stopped in time"),
            signal = self.signals.next() => Err(anyhow::anyhow!("a second {signal}: what still ran was cut off")),
        };
        self.bus.close().await;
        ended?;
        stopped?;
        anyhow::ensure!(!failed.is_cancelled(), "a task failed; the log has the reason");
        Ok(())
    }
}
