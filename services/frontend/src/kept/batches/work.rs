//! What one process does for one batch, from state to state.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use vlinders_ledger::{BatchEnding, BatchStatus, LedgerError, Scope, StoredBatch};
use vlinders_openai_api::{ApiError, parse_batch_line};
use vlinders_service_kit::{Counter, Metrics};

use super::answering::{Asked, Asker};
use super::lines::{Line, Lines};
use super::{output, rights, validate};
use crate::Caller;
use crate::app::App;
use crate::kept::Kept;
use crate::kept::rules::milliseconds;

/// Between two tries to reach the database.
const PAUSE: Duration = Duration::from_millis(500);
/// How long a caller is known without asking again: so long a revoked key goes on.
const CALLER_FRESH: Duration = Duration::from_secs(2);

/// What is counted of batches.
pub(super) struct Counters {
    pub(super) answered: Counter,
    pub(super) failed: Counter,
    pub(super) retries: Counter,
}

impl Counters {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let lines = |result| {
            let help = "Lines of batches with an answer that stays, by result";
            metrics.counter("batch_lines", help, &[("result", result)])
        };
        Self {
            answered: lines("completed"),
            failed: lines("failed"),
            retries: metrics.counter("batch_line_retries", "Lines of batches that are asked again", &[]),
        }
    }
}

/// Runs batches.
pub(super) struct Work {
    pub(super) app: Arc<App>,
    pub(super) kept: Kept,
    pub(super) router: Router,
    pub(super) counters: Counters,
}

/// Why no more lines are begun.
enum Pause {
    Ended(BatchEnding),
    /// Its key has no room for so long.
    Parked(Duration),
    /// The process stops, or the batch was cancelled.
    Left,
}

impl Work {
    /// Runs a batch that was claimed, until it has ended, is left to others, or is lost to them.
    pub(super) async fn run(&self, batch: StoredBatch) {
        let leaving = self.app.stopping.child_token();
        let id = batch.asked.id.clone();
        tokio::select! {
            biased;
            () = self.hold(&id, &leaving) => tracing::warn!(batch = id, "a batch went to somebody else"),
            done = Box::pin(self.stages(batch, &leaving)) => {
                if let Err(error) = done {
                    // Whoever takes it on when the lease is over goes on with it.
                    tracing::warn!(%error, batch = id, "a batch is left for a while");
                }
            }
        }
    }

    fn holder(&self) -> &str {
        self.app.frontend.as_str()
    }

    fn lease_end_ms(&self) -> u64 {
        let lease = milliseconds(self.kept.rules.batches.lease);
        self.app.clock.now_ms().saturating_add(lease)
    }

    /// Holds the batch as long as it can, and sees when it is cancelled.
    async fn hold(&self, id: &str, leaving: &CancellationToken) {
        let lease = self.kept.rules.batches.lease;
        let mut held = Instant::now();
        loop {
            tokio::time::sleep(lease / 4).await;
            match self
                .kept
                .store
                .hold_batch(id, self.holder(), self.lease_end_ms())
                .await
            {
                Ok(Some(batch)) => {
                    held = Instant::now();
                    if batch.status == BatchStatus::Cancelling {
                        leaving.cancel();
                    }
                }
                Ok(None) => return,
                Err(error) if held.elapsed() > lease => {
                    tracing::warn!(%error, batch = id, "a batch could not be held");
                    return;
                }
                Err(_) => {}
            }
        }
    }

    async fn stages(&self, mut batch: StoredBatch, leaving: &CancellationToken) -> Result<(), LedgerError> {
        let (store, rules) = (&self.kept.store, &self.kept.rules.batches);
        loop {
            let id = batch.asked.id.clone();
            match batch.status {
                BatchStatus::Validating => {
                    let asked = &batch.asked;
                    let lines =
                        validate::validate(&**store, &asked.input_file, &asked.endpoint, rules.lines).await?;
                    let is_good = lines.is_ok();
                    let told = store
                        .validated_batch(&id, self.holder(), lines, self.now_ms())
                        .await?;
                    if told && !is_good {
                        return Ok(());
                    }
                }
                BatchStatus::InProgress => match self.answer(&batch, leaving).await? {
                    Pause::Ended(ending) => self.end(&batch, ending).await?,
                    Pause::Parked(pause) => {
                        let until_ms = self.now_ms().saturating_add(milliseconds(pause));
                        return store.release_batch(&id, self.holder(), until_ms).await;
                    }
                    Pause::Left if self.app.stopping.is_cancelled() => {
                        return store.release_batch(&id, self.holder(), self.now_ms()).await;
                    }
                    Pause::Left => {}
                },
                BatchStatus::Cancelling if batch.ending.is_none() => {
                    self.end(&batch, BatchEnding::Cancelled).await?;
                }
                BatchStatus::Cancelling | BatchStatus::Finalizing => return self.finish(&batch).await,
                BatchStatus::Completed
                | BatchStatus::Failed
                | BatchStatus::Expired
                | BatchStatus::Cancelled => return Ok(()),
            }
            match store.hold_batch(&id, self.holder(), self.lease_end_ms()).await? {
                Some(held) => batch = held,
                None => return Ok(()),
            }
        }
    }

    fn now_ms(&self) -> u64 {
        self.app.clock.now_ms()
    }

    /// No more lines are begun. When it was cancelled meanwhile, nothing happens.
    async fn end(&self, batch: &StoredBatch, ending: BatchEnding) -> Result<(), LedgerError> {
        let name = || format!("file-{}", self.app.new_request_id());
        let (output, error) = (name(), name());
        let ended = self
            .kept
            .store
            .end_batch(batch, self.holder(), ending, [&output, &error], self.now_ms());
        ended.await.map(|_| ())
    }

