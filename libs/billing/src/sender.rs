//! Sends what was used to a meter: sums are closed, priced once, and sent until they are taken.
//!
//! Any number of processes may do this on one database: an event that one has claimed is nobody else's for a while. Each
//! has an id under which the meter counts it once, so one that was sent and not answered is simply sent again, as long
//! as the meter remembers ids.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use vlinders_ledger::{LedgerError, MeterEvent, MeterStore, PriceTable, TenantStore};
use vlinders_service_kit::{Clock, Counter, Gauge, Metrics, Stage, Tasks};

use crate::ApiAddress;
use crate::call::{Caller, Outcome};

const PATH: &str = "/v1/billing/meter_events";
/// Events claimed at one time, and for how long: longer than all of them can take.
const CLAIMED: u32 = 16;
/// A meter remembers ids for a day at least; after that an event sent twice could count twice.
const REMEMBERED: Duration = Duration::from_secs(23 * 3600);
/// Between two tries of one event, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(1800);
/// A notice that is older is not sent again.
const NOTICES: Duration = Duration::from_secs(30 * 24 * 3600);

/// What the meter counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MeterValue {
    /// Tokens of prompts and answers.
    Tokens,
    /// What they cost, in billionths of the currency.
    Nanos,
}

/// How usage is sent.
#[derive(Clone)]
pub struct MeterConfig {
    /// Where.
    pub address: ApiAddress,
    /// With which secret.
    pub key: String,
    /// The meter's event name.
    pub meter: String,
    /// What it counts.
    pub value: MeterValue,
    /// How long usage is added up before it is sent.
    pub every: Duration,
    /// How often it is looked whether there is something to send.
    pub tick: Duration,
    /// How long one call may take.
    pub answer_limit: Duration,
    /// The first pause after a failure; each further one is twice as long.
    pub first_pause: Duration,
    /// How often usage without a price looks for one.
    pub price_pause: Duration,
}

impl MeterConfig {
    /// Sends by the hour.
    #[must_use]
    pub fn new(key: String, meter: String, value: MeterValue) -> Self {
        Self {
            address: ApiAddress::default(),
            key,
            meter,
            value,
            every: Duration::from_secs(3600),
            tick: Duration::from_secs(5),
            answer_limit: Duration::from_secs(20),
            first_pause: FIRST_PAUSE,
            price_pause: Duration::from_secs(600),
        }
    }
}

/// A ledger that keeps both.
pub trait MeterLedger: MeterStore + TenantStore {}

impl<L: MeterStore + TenantStore> MeterLedger for L {}

/// What the sender works with.
pub struct MeterParts {
    /// Where events wait.
    pub ledger: Arc<dyn MeterLedger>,
    /// What tokens cost, where the meter counts money.
    pub prices: Option<Arc<PriceTable>>,
    /// Runs and stops it.
    pub tasks: Tasks,
    /// Counts events.
    pub metrics: Metrics,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
}

/// Starts sending; it stops with its tasks, between two events.
pub fn start(config: MeterConfig, parts: MeterParts) {
    let stopping = parts.tasks.stopping(Stage::Flush);
    let events = |result| {
        let help = "Metered usage sent, by result";
        parts.metrics.counter("meter_events", help, &[("result", result)])
    };
    let waiting = |state| {
        let help = "Metered usage that is not taken yet, by state";
        parts.metrics.gauge("meter_backlog", help, &[("state", state)])
    };
    let sender = Sender {
        caller: Caller::new(config.address.clone(), config.key.clone(), config.answer_limit),
        config,
        ledger: parts.ledger,
        prices: parts.prices,
        clock: parts.clock,
        sent: events("sent"),
        failed: events("failed"),
        parked: events("parked"),
        waiting: waiting("waiting"),
        put_aside: waiting("parked"),
    };
    parts
        .tasks
        .spawn(Stage::Flush, "meter-events", sender.run(stopping));
}

struct Sender {
    caller: Caller,
    config: MeterConfig,
    ledger: Arc<dyn MeterLedger>,
    prices: Option<Arc<PriceTable>>,
    clock: Arc<dyn Clock>,
    sent: Counter,
    failed: Counter,
    parked: Counter,
    waiting: Gauge,
    put_aside: Gauge,
}

