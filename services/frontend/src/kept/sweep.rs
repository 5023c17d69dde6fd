//! Forgetting what is old.

use std::sync::Arc;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use vlinders_ledger::LedgerError;
use vlinders_service_kit::Clock;

use super::Kept;
use super::rules::milliseconds;

/// Forgets what is old now and then, until `stopping`. Many may do so side by side.
pub(super) async fn sweep(kept: Kept, clock: Arc<dyn Clock>, stopping: CancellationToken) {
    let mut ticks = tokio::time::interval(kept.rules.sweep_every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stopping.cancelled() => return,
            _ = ticks.tick() => {}
        }
        if let Err(error) = forget_old(&kept, clock.now_ms()).await {
            tracing::warn!(%error, "what is old is not forgotten yet");
        }
    }
}

async fn forget_old(kept: &Kept, now_ms: u64) -> Result<(), LedgerError> {
    kept.store.forget_old_responses(now_ms).await?;
    kept.store.forget_old_files(now_ms).await?;
    let retention_ms = milliseconds(kept.rules.retention);
    kept.store
        .forget_old_batches(now_ms.saturating_sub(retention_ms))
        .await
}
