//! Counts in Redis, for all frontends together.
//!
//! Every admission is a write, so a server that answers but refuses writes counts as away. What happens then is a
//! choice: [`DuringOutage`].

mod address;
mod connection;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::redis::{FromRedisValue, Script, ScriptInvocation};
use async_trait::async_trait;
use tokio::time::{Instant, MissedTickBehavior};
use vlinders_service_kit::{Clock, Counter, Gauge, Metrics, Stage, Tasks};
use vlinders_types::{KeyId, RequestId};

pub use self::address::{RedisAddress, RedisFault};
use self::connection::Connection;
use super::account::{Standing, Verdict};
use super::terms::{Rate, Terms};
use super::{Admission, Cost, InProcessLimiter, Limiter, PastUse, Used, admission, past};
use crate::Caller;
use crate::gate::Gate;

/// The last number that scripts count exactly.
const END_OF_TIME_US: i64 = 1 << 53;

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
    /// What a frontend let in runs for so long at least in the eyes of the others; it renews that while it lives.
    pub lease: Duration,
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
            lease: Duration::from_secs(30),
        }
    }
}

struct Scripts {
    admit: Script,
    seed: Script,
    settle: Script,
    renew: Script,
    check: Script,
}

impl Scripts {
    fn new() -> Self {
        Self {
            admit: Script::new(include_str!("admit.lua")),
            seed: Script::new(include_str!("seed.lua")),
            settle: Script::new(include_str!("settle.lua")),
            renew: Script::new(include_str!("renew.lua")),
            check: Script::new("redis.call('SET', KEYS[1], ARGV[1], 'PX', 1) return 1"),
        }
    }
}

/// A request that was let in.
struct Running {
    key: KeyId,
    /// When, in microseconds since 1970 on the server's clock.
    since_us: i64,
}

/// Why a request is neither let in nor refused.
enum Unknown {
    /// The server is away or answers what nobody understands.
    Server,
    /// Nobody can tell what was used of its budgets.
    Past,
}

/// One account for each key, in Redis.
pub struct RedisLimiter {
    limits: RedisLimits,
    connection: Connection,
    scripts: Scripts,
    /// Requests let in by this process that still run.
    running: Mutex<HashMap<RequestId, Running>>,
    past: Option<Arc<PastUse>>,
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
            connection: Connection::new(address, limits.answer_limit)?,
            scripts: Scripts::new(),
            running: Mutex::default(),
            past: None,
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

    /// Asks for what was used of budgets that Redis does not know.
    #[must_use]
    pub fn with_past(mut self, past: Option<Arc<PastUse>>) -> Self {
        self.local = self.local.with_past(past.clone());
        self.past = past;
        self
    }

    /// Writes something that is gone at once. A server may answer a ping and refuse every write.
    ///
    /// # Errors
    /// When the server is away or refuses the write. Requests are then limited as in an outage.
    pub async fn check(&self) -> Result<(), RedisFault> {
        let mut script = self.scripts.check.key("vl:limit:check");
        self.run::<i64>(script.arg(1)).await.map(|_| ())
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
                limiter.renew().await;
            }
        });
    }

    /// Makes the leases of what runs here longer.
    async fn renew(&self) {
        let mut by_key: HashMap<KeyId, Vec<RequestId>> = HashMap::new();
        for (request, running) in self.running().iter() {
            by_key.entry(running.key.clone()).or_default().push(*request);
        }
        for (key, requests) in by_key {
            let mut script = self.scripts.renew.key(running_key(&key));
            script.arg(self.limits.lease.as_micros());
            for request in requests {
                script.arg(request.to_string());
            }
            // A server that is away loses nothing by it that it has not lost.
            let _renewed = self.run::<i64>(&script).await;
        }
    }

    async fn run<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, RedisFault> {
        let answer = self.connection.run(script).await;
        match &answer {
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
        answer
    }

    /// How the account stands after the request, and the server's time.
    async fn ask(
        &self,
        caller: &Caller,
        terms: &Terms,
        request: RequestId,
    ) -> Result<(Standing, i64), Unknown> {
        let ask = async || {
            let answer = self.ask_once(&caller.key, terms, request).await;
            answer.map_err(|_fault| Unknown::Server)
        };
        if let Some(standing) = ask().await? {
            return Ok(standing);
        }
        let past = self.past.as_ref().ok_or(Unknown::Server)?;
        let _turn = past.turn(&caller.key).await;
        // Somebody may have found out while this one waited.
        if let Some(standing) = ask().await? {
            return Ok(standing);
        }
        let used = past.of(caller, &terms.budgets).await.ok_or(Unknown::Past)?;
        self.seed(&caller.key, terms, &used)
            .await
            .map_err(|_fault| Unknown::Server)?;
        // Whoever loses its counts twice within a moment is as good as away.
        ask().await?.ok_or(Unknown::Server)
    }

    /// Tells Redis what was used of the key's budgets.
    async fn seed(&self, key: &KeyId, terms: &Terms, used: &[u64]) -> Result<(), RedisFault> {
        let mut script = self.scripts.seed.prepare_invoke();
        for (budget, used) in terms.budgets.iter().zip(used) {
            script.key(account_key(key, &budget.period));
            script.arg(*used).arg(budget.ends_s);
        }
        self.run::<i64>(&script).await.map(|_| ())
    }

    /// Nothing when a budget has to be recalled first.
    async fn ask_once(
        &self,
        key: &KeyId,
        terms: &Terms,
        request: RequestId,
    ) -> Result<Option<(Standing, i64)>, RedisFault> {
        let lease_us = if terms.are_settled() {
            self.limits.lease.as_micros()
        } else {
            0
        };
        let mut script = self.scripts.admit.key(account_key(key, "requests"));
        script.key(account_key(key, "tokens")).key(running_key(key));
        let rate = |rate: Option<Rate>| rate.map_or((0, 0), |rate| (rate.charge_us, rate.whole_us));
        let (requests, tokens) = (rate(terms.requests), rate(terms.tokens));
        script.arg(request.to_string()).arg(lease_us);
        script.arg(requests.0).arg(requests.1).arg(tokens.0).arg(tokens.1);
        script
            .arg(terms.streams.map_or(-1, i64::from))
            .arg(u8::from(self.past.is_some()));
        for budget in &terms.budgets {
            script.key(account_key(key, &budget.period));
            script.arg(budget.limit).arg(budget.ends_s).arg(budget.reserved);
        }
        let answer: Vec<i64> = self.run(&script).await?;
        standing(&answer)
    }

    fn terms(&self, caller: &Caller, cost: &Cost) -> Terms {
        let per_minute = Some(self.limits.per_minute);
        Terms::of(&caller.limits, per_minute, cost)
    }

    fn running(&self) -> MutexGuard<'_, HashMap<RequestId, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn admit_without(&self, caller: &Caller, cost: &Cost) -> Admission {
        self.without.inc();
        match self.limits.during_outage {
            DuringOutage::LimitLocally { .. } => self.local.admit(caller, cost).await,
            DuringOutage::Refuse => Admission::Unavailable {
                retry_after: self.limits.pause,
            },
        }
    }
}

