//! Two frontends and one limit, counted in Redis: exactly as many requests come in as its rule says, whichever frontend
//! they come to, and what happens while Redis is away.
//!
//! The rule: a bucket holds one minute's worth, begins full, and gets a unit back every 60 s / limit. Let the first request
//! come in at time 0. Then at the moment at which a request is refused, exactly `limit + floor(time / unit)` came in before it:
//! one less would have left room for it, and there was never room for one more. The clients know that moment, and the first
//! one's, up to the time that an answer takes, so the count must lie between the two counts that these times allow.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use vlinders_system_tests::{Client, Cluster, Plan, Role, until};

use crate::{Checked, ONE_THREAD, counted, in_turn};

/// Requests in a minute.
const LIMIT: u32 = 120;
/// In which the bucket gets one back.
const UNIT: Duration = Duration::from_millis(500);
const CLIENTS: usize = 50;
/// Between two requests of one client: fifty of them ask many times as often as the limit allows.
const PAUSE: Duration = Duration::from_millis(250);
/// As long as the limit is told in.
const MINUTE: Duration = Duration::from_secs(60);
/// Long enough to empty a bucket and to see some of it come back.
const A_WHILE: Duration = Duration::from_secs(10);

const AWAY: &str = "vlinders_limiter_outage_requests_total";
const LOCALLY: &str = "policy=\"limit_locally\"";
const REFUSED: &str = "policy=\"refuse\"";

/// Two frontends that limit everybody.
fn plan(more: &[&str]) -> Plan {
    let limit = LIMIT.to_string();
    let mut plan = Plan::new()
        .with_worker_arguments(&ONE_THREAD)
        .with_arguments(Role::Frontend, &["--rate-limit-rpm", &limit])
        .with_arguments(Role::Frontend, more);
    for role in [Role::Prefill, Role::Decode] {
        plan = plan.with_count(role, 1);
    }
    plan
}

fn body() -> Value {
    json!({"model": "vlinders-demo", "prompt": "Hello", "max_tokens": 1})
}

/// Before it was sent, and after its answer came.
type Times = (Instant, Instant);

/// What a crowd was answered.
#[derive(Default)]
struct Crowd {
    admitted: Vec<Times>,
    /// With the error's code.
    refused: Vec<(Times, u16, String)>,
}

impl Crowd {
    async fn ask(&mut self, client: &Client) -> Checked {
        let sent = Instant::now();
        let answer = client.post("/v1/completions", &body()).await?;
        let times = (sent, Instant::now());
        match answer.status {
            200 => self.admitted.push(times),
            status => {
                let code = answer.body["error"]["code"].as_str().unwrap_or_default();
                self.refused.push((times, status, code.to_owned()));
            }
        }
        Ok(())
    }

    /// Many clients ask again and again, for so long. Then one alone asks until it is refused.
    async fn for_a_while(frontends: &[Client], length: Duration) -> anyhow::Result<Self> {
        let is_over = Arc::new(AtomicBool::new(false));
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let client = in_turn(frontends, number).clone();
            let is_over = Arc::clone(&is_over);
            clients.spawn(async move {
                let mut own = Self::default();
                while !is_over.load(Ordering::Relaxed) {
                    own.ask(&client).await?;
                    tokio::time::sleep(PAUSE).await;
                }
                anyhow::Ok(own)
            });
        }
        tokio::time::sleep(length).await;
        is_over.store(true, Ordering::Relaxed);
        let mut all = Self::default();
        while let Some(own) = clients.join_next().await {
            let own = own??;
            all.admitted.extend(own.admitted);
            all.refused.extend(own.refused);
        }
        let refusals = all.refused.len();
        for number in 0.. {
            all.ask(in_turn(frontends, number)).await?;
            if all.refused.len() > refusals {
                break;
            }
        }
        Ok(all)
    }

    /// As many came in as one bucket allows, counted to the last refusal.
    fn check_exact(&self, what: &str) -> Checked {
        let first_sent = self.admitted.iter().map(|times| times.0).min();
        // Whichever was first was charged before its answer came.
        let first_answered = self.admitted.iter().map(|times| times.1).min();
        let (first_sent, first_answered) = (
            first_sent.context("nobody came in")?,
            first_answered.context("nobody came in")?,
        );
        let ((last_sent, last_answered), ..) = self.refused.last().context("nobody was refused")?;
        let units = |time: Duration| time.as_micros() / UNIT.as_micros();
        let limit = u128::from(LIMIT);
        let least = limit + units(last_sent.saturating_duration_since(first_answered));
        let most = limit + units(last_answered.duration_since(first_sent));
        let admitted = self.admitted.len() as u128;
        println!(
            "{what}: {admitted} came in, {} were refused, between {least} and {most} are right",
            self.refused.len()
        );
        ensure!(
            (least..=most).contains(&admitted),
            "{what}: {admitted} came in where {least} to {most} are right"
        );
        self.all_refused_with(429, "rate_limit_exceeded")
    }

    fn all_refused_with(&self, status: u16, code: &str) -> Checked {
        let other = self
            .refused
            .iter()
            .find(|it| (it.1, it.2.as_str()) != (status, code));
        ensure!(other.is_none(), "{other:?}");
        Ok(())
    }
}

