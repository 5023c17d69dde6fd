//! Counts in Redis, for all frontends together.
//!
//! Every admission is a write, so a server that answers but refuses writes counts as away. What happens then is a
//! choice: [`DuringOutage`].

mod address;
mod buckets;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, MissedTickBehavior};
use vlinders_service_kit::{Clock, Counter, Gauge, Metrics, Stage, Tasks};

pub use self::address::{RedisAddress, RedisFault};
use self::buckets::{Buckets, Charge, Charged};
use super::{Admission, InProcessLimiter, Limiter, RateLimit};
use crate::Caller;
use crate::gate::Gate;

const MINUTE_US: i64 = 60_000_000;

/// What to do with requests while Redis is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DuringOutage {
    /// Count in this process alone: a key may send so many in a minute to each frontend.
    LimitLocally {
        /// Requests of one key at one frontend.
        per_minute: u32,
    },
    /// Let nothing in.
    Refuse,
}

/// How much is let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RedisLimits {
    /// Requests of one key in a minute, at all frontends together. 0 lets none through.
    pub per_minute: u32,
    /// Without Redis.
    pub during_outage: DuringOutage,
    /// How long one request may wait for Redis.
    pub answer_limit: Duration,
    /// How long a server that is away is left alone.
    pub pause: Duration,
    /// How often [`RedisLimiter::watch`] looks at it.
    pub check_every: Duration,
}

impl RedisLimits {
    /// Without Redis, each frontend keeps to the same number by itself.
    #[must_use]
    pub fn per_minute(requests: u32) -> Self {
        Self {
            per_minute: requests,
            during_outage: DuringOutage::LimitLocally { per_minute: requests },
            answer_limit: Duration::from_millis(250),
            pause: Duration::from_secs(1),
            check_every: Duration::from_secs(5),
        }
    }

    /// One request is the time in which the bucket fills by one, so that there are no fractions.
    fn request_us(&self) -> i64 {
        let per_minute = i64::from(self.per_minute.max(1));
        (MINUTE_US + per_minute - 1) / per_minute
    }

    fn whole_us(&self) -> i64 {
        self.request_us() * i64::from(self.per_minute)
    }
}

/// One token bucket for each key, in Redis. A bucket holds one minute's requests and fills evenly.
pub struct RedisLimiter {
    limits: RedisLimits,
    buckets: Buckets,
    gate: Gate,
    local: InProcessLimiter,
    without: Counter,
    is_up: Gauge,
}

impl RedisLimiter {
    /// Connects with the first request, so that a frontend starts without Redis.
    ///
    /// # Errors
    /// When the address cannot be used.
    pub fn new(
        address: &RedisAddress,
        limits: RedisLimits,
        clock: Arc<dyn Clock>,
        metrics: &Metrics,
    ) -> Result<Self, RedisFault> {
        let (policy, local) = match limits.during_outage {
            DuringOutage::LimitLocally { per_minute } => {
                ("limit_locally", InProcessLimiter::per_minute(per_minute, clock))
            }
            DuringOutage::Refuse => ("refuse", InProcessLimiter::per_minute(0, clock)),
        };
        Ok(Self {
            limits,
            buckets: Buckets::new(address, limits.answer_limit)?,
            gate: Gate::new(limits.pause),
            local,
            without: metrics.counter(
                "limiter_outage_requests",
                "Requests that were limited without the shared limiter, by policy",
                &[("policy", policy)],
            ),
            is_up: metrics.gauge("limiter_up", "Whether the shared limiter takes writes", &[]),
        })
    }

    /// Writes something that is gone at once. A server may answer a ping and refuse every write.
    ///
    /// # Errors
    /// When the server is away or refuses the write. Requests are then limited as in an outage.
    pub async fn check(&self) -> Result<(), RedisFault> {
        let charge = Charge {
            cost_us: 1,
            whole_us: 1,
            must_fit: false,
        };
        self.charge("vl:limit:check", charge).await.map(|_| ())
    }

    /// Checks now and then until the tasks stop: `vlinders_limiter_up` is true also when nobody asks for admission, and no
    /// request has to find out that the server is away, or back.
    pub fn watch(self: &Arc<Self>, tasks: &Tasks) {
        let (limiter, stopping) = (Arc::clone(self), tasks.stopping(Stage::Intake));
        tasks.spawn(Stage::Intake, "limiter-watch", async move {
            let mut ticks = tokio::time::interval(limiter.limits.check_every);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    biased;
                    () = stopping.cancelled() => return,
                    _ = ticks.tick() => {}
                }
                // The log and the metric have it already.
                let _checked = limiter.check().await;
            }
        });
    }

    async fn charge(&self, bucket: &str, charge: Charge) -> Result<Charged, RedisFault> {
        let charged = self.buckets.charge(bucket, charge).await;
        match &charged {
            Ok(_) => {
                self.is_up.set(1.0);
                if self.gate.answered() {
                    tracing::info!("limits are shared again");
                }
            }
            Err(fault) => {
                self.is_up.set(0.0);
                if self.gate.failed(Instant::now()) {
                    tracing::warn!(%fault, "limits are not shared");
                }
            }
        }
        charged
    }

    fn admission(&self, charged: Charged) -> Admission {
        let (request_us, whole_us) = (self.limits.request_us(), self.limits.whole_us());
        let used = (charged.missing_us + request_us - 1) / request_us;
        let per_minute = self.limits.per_minute;
        let limit = RateLimit {
            limit_requests: per_minute,
            remaining_requests: per_minute.saturating_sub(u32::try_from(used).unwrap_or(per_minute)),
            reset: microseconds(charged.missing_us),
        };
        if charged.is_charged {
            return Admission::Admitted(Some(limit));
        }
        Admission::Refused {
            limit,
            retry_after: microseconds(charged.missing_us + request_us - whole_us),
        }
    }

    async fn admit_without(&self, caller: &Caller) -> Admission {
        self.without.inc();
        match self.limits.during_outage {
            DuringOutage::LimitLocally { .. } => self.local.admit(caller).await,
            DuringOutage::Refuse => Admission::Unavailable {
                retry_after: self.limits.pause,
            },
        }
    }
}

fn microseconds(count: i64) -> Duration {
    Duration::from_micros(u64::try_from(count).unwrap_or(0))
}

#[async_trait]
impl Limiter for RedisLimiter {
    async fn admit(&self, caller: &Caller) -> Admission {
        if !self.gate.lets_ask(Instant::now()) {
            return self.admit_without(caller).await;
        }
        let charge = Charge {
            cost_us: self.limits.request_us(),
            whole_us: self.limits.whole_us(),
            must_fit: true,
        };
        // What stands in braces decides where a cluster keeps it: all buckets of a key are together.
        let bucket = format!("vl:limit:{{{}}}:requests", caller.key);
        match self.charge(&bucket, charge).await {
            Ok(charged) => self.admission(charged),
            Err(_) => self.admit_without(caller).await,
        }
    }
}
