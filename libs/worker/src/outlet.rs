//! From the loop's notes to the bus. Tokens go out at once; usage and acknowledgements follow in their own lane, so
//! that an acknowledgement never comes before its effect and a slow ledger never delays a token.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use vlinders_bus::{Bus, StreamName, Subject};
use vlinders_service_kit::{Stage, Tasks};
use vlinders_types::UsageEvent;
use vlinders_wire::subjects;

use crate::offering::Offering;
use crate::outbox::Note;
use crate::queue::Jobs;
use crate::recent::RecentBatches;
use crate::sequence::JobId;
use crate::teeth::bites;

/// Notes of steps that wait to be sent. The loop waits when there are more.
pub(crate) const NOTES: usize = 1024;
/// Usage events and acknowledgements that wait.
const SETTLEMENTS: usize = 8192;
/// Pause between tries to store a usage event; nothing is billed twice and nothing is given up.
const USAGE_RETRY: Duration = Duration::from_millis(200);

enum Settlement {
    Usage(UsageEvent),
    Ack(JobId),
}

/// Carries notes out.
pub(crate) struct Outlet {
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) jobs: Arc<Jobs>,
    pub(crate) offering: Arc<Offering>,
    pub(crate) tasks: Tasks,
    /// What frontends may ask for again.
    pub(crate) recent: RecentBatches,
}

impl Outlet {
    /// Ends when the loop has ended and everything it said is carried out.
    pub(crate) async fn run(self, mut notes: mpsc::Receiver<Vec<Note>>) {
        let (settlements, lane) = mpsc::channel(SETTLEMENTS);
        let (bus, jobs) = (Arc::clone(&self.bus), Arc::clone(&self.jobs));
        self.tasks
            .spawn(Stage::Flush, "settlements", settle(bus, jobs, lane));
        while let Some(turn) = notes.recv().await {
            for note in turn {
                self.carry_out(note, &settlements).await;
            }
        }
    }

    async fn carry_out(&self, note: Note, settlements: &mpsc::Sender<Settlement>) {
        let settlement = match note {
            Note::Step(frontend, batch) => {
                let subject = Subject::new(subjects::tokens_subject(&frontend));
                let payload = vlinders_wire::encode_step_batch(&batch);
                self.recent.keep(&frontend, batch.batch_seq, payload.clone());
                if let Err(error) = self.bus.publish(&subject, payload).await {
                    tracing::warn!(%error, %frontend, "step batch not sent");
                }
                return;
            }
            Note::Offer(order) => {
                let offering = Arc::clone(&self.offering);
                self.tasks.spawn(Stage::Work, "hand-over", async move {
                    offering.hand_over(order).await
                });
                return;
            }
            Note::Forget(job) => {
                let _replaced = self.jobs.forget(job);
                return;
            }
            Note::Usage(event) => Settlement::Usage(event),
            Note::Settle(job) => Settlement::Ack(job),
        };
        settlements
            .send(settlement)
            .await
            .expect("the lane lives as long as its sender");
    }
}

async fn settle(bus: Arc<dyn Bus>, jobs: Arc<Jobs>, mut lane: mpsc::Receiver<Settlement>) {
    while let Some(settlement) = lane.recv().await {
        match settlement {
            Settlement::Usage(event) => store(&*bus, &event).await,
            Settlement::Ack(job) => jobs.settle(job).await,
        }
    }
}

async fn store(bus: &dyn Bus, event: &UsageEvent) {
    let subject = Subject::new(subjects::usage_subject(&event.tenant));
    let id = subjects::usage_message_id(event.request_id);
    let bytes = vlinders_wire::encode_usage_event(event);
    while let Err(error) = bus.enqueue(StreamName::Usage, &subject, &id, bytes.clone()).await {
        tracing::warn!(%error, request = %event.request_id, "usage event not stored yet");
        if !error.is_retryable() || bites("usage-not-sent-again") {
            tracing::error!(?event, "usage event cannot be stored");
            return;
        }
        tokio::time::sleep(USAGE_RETRY).await;
    }
}