    async fn finish(&self, batch: &StoredBatch) -> Result<(), LedgerError> {
        let now_ms = self.now_ms();
        let times = output::Times {
            now_ms,
            expires_ms: match batch.asked.output_expires_s {
                Some(seconds) => now_ms.saturating_add(seconds.saturating_mul(1000)),
                None => self.kept.rules.expires_ms(now_ms),
            },
        };
        let counts = output::write(&*self.kept.store, batch, times).await?;
        let finished = self
            .kept
            .store
            .finish_batch(batch, self.holder(), counts, self.now_ms())
            .await?;
        if finished {
            let [completed, failed] = counts;
            tracing::info!(batch = batch.asked.id, completed, failed, "batch finished");
        }
        Ok(())
    }

    /// Has lines answered that have no answer yet, a few at a time.
    async fn answer(&self, batch: &StoredBatch, leaving: &CancellationToken) -> Result<Pause, LedgerError> {
        let ended = self.kept.store.ended_lines(&batch.asked.id).await?;
        let ended: HashSet<u32> = ended.into_iter().collect();
        let mut lines = Lines::new(&*self.kept.store, &batch.asked.input_file);
        let quitting = leaving.child_token();
        let asker = Asker {
            router: &self.router,
            rules: &self.kept.rules.batches,
            batch,
            leaving: &quitting,
            retries: &self.counters.retries,
        };
        let known = Mutex::new(None);
        let mut under_way = FuturesUnordered::new();
        let (mut pause, mut are_all_begun) = (None, false);
        loop {
            while pause.is_none() && !are_all_begun && under_way.len() < self.kept.rules.batches.lines_at_once
            {
                if quitting.is_cancelled() {
                    pause = Some(Pause::Left);
                } else if self.left_of(batch).is_zero() {
                    pause = Some(Pause::Ended(BatchEnding::Expired));
                } else {
                    match lines.next().await? {
                        Some(line) if ended.contains(&line.number) => {}
                        Some(line) => under_way.push(Box::pin(self.line(&asker, line, &known))),
                        None => are_all_begun = true,
                    }
                }
            }
            if pause.is_some() {
                // Those that wait for another try wait no more.
                quitting.cancel();
            }
            let next = match &pause {
                None => tokio::time::timeout(self.left_of(batch), under_way.next()).await,
                Some(_) => Ok(under_way.next().await),
            };
            match next {
                Err(_elapsed) => pause = Some(Pause::Ended(BatchEnding::Expired)),
                Ok(None) => return Ok(pause.unwrap_or(Pause::Ended(BatchEnding::Answered))),
                Ok(Some(outcome)) => {
                    if let Some(why) = outcome? {
                        pause.get_or_insert(why);
                    }
                }
            }
        }
    }

    /// How much of its time is left.
    fn left_of(&self, batch: &StoredBatch) -> Duration {
        Duration::from_millis(batch.asked.expires_ms.saturating_sub(self.now_ms()))
    }

    /// Has one line answered and keeps the answer. Some: no more lines shall be begun.
    async fn line(
        &self,
        asker: &Asker<'_>,
        line: Line,
        known: &Mutex<Option<(Instant, Caller)>>,
    ) -> Result<Option<Pause>, LedgerError> {
        let batch = asker.batch;
        let Ok(parsed) = parse_batch_line(&line.content, &batch.asked.endpoint) else {
            // It was good when it was validated: told as one without an answer.
            tracing::error!(
                batch = batch.asked.id,
                line = line.number,
                "a line cannot be read any more"
            );
            return Ok(None);
        };
        drop(line.content);
        let result = match asker
            .ask(line.number, &parsed, || self.caller(batch, known))
            .await
        {
            Asked::Answered(result) => result,
            Asked::NoRoom(pause) => return Ok(Some(Pause::Parked(pause))),
            Asked::Refused(error) => {
                tracing::info!(
                    batch = batch.asked.id,
                    why = error.message,
                    "a batch is not run on"
                );
                return Ok(Some(Pause::Ended(BatchEnding::Refused)));
            }
            Asked::Left => return Ok(Some(Pause::Left)),
        };
        // What was computed is not given up because the database is away for a moment; who loses the batch stops here.
        loop {
            let kept = self.kept.store.keep_line(&batch.asked.id, self.holder(), &result);
            match kept.await {
                Ok(true) => {
                    let counter = if result.is_failed {
                        &self.counters.failed
                    } else {
                        &self.counters.answered
                    };
                    counter.inc();
                }
                Ok(false) => {}
                Err(error) if error.is_retryable() => {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                Err(error) => return Err(error),
            }
            return Ok(None);
        }
    }

    /// Whoever made the batch, with the rights of now.
    async fn caller(
        &self,
        batch: &StoredBatch,
        known: &Mutex<Option<(Instant, Caller)>>,
    ) -> Result<Caller, ApiError> {
        let lock = || known.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = lock().clone();
        if let Some((_, caller)) = fresh.filter(|(asked, _)| asked.elapsed() < CALLER_FRESH) {
            return Ok(caller);
        }
        let asked = &batch.asked;
        let unreadable = || ApiError::new(401, "invalid_api_key", "the rights of this batch cannot be read");
        let before = rights::read(&asked.tenant, &asked.key, &asked.rights).ok_or_else(unreadable)?;
        let caller = self.app.authenticator.renew(before).await?;
        if !caller.may(Scope::Inference) {
            return Err(ApiError::new(
                403,
                "missing_scope",
                "this API key is not for inference",
            ));
        }
        *lock() = Some((Instant::now(), caller.clone()));
        Ok(caller)
    }
}