impl Sender {
    async fn run(self, stopping: CancellationToken) {
        let mut ticks = interval(self.config.tick);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stopping.cancelled() => return,
                _ = ticks.tick() => {}
            }
            if let Err(error) = self.turn(&stopping).await {
                tracing::warn!(%error, "metered usage waits for the ledger");
            }
        }
    }

    /// Closes what is old enough and sends what is due.
    async fn turn(&self, stopping: &CancellationToken) -> Result<(), LedgerError> {
        let now_ms = self.clock.now_ms();
        let before_ms = now_ms.saturating_sub(milliseconds(self.config.every));
        let mut name = [0; 16];
        if getrandom::fill(&mut name).is_ok() {
            let name: String = name.iter().map(|byte| format!("{byte:02x}")).collect();
            self.ledger.close_meters(&name, before_ms).await?;
        }
        let lease_ms = 2 * u64::from(CLAIMED) * milliseconds(self.config.answer_limit);
        loop {
            let now_ms = self.clock.now_ms();
            let events = self
                .ledger
                .claim_meters(now_ms, now_ms + lease_ms, CLAIMED)
                .await?;
            let is_last = events.len() < CLAIMED as usize;
            for event in &events {
                // What is claimed and not sent is due again when the lease is over.
                if stopping.is_cancelled() {
                    return Ok(());
                }
                self.send(event).await?;
            }
            if is_last {
                break;
            }
        }
        self.ledger
            .forget_notices(now_ms.saturating_sub(milliseconds(NOTICES)))
            .await?;
        let backlog = self.ledger.meter_backlog().await?;
        self.waiting.set(count(backlog.waiting));
        self.put_aside.set(count(backlog.parked));
        Ok(())
    }

    async fn send(&self, event: &MeterEvent) -> Result<(), LedgerError> {
        let now_ms = self.clock.now_ms();
        let Some(customer) = &event.customer else {
            return self.park(event, "its tenant has no customer any more").await;
        };
        // Without a value it was never sent.
        let is_old = now_ms.saturating_sub(event.first_try_ms) > milliseconds(REMEMBERED);
        if is_old && event.value.is_some() {
            return self
                .park(event, "nobody knows whether it was taken a day ago")
                .await;
        }
        let value = match event.value {
            Some(value) => value,
            None => match self.value(event) {
                Some(value) => {
                    // Kept before it is sent: other prices tomorrow change nothing of it.
                    self.ledger.value_meter(event, value).await?;
                    value
                }
                None => {
                    tracing::warn!(event = event.id(), model = %event.total.model, "metered usage waits for a price");
                    let next_ms = now_ms + milliseconds(self.config.price_pause);
                    return self.ledger.put_off_meter(event, next_ms).await;
                }
            },
        };
        let (id, time, value) = (event.id(), (event.hour_ms / 1000).to_string(), value.to_string());
        let fields = [
            ("event_name", self.config.meter.as_str()),
            ("payload[stripe_customer_id]", customer),
            ("payload[value]", &value),
            ("identifier", &id),
            ("timestamp", &time),
        ];
        match self.caller.post(PATH, &fields, &id).await {
            Outcome::Done => {
                self.sent.inc();
                self.ledger.meter_sent(event, self.clock.now_ms()).await
            }
            Outcome::Later { why, after } => {
                self.failed.inc();
                let pause = after.unwrap_or_else(|| self.pause(event.tries));
                tracing::warn!(
                    event = id,
                    why,
                    pause_s = pause.as_secs(),
                    "metered usage is not taken"
                );
                let next_ms = self.clock.now_ms() + milliseconds(pause.min(LONGEST_PAUSE));
                self.ledger.put_off_meter(event, next_ms).await
            }
            Outcome::Never { why } => self.park(event, &why).await,
        }
    }

    /// Twice as long with each try.
    fn pause(&self, tries: u64) -> Duration {
        let doublings = u32::try_from(tries.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
        self.config.first_pause.saturating_mul(1 << doublings)
    }

    fn value(&self, event: &MeterEvent) -> Option<u64> {
        match self.config.value {
            MeterValue::Tokens => Some(event.total.prompt_tokens + event.total.completion_tokens),
            MeterValue::Nanos => {
                let amount = self.prices.as_ref()?.amount(&event.total)?;
                Some(amount.nanos())
            }
        }
    }

    async fn park(&self, event: &MeterEvent, reason: &str) -> Result<(), LedgerError> {
        tracing::error!(event = event.id(), tenant = %event.total.tenant, reason, "metered usage is put aside for people");
        self.parked.inc();
        self.ledger.park_meter(event, reason).await
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX / 4)
}

/// Gauges are floats: exact up to more events than there will be.
fn count(number: u64) -> f64 {
    u32::try_from(number).map_or(f64::MAX, f64::from)
}
