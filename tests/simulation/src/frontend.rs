//! A frontend without HTTP: dispatches, assembles, notices silence, retries, cancels, shows that it is alive.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};
use vlinders_bus::{Bus, BusError, Incoming, StreamName, Subject, Subscription};
use vlinders_service_kit::Clock;
use vlinders_types::{Cancel, FinishReason, FrontendId, Heartbeat, WorkerId};
use vlinders_wire::subjects::{self, WorkerCall};

use crate::client::{Client, Pushed, State};
use crate::clock::SkewedClock;
use crate::requests::{Arrived, request};
use crate::scenario::Arrival;
use crate::trace::Trace;

const TICK: Duration = Duration::from_millis(50);
/// Ticks between heartbeats, and between cancellations that nobody has answered.
const HEARTBEAT_TICKS: u64 = 10;
/// Silence before a retry grows with the attempts, up to so many times the first.
const MOST_PATIENCE: u32 = 6;

/// One frontend process.
pub(crate) struct Frontend {
    pub(crate) id: FrontendId,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) workers: Vec<WorkerId>,
    pub(crate) clock: SkewedClock,
    /// By time.
    pub(crate) arrivals: VecDeque<Arrival>,
    /// How long an answer may be silent.
    pub(crate) patience: Duration,
    /// Whether a request nobody ever answered is left to the queue, which must find another worker by itself.
    pub(crate) trusts_queue: bool,
    pub(crate) began: Instant,
    /// By then every request has ended.
    pub(crate) give_up_at: Instant,
    pub(crate) trace: Trace,
}

/// What happened at one frontend.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) clients: BTreeMap<u64, Client>,
    pub(crate) retries: u64,
    /// Retries of what a leaving worker handed back.
    pub(crate) handed_back: u64,
}

impl Frontend {
    /// Ends when every request has; says what no worker may do.
    pub(crate) async fn run(mut self) -> Result<Served, String> {
        let subject = Subject::new(subjects::tokens_subject(&self.id));
        let tokens = self.bus.subscribe(&subject).await;
        let mut tokens: Box<dyn Subscription> = tokens.map_err(|error| error.to_string())?;
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut served = Served {
            clients: BTreeMap::new(),
            retries: 0,
            handed_back: 0,
        };
        let mut turn = 0;
        while !self.arrivals.is_empty() || served.clients.values().any(|client| !client.is_over()) {
            tokio::select! {
                biased;
                incoming = tokens.next() => self.receive(incoming, &mut served)?,
                _ = ticks.tick() => {
                    self.check_time(&served)?;
                    self.tick(turn, &mut served).await;
                    turn += 1;
                }
            }
        }
        Ok(served)
    }

    fn check_time(&self, served: &Served) -> Result<(), String> {
        if Instant::now() < self.give_up_at {
            return Ok(());
        }
        let open = served.clients.values().filter(|client| !client.is_over());
        let open: Vec<_> = open
            .map(|client| (client.request.handle, client.request.attempt))
            .collect();
        Err(format!("requests never end (handle, attempt): {open:?}"))
    }

    fn receive(&self, incoming: Option<Incoming>, served: &mut Served) -> Result<(), String> {
        let incoming = incoming.ok_or("the bus closed")?;
        let batch = vlinders_wire::decode_step_batch(&incoming.payload).map_err(|error| error.to_string())?;
        for chunk in batch.chunks {
            let (handle, what) = (chunk.handle, describe(&chunk));
            let client = served.clients.get_mut(&handle);
            let client = client.ok_or_else(|| format!("a chunk of {handle}, which does not exist"))?;
            let pushed = client.push(chunk);
            self.trace.note(format_args!(
                "{} {handle} from {}: {what}: {pushed:?}",
                self.id, batch.worker
            ));
            let pushed =
                pushed.map_err(|wrong| format!("request {handle} from {}: {wrong}", batch.worker))?;
            if client.is_handed_back && !client.is_over() {
                client.retry();
                served.handed_back += 1;
            }
            let cancelled_for_us = |state: &State| matches!(state, State::Ended(finish) if finish.reason == FinishReason::Cancelled);
            if pushed == Pushed::News && cancelled_for_us(&client.state) && !client.is_cancelled() {
                // A worker believed this frontend to be gone. Its client is still there.
                client.retry();
                served.retries += 1;
            }
        }
        Ok(())
    }