/// What the script's answer says. Nothing: a budget has to be recalled first.
fn standing(answer: &[i64]) -> Result<Option<(Standing, i64)>, RedisFault> {
    if answer == [-1] {
        return Ok(None);
    }
    let [
        verdict,
        requests_missing_us,
        tokens_missing_us,
        _running,
        now_us,
        used @ ..,
    ] = answer
    else {
        return Err(RedisFault::Foreign);
    };
    let verdict = match (*verdict, usize::try_from(*verdict)) {
        (0, _) => Verdict::Admitted,
        (1, _) => Verdict::Requests,
        (2, _) => Verdict::Tokens,
        (3, _) => Verdict::Streams,
        (_, Ok(number)) if number - 4 < used.len() => Verdict::Budget(number - 4),
        _ => return Err(RedisFault::Foreign),
    };
    let standing = Standing {
        verdict,
        requests_missing_us: *requests_missing_us,
        tokens_missing_us: *tokens_missing_us,
        used: used.iter().map(|used| used.unsigned_abs()).collect(),
    };
    Ok(Some((standing, *now_us)))
}

/// What stands in braces decides where a cluster keeps it: everything of a key is together.
fn account_key(key: &KeyId, what: &str) -> String {
    format!("vl:limit:{{{key}}}:{what}")
}

fn running_key(key: &KeyId) -> String {
    account_key(key, "running")
}

#[async_trait]
impl Limiter for RedisLimiter {
    async fn admit(&self, caller: &Caller, cost: &Cost) -> Admission {
        let terms = self.terms(caller, cost);
        if let Some(verdict) = terms.shut() {
            return admission(&terms, &Standing::shut(verdict), 0);
        }
        if !self.gate.lets_ask(Instant::now()) {
            return self.admit_without(caller, cost).await;
        }
        match self.ask(caller, &terms, cost.request).await {
            Ok((standing, now_us)) => {
                if standing.verdict == Verdict::Admitted && terms.are_settled() {
                    let running = Running {
                        key: caller.key.clone(),
                        since_us: now_us,
                    };
                    self.running().insert(cost.request, running);
                }
                admission(&terms, &standing, now_us)
            }
            Err(Unknown::Server) => self.admit_without(caller, cost).await,
            Err(Unknown::Past) => Admission::Unavailable {
                retry_after: past::RETRY,
            },
        }
    }

    async fn settle(&self, caller: &Caller, cost: &Cost, used: Used) -> bool {
        let terms = self.terms(caller, cost);
        if !terms.are_settled() || self.local.settle_here(caller, cost, used) {
            return true;
        }
        // Who was not let in here, or is settled already, came at no time that any budget could be younger than.
        let running = self.running().remove(&cost.request);
        let since_us = running.map_or(END_OF_TIME_US, |running| running.since_us);
        if !self.gate.lets_ask(Instant::now()) {
            return false;
        }
        let key = &caller.key;
        let mut script = self.scripts.settle.key(account_key(key, "tokens"));
        script.key(running_key(key));
        script.arg(cost.request.to_string()).arg(terms.owed_us(used));
        script.arg(terms.tokens.map_or(0, |rate| rate.whole_us));
        script.arg(since_us);
        for budget in &terms.budgets {
            script.key(account_key(key, &budget.period));
            script.arg(budget.owed(used)).arg(used.of(budget.unit));
        }
        matches!(self.run::<i64>(&script).await, Ok(1))
    }
}
