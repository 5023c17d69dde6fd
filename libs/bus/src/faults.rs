//! A bus that misbehaves as networks and brokers do: it loses, repeats, delays and reorders messages, fails after the
//! effect, and forgets acknowledgements. What happens to a message depends only on the seed, the subject and how many
//! came on that subject before, so a failing seed replays.

mod delivery;
mod draw;
mod subscription;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use self::delivery::FaultyConsumer;
use self::draw::{Act, Draw, Draws};
use self::subscription::FaultySubscription;
use crate::{
    Bus, BusError, Consumer, ConsumerSpec, Enqueued, StreamName, StreamRules, Subject, Subscription,
};

/// How often what goes wrong: probabilities from 0 to 1. The default is a bus without faults.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Faults {
    /// A message does not reach a subscriber, or a delivery its consumer. Each subscriber has its own luck.
    pub drop: f64,
    /// A message reaches a subscriber twice.
    pub duplicate: f64,
    /// A message, and those behind it, reach a subscriber late.
    pub delay: f64,
    /// A message reaches a subscriber late and those behind it overtake.
    pub reorder: f64,
    /// Delays are up to this long.
    pub max_delay: Duration,
    /// A call fails and had no effect: nobody responds to a request, the bus is out of reach for anything else.
    pub refuse: f64,
    /// An enqueue or a request takes effect, and its confirmation or answer is lost.
    pub lose_confirmation: f64,
    /// What a consumer says about a delivery is lost; half of the time it notices.
    pub lose_settlement: f64,
}

impl Faults {
    /// Nothing gets through.
    pub const CUT: Self = Self {
        drop: 1.0,
        duplicate: 0.0,
        delay: 0.0,
        reorder: 0.0,
        max_delay: Duration::ZERO,
        refuse: 1.0,
        lose_confirmation: 0.0,
        lose_settlement: 1.0,
    };
}

/// Faults for subjects: the first pattern that covers a subject decides; without one nothing goes wrong.
pub type FaultPlan = Vec<(Subject, Faults)>;

/// What all parts of one faulty bus share.
struct Fate {
    draws: Draws,
    plan: Mutex<Arc<FaultPlan>>,
}

impl Fate {
    fn faults(&self, subject: &Subject) -> Faults {
        let plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let covering = plan.iter().find(|(pattern, _)| pattern.matches(subject));
        covering.map_or_else(Faults::default, |(_, faults)| *faults)
    }

    fn draw(&self, act: Act, subject: &Subject) -> (Faults, Draw) {
        (self.faults(subject), self.draws.next(act, subject.as_str()))
    }
}

/// Any bus, with faults. Streams and consumers can always be made.
pub struct FaultyBus {
    inner: Arc<dyn Bus>,
    fate: Arc<Fate>,
    /// Tells the subscribers apart, in the order they came.
    subscriptions: Mutex<u64>,
}

impl FaultyBus {
    /// Wraps a bus.
    #[must_use]
    pub fn new(inner: Arc<dyn Bus>, seed: u64, plan: FaultPlan) -> Self {
        let fate = Fate {
            draws: Draws::new(seed),
            plan: Mutex::new(Arc::new(plan)),
        };
        Self {
            inner,
            fate: Arc::new(fate),
            subscriptions: Mutex::new(0),
        }
    }

    /// Replaces the plan, from now on. Messages that are late already stay so.
    pub fn set_plan(&self, plan: FaultPlan) {
        *self.fate.plan.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(plan);
    }

    /// Ends all faults.
    pub fn heal(&self) {
        self.set_plan(Vec::new());
    }
}

fn refused() -> BusError {
    BusError::Closed("injected fault".to_owned())
}

#[async_trait]
impl Bus for FaultyBus {
    async fn publish(&self, subject: &Subject, payload: Bytes) -> Result<(), BusError> {
        let (faults, mut draw) = self.fate.draw(Act::Publish, subject);
        if draw.happens(faults.refuse) {
            return Err(refused());
        }
        self.inner.publish(subject, payload).await
    }

    async fn subscribe(&self, pattern: &Subject) -> Result<Box<dyn Subscription>, BusError> {
        let inner = self.inner.subscribe(pattern).await?;
        let mut subscriptions = self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner);
        *subscriptions += 1;
        Ok(Box::new(FaultySubscription::new(
            inner,
            self.fate.clone(),
            *subscriptions,
        )))
    }

    async fn request(&self, subject: &Subject, payload: Bytes, timeout: Duration) -> Result<Bytes, BusError> {
        let (faults, mut draw) = self.fate.draw(Act::Request, subject);
        if draw.happens(faults.refuse) {
            return Err(BusError::NoResponders {
                subject: subject.to_string(),
            });
        }
        let began = tokio::time::Instant::now();
        let answer = self.inner.request(subject, payload, timeout).await?;
        if draw.happens(faults.lose_confirmation) {
            tokio::time::sleep(timeout.saturating_sub(began.elapsed())).await;
            let waited_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
            return Err(BusError::Timeout {
                subject: subject.to_string(),
                waited_ms,
            });
        }
        Ok(answer)
    }

    async fn ensure_stream(&self, stream: StreamName, rules: StreamRules) -> Result<(), BusError> {
        self.inner.ensure_stream(stream, rules).await
    }

    async fn enqueue(
        &self,
        stream: StreamName,
        subject: &Subject,
        message_id: &str,
        payload: Bytes,
    ) -> Result<Enqueued, BusError> {
        let (faults, mut draw) = self.fate.draw(Act::Enqueue, subject);
        if draw.happens(faults.refuse) {
            return Err(refused());
        }
        let enqueued = self.inner.enqueue(stream, subject, message_id, payload).await?;
        if draw.happens(faults.lose_confirmation) {
            return Err(BusError::Timeout {
                subject: subject.to_string(),
                waited_ms: 0,
            });
        }
        Ok(enqueued)
    }

    async fn consumer(&self, spec: ConsumerSpec) -> Result<Box<dyn Consumer>, BusError> {
        let filter = spec.filter.clone();
        let inner = self.inner.consumer(spec).await?;
        Ok(Box::new(FaultyConsumer {
            inner,
            filter,
            fate: self.fate.clone(),
        }))
    }

    async fn pending(&self, stream: StreamName) -> Result<u64, BusError> {
        self.inner.pending(stream).await
    }
}
