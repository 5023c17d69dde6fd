//! Frontends that missed step batches get them again.

use std::sync::Arc;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use vlinders_bus::{Bus, Subject, Subscription};
use vlinders_service_kit::Counter;
use vlinders_types::{Epoch, WorkerId};
use vlinders_wire::Resend;
use vlinders_wire::subjects::{self, WorkerCall};

use crate::recent::RecentBatches;

/// What sending again needs.
pub(crate) struct Resending {
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) recent: RecentBatches,
    pub(crate) epoch: Epoch,
    /// Batches sent again.
    pub(crate) resends: Counter,
}

/// Where frontends of this worker say what they missed.
pub(crate) fn resend_subject(worker: &WorkerId) -> Subject {
    Subject::new(subjects::worker_subject(worker, WorkerCall::Resend))
}

impl Resending {
    /// Serves frontends until told to stop. What is no longer there is not sent.
    pub(crate) async fn serve(self, mut asked: Box<dyn Subscription>, stopping: CancellationToken) {
        loop {
            let incoming = tokio::select! {
                biased;
                () = stopping.cancelled() => return,
                incoming = asked.next() => incoming,
            };
            let Some(incoming) = incoming else { return };
            match vlinders_wire::decode_resend(&incoming.payload) {
                Ok(resend) => self.send(&resend).await,
                Err(error) => tracing::warn!(%error, "unreadable request for batches"),
            }
            if let Some(reply) = incoming.reply {
                // Whoever asks only whether anybody lives, knows now.
                let _asker_gone = reply.send(Bytes::new()).await;
            }
        }
    }

    async fn send(&self, resend: &Resend) {
        if resend.epoch != self.epoch {
            return;
        }
        let subject = Subject::new(subjects::tokens_subject(&resend.frontend));
        for payload in self.recent.since(&resend.frontend, resend.from_seq) {
            if let Err(error) = self.bus.publish(&subject, payload).await {
                tracing::warn!(%error, frontend = %resend.frontend, "step batch not sent again");
                return;
            }
            self.resends.inc();
        }
    }
}
