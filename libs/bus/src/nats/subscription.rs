//! Listening to subjects without storage.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_nats::{Message, Subscriber};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::link::Link;
use crate::{BusError, Incoming, Reply, Subject, Subscription};

/// One subscriber's end of its queue. A task fills it, so that what does not fit is counted exactly.
pub(super) struct NatsSubscription {
    queue: mpsc::Receiver<Incoming>,
    lost: Arc<AtomicU64>,
    /// Ends with the subscription, and with it the interest at the server.
    _filling: AbortOnDropHandle<()>,
}

impl NatsSubscription {
    pub(super) async fn start(link: &Arc<Link>, pattern: &str) -> Result<Self, BusError> {
        let arrivals = link
            .client
            .subscribe(pattern.to_owned())
            .await
            .map_err(|error| BusError::Closed(error.to_string()))?;
        let (sender, queue) = mpsc::channel(link.options.subscriber_queue);
        let lost = Arc::new(AtomicU64::new(0));
        let filling = fill(Arc::clone(link), arrivals, sender, Arc::clone(&lost));
        Ok(Self {
            queue,
            lost,
            _filling: AbortOnDropHandle::new(link.tasks.spawn(filling)),
        })
    }
}

async fn fill(
    link: Arc<Link>,
    mut arrivals: Subscriber,
    queue: mpsc::Sender<Incoming>,
    lost: Arc<AtomicU64>,
) {
    loop {
        let message = tokio::select! {
            biased;
            () = link.closed.cancelled() => return,
            message = arrivals.next() => message,
        };
        let Some(message) = message else { return };
        match queue.try_send(incoming(&link, message)) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => {
                lost.fetch_add(1, Ordering::Relaxed);
            }
            Err(mpsc::error::TrySendError::Closed(_)) => return,
        }
    }
}

fn incoming(link: &Arc<Link>, message: Message) -> Incoming {
    let reply = message.reply.map(|to| {
        Box::new(NatsReply {
            link: Arc::clone(link),
            to: to.to_string(),
        }) as Box<dyn Reply>
    });
    Incoming {
        subject: Subject::new(message.subject.as_str()),
        payload: message.payload,
        reply,
    }
}

#[async_trait]
impl Subscription for NatsSubscription {
    async fn next(&mut self) -> Option<Incoming> {
        self.queue.recv().await
    }

    fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

/// The right to answer one request.
struct NatsReply {
    link: Arc<Link>,
    to: String,
}

#[async_trait]
impl Reply for NatsReply {
    async fn send(self: Box<Self>, payload: Bytes) -> Result<(), BusError> {
        self.link.send(&self.to, None, payload).await
    }
}