/// Waits until every frontend knows that Redis is away, or back.
async fn until_redis_is(cluster: &Cluster, is_up: f64) -> Checked {
    until(async || {
        for (name, samples) in cluster.metrics_of(Role::Frontend).await? {
            let found = samples.sum("vlinders_limiter_up")?;
            ensure!(found == is_up, "{name} says {found}");
        }
        Ok(())
    })
    .await
}

/// A minute at both frontends. Where the machine is so busy that Redis is late with an answer, the frontends count for
/// themselves for a moment: then the minute tells nothing, and begins anew with an empty Redis.
async fn minute_at(cluster: &mut Cluster, frontends: &[Client]) -> Checked {
    for _ in 0..3 {
        let before = counted(cluster, Role::Frontend, AWAY, LOCALLY).await?;
        let minute = Crowd::for_a_while(frontends, MINUTE).await?;
        let late = counted(cluster, Role::Frontend, AWAY, LOCALLY).await? - before;
        if late == 0.0 {
            return minute.check_exact("a minute at both frontends");
        }
        println!("Redis was late {late} times");
        cluster.redis.crash()?;
        until_redis_is(cluster, 0.0).await?;
        cluster.redis.back().await?;
        until_redis_is(cluster, 1.0).await?;
    }
    anyhow::bail!("Redis is late all the time")
}

#[tokio::test]
async fn two_frontends_let_in_what_one_limit_allows_also_after_redis_was_lost() -> Checked {
    let mut cluster = Cluster::start(plan(&[])).await?;
    let frontends = cluster.frontends()?;
    ensure!(frontends.len() == 2, "two frontends share the limit");
    minute_at(&mut cluster, &frontends).await?;
    let before = counted(&cluster, Role::Frontend, AWAY, LOCALLY).await?;

    cluster.redis.crash()?;
    until_redis_is(&cluster, 0.0).await?;
    // Each counts for itself, from a full bucket.
    let mut answered = 0;
    for (number, frontend) in frontends.iter().enumerate() {
        let alone = Crowd::for_a_while(std::slice::from_ref(frontend), A_WHILE).await?;
        alone.check_exact(&format!("frontend {number} without Redis"))?;
        answered += alone.admitted.len() + alone.refused.len();
    }
    let without = counted(&cluster, Role::Frontend, AWAY, LOCALLY).await?;
    let noted = without - before;
    ensure!(noted == answered as f64, "{noted} of {answered} were counted");

    cluster.redis.back().await?;
    until_redis_is(&cluster, 1.0).await?;
    // It has forgotten everything: the shared bucket is full.
    let after = Crowd::for_a_while(&frontends, A_WHILE).await?;
    after.check_exact("both frontends with a new Redis")?;
    let later = counted(&cluster, Role::Frontend, AWAY, LOCALLY).await?;
    ensure!(
        later == without,
        "{later} were counted without Redis, {without} before"
    );
    cluster.settled().await?;
    cluster.stop().await
}

#[tokio::test]
async fn frontends_that_may_not_lose_count_refuse_until_redis_is_back() -> Checked {
    let mut cluster = Cluster::start(plan(&["--rate-limit-outage", "refuse"])).await?;
    let frontends = cluster.frontends()?;
    for frontend in &frontends {
        frontend.whole("/v1/completions", &body()).await?;
    }
    cluster.redis.crash()?;
    until_redis_is(&cluster, 0.0).await?;
    let mut away = Crowd::default();
    for number in 0..CLIENTS {
        away.ask(in_turn(&frontends, number)).await?;
    }
    ensure!(away.admitted.is_empty(), "{} came in", away.admitted.len());
    away.all_refused_with(503, "limiter_unavailable")?;
    let without = counted(&cluster, Role::Frontend, AWAY, REFUSED).await?;
    ensure!(without == CLIENTS as f64, "{without} of {CLIENTS} were counted");
    for (name, samples) in cluster.metrics_of(Role::Frontend).await? {
        ensure!(samples.sum("vlinders_limiter_up")? == 0.0, "{name}");
    }

    cluster.redis.back().await?;
    until_redis_is(&cluster, 1.0).await?;
    let after = Crowd::for_a_while(&frontends, A_WHILE).await?;
    after.check_exact("both frontends with a new Redis")?;
    cluster.settled().await?;
    cluster.stop().await
}
