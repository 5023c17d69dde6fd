//! Sends cancellations. Orders come from destructors, which cannot wait, through a bounded queue.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use vlinders_bus::{Bus, Subject};
use vlinders_types::{Cancel, ModelName, WorkerId};
use vlinders_wire::encode_cancel;
use vlinders_wire::subjects::{WorkerCall, worker_subject};

use crate::metrics::FrontendMetrics;
use crate::workers::Workers;

/// Cancellations waiting to be sent at most. A lost one is made good when the worker's next chunk arrives.
const QUEUE: usize = 4096;

/// A cancellation and whom it goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CancelOrder {
    pub(crate) cancel: Cancel,
    pub(crate) to: Recipients,
}

/// Who may hold a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Recipients {
    /// Everybody who serves the model. A request may just be on its way from one worker to another, so the last
    /// one heard of is not enough.
    AllOf(ModelName),
    /// This worker above all, known by beacon or not.
    This { worker: WorkerId, and_all_of: ModelName },
}

/// Takes orders.
#[derive(Clone)]
pub(crate) struct Canceller {
    orders: mpsc::Sender<CancelOrder>,
    metrics: Arc<FrontendMetrics>,
}

/// Carries orders out.
pub(crate) struct CancelLoop {
    orders: mpsc::Receiver<CancelOrder>,
    workers: Arc<Workers>,
    bus: Arc<dyn Bus>,
}

impl Canceller {
    pub(crate) fn new(
        bus: Arc<dyn Bus>,
        workers: Arc<Workers>,
        metrics: Arc<FrontendMetrics>,
    ) -> (Self, CancelLoop) {
        let (sender, orders) = mpsc::channel(QUEUE);
        (
            Self {
                orders: sender,
                metrics,
            },
            CancelLoop { orders, workers, bus },
        )
    }

    /// Never waits.
    pub(crate) fn send(&self, order: CancelOrder) {
        if self.orders.try_send(order).is_err() {
            self.metrics.lost_cancels.inc();
        }
    }
}

impl CancelLoop {
    /// Runs until `stopping`, and then until the queue is empty.
    pub(crate) async fn run(mut self, stopping: CancellationToken) {
        loop {
            let order = tokio::select! {
                biased;
                order = self.orders.recv() => order,
                () = stopping.cancelled() => self.orders.try_recv().ok(),
            };
            let Some(order) = order else { return };
            self.carry_out(order).await;
        }
    }

    async fn carry_out(&self, order: CancelOrder) {
        let mut workers = match &order.to {
            Recipients::AllOf(model)
            | Recipients::This {
                and_all_of: model, ..
            } => self.workers.of_model(model),
        };
        if let Recipients::This { worker, .. } = order.to
            && !workers.contains(&worker)
        {
            workers.push(worker);
        }
        let payload = encode_cancel(&order.cancel);
        for worker in workers {
            let subject = Subject::new(worker_subject(&worker, WorkerCall::Cancel));
            if let Err(error) = self.bus.publish(&subject, payload.clone()).await {
                tracing::warn!(%worker, request = %order.cancel.request_id, %error, "cancellation not sent");
            }
        }
    }
}
