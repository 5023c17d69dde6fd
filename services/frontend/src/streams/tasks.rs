//! The tasks behind the streams: reading step batches and beacons, sending heartbeats, sweeping, cancelling.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use vlinders_bus::{Bus, BusError, Subject, Subscription};
use vlinders_service_kit::{Stage, Tasks};
use vlinders_types::{Epoch, FrontendId, Heartbeat, Pool, StepBatch, WorkerId};
use vlinders_wire::subjects::{WorkerCall, beacons_of, heartbeat_subject, tokens_subject, worker_subject};
use vlinders_wire::{Resend, decode_beacon, decode_step_batch, encode_heartbeat, encode_resend};

use super::batches::{Arrival, BatchOrder};
use super::canceller::CancelLoop;
use super::course::Origin;
use super::failover::Failover;
use super::sweep::{self, SweepRules};
use super::table::Streams;
use crate::FrontendConfig;
use crate::lives::Lives;
use crate::metrics::FrontendMetrics;
use crate::workers::Workers;

const HEARTBEAT: Duration = Duration::from_secs(1);

/// What the tasks share.
pub(crate) struct WayBack {
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) frontend: FrontendId,
    pub(crate) streams: Arc<Streams>,
    pub(crate) workers: Arc<Workers>,
    pub(crate) lives: Arc<Lives>,
    pub(crate) metrics: Arc<FrontendMetrics>,
    pub(crate) order: Mutex<BatchOrder>,
}

/// Subscribes, then starts the tasks. They end in the last stage: streams that still run need them.
pub(crate) async fn spawn(
    way: Arc<WayBack>,
    cancels: CancelLoop,
    failover: Failover,
    tasks: &Tasks,
    config: &FrontendConfig,
) -> Result<(), BusError> {
    let tokens = way
        .bus
        .subscribe(&Subject::new(tokens_subject(&way.frontend)))
        .await?;
    let prefill = way
        .bus
        .subscribe(&Subject::new(beacons_of(Pool::Prefill)))
        .await?;
    let decode = way.bus.subscribe(&Subject::new(beacons_of(Pool::Decode))).await?;
    let end = || tasks.stopping(Stage::Flush);
    let rules = SweepRules {
        stalled_client: config.stalled_client,
        drain: config.drain,
    };
    let sweeping = sweep::run(
        Arc::clone(&way.streams),
        rules,
        tasks.stopping(Stage::Intake),
        end(),
    );
    tasks.spawn(
        Stage::Flush,
        "frontend-tokens",
        dispatch(Arc::clone(&way), tokens, end()),
    );
    tasks.spawn(
        Stage::Flush,
        "frontend-prefill-beacons",
        observe(Arc::clone(&way), prefill, end()),
    );
    tasks.spawn(
        Stage::Flush,
        "frontend-decode-beacons",
        observe(Arc::clone(&way), decode, end()),
    );
    tasks.spawn(Stage::Flush, "frontend-sweep", sweeping);
    tasks.spawn(Stage::Flush, "frontend-failover", failover.run(end()));
    tasks.spawn(Stage::Flush, "frontend-cancels", cancels.run(end()));
    tasks.spawn(Stage::Flush, "frontend-heartbeat", beat(way, end()));
    Ok(())
}

/// Brings every chunk to its stream. Must never wait for a client.
async fn dispatch(way: Arc<WayBack>, mut tokens: Box<dyn Subscription>, end: CancellationToken) {
    let mut lost = 0;
    loop {
        let incoming = tokio::select! {
            biased;
            () = end.cancelled() => return,
            incoming = tokens.next() => incoming,
        };
        let Some(incoming) = incoming else {
            tracing::warn!("bus closed; no more tokens will arrive");
            return;
        };
        way.metrics
            .lost_messages
            .inc_by(tokens.lost().saturating_sub(lost));
        lost = tokens.lost();
        match decode_step_batch(&incoming.payload) {
            Ok(batch) => accept(&way, batch).await,
            Err(error) => {
                way.metrics.bad_batches.inc();
                tracing::warn!(%error, "step batch not readable");
            }
        }
    }
}

async fn accept(way: &WayBack, batch: StepBatch) {
    let arrival = way
        .order
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .note(&batch);
    if arrival == Arrival::Former {
        return;
    }
    way.lives.hear(&batch.worker, batch.epoch);
    ask_again(way, &batch.worker, batch.epoch, arrival).await;
    let from = Origin {
        worker: batch.worker,
        epoch: batch.epoch,
    };
    for chunk in batch.chunks {
        way.streams.deliver(&from, chunk);
    }
}

/// Asks the worker for what is missing. Streams wait for the missing chunks by position, so nothing else waits.
async fn ask_again(way: &WayBack, worker: &WorkerId, epoch: Epoch, arrival: Arrival) {
    let from_seq = match arrival {
        Arrival::InOrder | Arrival::Former => return,
        Arrival::Missing { from_seq } => from_seq,
    };
    tracing::warn!(%worker, from_seq, "step batches missing");
    way.streams.doubt(worker, &way.lives.look());
    let resend = Resend {
        frontend: way.frontend.clone(),
        epoch,
        from_seq,
    };
    let subject = Subject::new(worker_subject(worker, WorkerCall::Resend));
    if let Err(error) = way.bus.publish(&subject, encode_resend(&resend)).await {
        tracing::warn!(%worker, %error, "missing step batches not asked for");
    }
}

async fn observe(way: Arc<WayBack>, mut beacons: Box<dyn Subscription>, end: CancellationToken) {
    loop {
        let incoming = tokio::select! {
            biased;
            () = end.cancelled() => return,
            incoming = beacons.next() => incoming,
        };
        let Some(incoming) = incoming else { return };
        let beacon = match decode_beacon(&incoming.payload) {
            Ok(beacon) => beacon,
            Err(error) => {
                tracing::warn!(%error, "beacon not readable");
                continue;
            }
        };
        way.workers.observe(&beacon);
        way.lives.hear_beacon(&beacon);
        let sent = beacon
            .last_batch_seq
            .iter()
            .find(|(frontend, _)| *frontend == way.frontend);
        if let Some((_, sent)) = sent {
            let arrival = way
                .order
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .note_sent(&beacon, *sent);
            ask_again(&way, &beacon.worker, beacon.epoch, arrival).await;
        }
    }
}

async fn beat(way: Arc<WayBack>, end: CancellationToken) {
    let subject = Subject::new(heartbeat_subject(&way.frontend));
    let payload = encode_heartbeat(&Heartbeat {
        frontend: way.frontend.clone(),
    });
    let mut ticks = tokio::time::interval(HEARTBEAT);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = end.cancelled() => return,
            _ = ticks.tick() => {}
        }
        if let Err(error) = way.bus.publish(&subject, payload.clone()).await {
            tracing::warn!(%error, "heartbeat not sent");
        }
    }
}
