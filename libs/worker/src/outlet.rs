//! From the loop's notes to the bus. Bills are kept before the last chunks go out, so that nothing a client was told goes
//! unbilled; acknowledgements follow in their own lane, so that none comes before its effect and a slow ledger never delays
//! a token.

use std::sync::Arc;

use futures::StreamExt;
use tokio::sync::mpsc;
use vlinders_bus::{Bus, Confirmation, Spool, SpoolMessage, StreamName, Subject};
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
/// Acknowledgements that wait.
const SETTLEMENTS: usize = 8192;
/// Acknowledgements on their way. One after the other, a queue would fill with requests long done.
const SETTLED_AT_ONCE: usize = 64;

/// What becomes of a delivery.
enum Settlement {
    /// Acknowledge it; when its request has ended, not before the bill is where it belongs.
    Ack(JobId, Option<Confirmation>),
    GiveBack(JobId),
}

/// Carries notes out.
pub(crate) struct Outlet {
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) spool: Spool,
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
        self.tasks
            .spawn(Stage::Flush, "settlements", settle(Arc::clone(&self.jobs), lane));
        while let Some(turn) = notes.recv().await {
            let bills: Vec<SpoolMessage> = turn.iter().filter_map(bill).collect();
            if bites("bill-after-the-last-chunk") {
                self.carry_out(turn, Vec::new(), &settlements).await;
                self.spool.keep(bills).await;
                continue;
            }
            // From here on a client may be told the end: its bill is safe.
            let kept = self.spool.keep(bills).await;
            self.carry_out(turn, kept, &settlements).await;
        }
    }

    async fn carry_out(
        &self,
        turn: Vec<Note>,
        bills: Vec<Confirmation>,
        settlements: &mpsc::Sender<Settlement>,
    ) {
        let mut bills = bills.into_iter();
        for note in turn {
            let settlement = match note {
                Note::Step(frontend, batch) => {
                    let subject = Subject::new(subjects::tokens_subject(&frontend));
                    let payload = vlinders_wire::encode_step_batch(&batch);
                    self.recent.keep(&frontend, batch.batch_seq, payload.clone());
                    if let Err(error) = self.bus.publish(&subject, payload).await {
                        tracing::warn!(%error, %frontend, "step batch not sent");
                    }
                    continue;
                }
                Note::Offer(order) => {
                    let offering = Arc::clone(&self.offering);
                    self.tasks.spawn(Stage::Work, "hand-over", async move {
                        offering.hand_over(order).await
                    });
                    continue;
                }
                Note::Forget(job) => {
                    let _replaced = self.jobs.forget(job);
                    continue;
                }
                Note::Ended(_, job) => {
                    let bill = bills.next();
                    match job {
                        Some(job) => Settlement::Ack(job, bill),
                        None => continue,
                    }
                }
                Note::Settle(job) => Settlement::Ack(job, None),
                Note::GiveBack(job) => Settlement::GiveBack(job),
            };
            settlements
                .send(settlement)
                .await
                .expect("the lane lives as long as its sender");
        }
    }
}

/// The bill that a note asks for. Its id is the request's: told twice, it counts once.
fn bill(note: &Note) -> Option<SpoolMessage> {
    match note {
        Note::Ended(event, _) => Some(message(event)),
        Note::Step(..) | Note::Settle(_) | Note::GiveBack(_) | Note::Forget(_) | Note::Offer(_) => None,
    }
}

fn message(event: &UsageEvent) -> SpoolMessage {
    SpoolMessage {
        stream: StreamName::Usage,
        subject: Subject::new(subjects::usage_subject(&event.tenant)),
        id: subjects::usage_message_id(event.request_id),
        payload: vlinders_wire::encode_usage_event(event),
    }
}

/// Acknowledges many at once: each waits for its bill and for a word of the queue, none for another.
async fn settle(jobs: Arc<Jobs>, mut lane: mpsc::Receiver<Settlement>) {
    let settlements = futures::stream::poll_fn(|context| lane.poll_recv(context));
    let settle_one = async |settlement| match settlement {
        Settlement::Ack(job, None) => jobs.settle(job).await,
        Settlement::Ack(job, Some(bill)) => {
            if bill.is_stored().await {
                jobs.settle(job).await;
            }
            // Otherwise it stays in the spool, and the delivery goes back to the queue below: whoever gets it again bills it
            // under the same id.
        }
        Settlement::GiveBack(job) => jobs.give_back(job).await,
    };
    settlements.for_each_concurrent(SETTLED_AT_ONCE, settle_one).await;
    // Nobody waits for what nobody here will do.
    jobs.give_back_all().await;
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use async_trait::async_trait;
    use tokio::sync::oneshot;
    use vlinders_bus::{BusError, DeliveryControl};

    use super::*;

    /// A delivery whose acknowledgement is heard, or never answered.
    struct Delivery {
        acknowledged: std::sync::Mutex<Option<oneshot::Sender<()>>>,
    }

    #[async_trait]
    impl DeliveryControl for Delivery {
        async fn ack(&self) -> Result<(), BusError> {
            let acknowledged = self.acknowledged.lock().unwrap().take();
            match acknowledged {
                Some(acknowledged) => acknowledged.send(()).unwrap(),
                None => std::future::pending().await,
            }
            Ok(())
        }
        async fn progress(&self) -> Result<(), BusError> {
            Ok(())
        }
        async fn give_back(&self, _delay: Duration) -> Result<(), BusError> {
            Ok(())
        }
        async fn terminate(&self) -> Result<(), BusError> {
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_acknowledgement_without_an_answer_holds_up_no_other() {
        let (jobs, (settlements, lane)) = (Arc::new(Jobs::default()), mpsc::channel(8));
        let (heard, mut hears) = oneshot::channel();
        for acknowledged in [None, Some(heard)] {
            let acknowledged = acknowledged.into();
            let job = jobs.open(Box::new(Delivery { acknowledged }));
            settlements.send(Settlement::Ack(job, None)).await.unwrap();
        }
        let settling = settle(jobs, lane);
        tokio::select! {
            () = settling => panic!("the lane is open"),
            heard = &mut hears => heard.unwrap(),
            () = tokio::time::sleep(Duration::from_secs(3600)) => panic!("the second one waits for the first"),
        }
    }
}
