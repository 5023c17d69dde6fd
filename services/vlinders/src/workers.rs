//! Puts a worker's parts together, in whatever process it runs.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use vlinders_bus::{Bus, Spool};
use vlinders_engine::Engine;
use vlinders_kv_transfer::{Endpoint, EndpointConfig, KvTransport};
use vlinders_service_kit::{Clock, Metrics, Pulse, Tasks, Traces};
use vlinders_types::{Epoch, WorkerId};
use vlinders_worker::{Parting, Role, WorkerConfig, WorkerParts};

use crate::serving::Model;
use crate::settings::EngineSettings;
use crate::watches::watch_transfers;

/// What the workers of a process share.
pub(crate) struct Surroundings {
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) spool: Spool,
    pub(crate) tasks: Tasks,
    pub(crate) metrics: Metrics,
    pub(crate) traces: Traces,
    pub(crate) clock: Arc<dyn Clock>,
    /// This life of all of them.
    pub(crate) epoch: Epoch,
}

/// One worker.
pub(crate) struct WorkerOrder<'a> {
    pub(crate) role: Role,
    pub(crate) name: &'a str,
    pub(crate) model: &'a Model,
    pub(crate) settings: &'a EngineSettings,
    pub(crate) engine: Box<dyn Engine>,
    /// Ways to and from other workers, best first.
    pub(crate) transports: Vec<Arc<dyn KvTransport>>,
    /// How long running sequences may go on once the process is asked to stop.
    pub(crate) drain_limit: Duration,
    /// What becomes of those that still run then.
    pub(crate) parting: Parting,
    /// Beats with its loop.
    pub(crate) pulse: Pulse,
}

impl Surroundings {
    /// Starts it.
    ///
    /// # Errors
    /// When a transport cannot listen, the bus refuses a subscription or the system a thread.
    pub(crate) async fn start(&self, order: WorkerOrder<'_>) -> anyhow::Result<()> {
        let role = order.role;
        let (config, parts) = self.parts(order)?;
        watch_transfers(&parts.endpoint, role, &self.tasks, &self.metrics);
        match role {
            Role::Prefill => vlinders_prefill::start(config, parts).await?,
            Role::Decode => vlinders_decode::start(config, parts).await?,
            Role::Both => vlinders_worker::start(config, parts).await?,
        }
        Ok(())
    }

    fn parts(&self, order: WorkerOrder<'_>) -> anyhow::Result<(WorkerConfig, WorkerParts)> {
        let worker = WorkerId::new(order.name);
        let model = order.model.name.clone();
        let mut config = WorkerConfig::new(worker.clone(), self.epoch, order.role, model);
        config.max_running = order.settings.max_num_seqs;
        config.prefill_chunk_tokens = order.settings.prefill_chunk_tokens;
        config.enable_prefix_caching = order.settings.enable_prefix_caching;
        config.drain_limit = order.drain_limit;
        config.parting = order.parting;
        let clock = Arc::clone(&self.clock);
        let clock = Arc::new(move || clock.now_ms());
        let secret = random_bytes::<40>().context("no random numbers to be had")?;
        let (incarnation, ticket_key) = secret.split_at(8);
        let incarnation = u64::from_le_bytes(incarnation.try_into()?);
        let layout_hash = order.engine.facts().layout_hash;
        let mut endpoint =
            EndpointConfig::new(worker, incarnation, ticket_key.try_into()?, layout_hash, clock);
        // A sequence may have an ended hand-off beside the one under way.
        endpoint.max_hand_offs = 4 * order.settings.max_num_seqs as usize;
        endpoint.max_pulls = 4 * order.settings.max_num_seqs as usize;
        let parts = WorkerParts {
            bus: Arc::clone(&self.bus),
            spool: self.spool.clone(),
            text: Arc::clone(&order.model.text),
            endpoint: Endpoint::new(endpoint, order.engine.memory(), order.transports)?,
            engine: order.engine,
            pulse: order.pulse,
            tasks: self.tasks.clone(),
            metrics: self.metrics.clone(),
            traces: self.traces.clone(),
            clock: Arc::clone(&self.clock),
        };
        Ok((config, parts))
    }
}

fn random_bytes<const N: usize>() -> std::io::Result<[u8; N]> {
    use std::io::Read;
    let mut bytes = [0; N];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}
