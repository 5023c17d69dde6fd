//! Looking for batches that nobody runs. One whose process is gone is found here by another, or by its next life.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::time::MissedTickBehavior;
use vlinders_service_kit::{Stage, Tasks};

use super::work::{Counters, Work};
use crate::app::App;
use crate::http::inner_router;
use crate::kept::Kept;
use crate::kept::rules::milliseconds;

/// Runs batches until the tasks stop. What is being answered then is finished, and the rest left to others.
pub(crate) fn spawn(app: &Arc<App>, kept: Kept, tasks: &Tasks) {
    if kept.rules.batches.at_once == 0 {
        return;
    }
    let work = Arc::new(Work {
        router: inner_router(Arc::clone(app)),
        counters: Counters::new(app.metrics.all()),
        app: Arc::clone(app),
        kept,
    });
    tasks.spawn(Stage::Work, "batches", look(work, tasks.clone()));
}

async fn look(work: Arc<Work>, tasks: Tasks) {
    let rules = work.kept.rules.batches.clone();
    let places = Arc::new(Semaphore::new(rules.at_once));
    let metrics = work.app.metrics.all();
    let running = metrics.gauge("batches_running", "Batches that this process runs", &[]);
    let mut ticks = tokio::time::interval(rules.look_every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_away = false;
    loop {
        tokio::select! {
            biased;
            () = work.app.stopping.cancelled() => return,
            _ = ticks.tick() => {}
        }
        while let Ok(place) = Arc::clone(&places).try_acquire_owned() {
            let now_ms = work.app.clock.now_ms();
            let until_ms = now_ms.saturating_add(milliseconds(rules.lease));
            let holder = work.app.frontend.as_str();
            let claimed = work.kept.store.claim_batch(holder, now_ms, until_ms).await;
            let batch = match claimed {
                Ok(batch) => batch,
                Err(error) => {
                    if !std::mem::replace(&mut is_away, true) {
                        tracing::warn!(%error, "batches cannot be looked for");
                    }
                    break;
                }
            };
            is_away = false;
            let Some(batch) = batch else { break };
            tracing::info!(
                batch = batch.asked.id,
                claims = batch.claims,
                "a batch is taken on"
            );
            let work = Arc::clone(&work);
            tasks.spawn(Stage::Work, "batch", async move {
                let _place = place;
                work.run(batch).await;
            });
        }
        let count = rules.at_once - places.available_permits();
        running.set(u32::try_from(count).map_or(f64::INFINITY, f64::from));
    }
}