    async fn tick(&mut self, turn: u64, served: &mut Served) {
        let is_heartbeat = turn.is_multiple_of(HEARTBEAT_TICKS);
        if is_heartbeat {
            let heartbeat = vlinders_wire::encode_heartbeat(&Heartbeat {
                frontend: self.id.clone(),
            });
            let subject = Subject::new(subjects::heartbeat_subject(&self.id));
            let _lost = self.bus.publish(&subject, heartbeat).await;
        }
        while let Some(arrival) = self.arrivals.pop_front_if(|next| next.at <= self.began.elapsed()) {
            let made = request(&Arrived {
                number: arrival.number,
                serial: arrival.serial,
                frontend: &self.id,
                now_ms: self.clock.now_ms(),
                patience_ms: arrival.deadline_ms,
            });
            let cancel_at = arrival.cancel_after.map(|after| Instant::now() + after);
            served
                .clients
                .insert(arrival.serial, Client::new(made, arrival.number, cancel_at));
        }
        for client in served.clients.values_mut().filter(|client| !client.is_over()) {
            if self.is_silent(client) {
                client.retry();
                served.retries += 1;
            }
            if client.state == State::Sending {
                self.send(client).await;
            }
            if is_heartbeat && client.is_cancelled() {
                self.cancel(client).await;
            }
        }
    }

    fn is_silent(&self, client: &Client) -> bool {
        let patience = self.patience * (client.request.attempt + 1).min(MOST_PATIENCE);
        let may_retry = client.was_heard || client.request.attempt > 0 || !self.trusts_queue;
        client.state == State::Open && may_retry && client.heard_at.elapsed() >= patience
    }

    async fn send(&self, client: &mut Client) {
        let request = &client.request;
        let subject = Subject::new(subjects::request_subject(&request.model, subjects::DEFAULT_QUEUE));
        let id = subjects::request_message_id(request);
        let bytes = vlinders_wire::encode_request(request);
        let sent = self.bus.enqueue(StreamName::Requests, &subject, &id, bytes).await;
        self.trace.note(format_args!(
            "{} sends {} attempt {} after {} tokens: {sent:?}",
            self.id,
            request.handle,
            request.attempt,
            request.emitted_ids.len()
        ));
        match sent {
            Ok(_) => {
                client.heard_at = Instant::now();
                client.state = State::Open;
            }
            Err(BusError::Full { .. }) if request.attempt == 0 => client.state = State::Refused,
            // Sent again with the next tick, under the same id.
            Err(_) => {}
        }
    }

    async fn cancel(&self, client: &Client) {
        let cancel = vlinders_wire::encode_cancel(&Cancel {
            request_id: client.request.request_id,
            attempt: client.request.attempt,
            superseded: false,
        });
        for worker in &self.workers {
            let subject = Subject::new(subjects::worker_subject(worker, WorkerCall::Cancel));
            let _lost = self.bus.publish(&subject, cancel.clone()).await;
        }
    }
}

fn describe(chunk: &vlinders_types::Chunk) -> String {
    let finish = chunk.finish.as_ref().map(|finish| {
        let fault = finish.fault.as_ref().map(|fault| fault.kind);
        (finish.reason, fault)
    });
    let end = chunk.position as usize + chunk.ids.len();
    let handed_back = if chunk.handed_back { " handed back" } else { "" };
    format!(
        "attempt {} tokens {}..{end} {finish:?}{handed_back}",
        chunk.attempt, chunk.position
    )
}
