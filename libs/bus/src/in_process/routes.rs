//! Who listens to what. Sending to an exact subject is one lookup and a bounded `try_send` per listener.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::check_size;
use crate::{BusError, Incoming, Reply, Subject, Subscription};

/// All listeners. Their queues' senders live only here: without the routes every subscription ends.
#[derive(Default)]
pub(super) struct Routes {
    table: RwLock<Table>,
    next_id: AtomicU64,
}

#[derive(Default)]
struct Table {
    exact: HashMap<Subject, Vec<Listener>>,
    /// Few: services listen to beacons and their own calls by pattern, everything frequent is exact.
    patterns: Vec<(Subject, Listener)>,
}

struct Listener {
    id: u64,
    queue: mpsc::Sender<Incoming>,
    lost: Arc<AtomicU64>,
}

impl Listener {
    fn send(&self, subject: &Subject, payload: &Bytes, answer: Option<&Answer>) {
        let reply = answer.map(|answer| Box::new(answer.clone()) as Box<dyn Reply>);
        let incoming = Incoming {
            subject: subject.clone(),
            payload: payload.clone(),
            reply,
        };
        match self.queue.try_send(incoming) {
            // A closed queue belongs to a subscriber that is just leaving.
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl Routes {
    /// Hands the message to every listener and returns how many there are, those too slow to take it included.
    pub(super) fn send(&self, subject: &Subject, payload: &Bytes, answer: Option<&Answer>) -> usize {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let exact = table.exact.get(subject).map_or(&[][..], Vec::as_slice).iter();
        let matching = table
            .patterns
            .iter()
            .filter(|(pattern, _)| pattern.matches(subject));
        let mut listeners = 0;
        for listener in exact.chain(matching.map(|(_, listener)| listener)) {
            listener.send(subject, payload, answer);
            listeners += 1;
        }
        listeners
    }

    pub(super) fn subscribe(routes: &Arc<Self>, pattern: &Subject, queue: usize) -> RoutedSubscription {
        let (sender, receiver) = mpsc::channel(queue);
        let lost = Arc::new(AtomicU64::new(0));
        let id = routes.next_id.fetch_add(1, Ordering::Relaxed);
        let listener = Listener {
            id,
            queue: sender,
            lost: lost.clone(),
        };
        let mut table = routes.table.write().unwrap_or_else(PoisonError::into_inner);
        if pattern.is_literal() {
            table.exact.entry(pattern.clone()).or_default().push(listener);
        } else {
            table.patterns.push((pattern.clone(), listener));
        }
        RoutedSubscription {
            id,
            pattern: pattern.clone(),
            receiver,
            lost,
            routes: Arc::downgrade(routes),
        }
    }

    fn unsubscribe(&self, pattern: &Subject, id: u64) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(listeners) = table.exact.get_mut(pattern) {
            listeners.retain(|listener| listener.id != id);
            if listeners.is_empty() {
                table.exact.remove(pattern);
            }
        }
        table.patterns.retain(|(_, listener)| listener.id != id);
    }

    pub(super) fn clear(&self) {
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = Table::default();
    }
}

/// One subscriber's end of its queue.
pub(super) struct RoutedSubscription {
    id: u64,
    pattern: Subject,
    receiver: mpsc::Receiver<Incoming>,
    lost: Arc<AtomicU64>,
    /// Weak, so that a forgotten subscription does not keep a closed bus alive.
    routes: Weak<Routes>,
}

#[async_trait]
impl Subscription for RoutedSubscription {
    async fn next(&mut self) -> Option<Incoming> {
        self.receiver.recv().await
    }

    fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

impl Drop for RoutedSubscription {
    fn drop(&mut self) {
        if let Some(routes) = self.routes.upgrade() {
            routes.unsubscribe(&self.pattern, self.id);
        }
    }
}

/// The right to answer one request. Every listener gets it; the first answer counts.
#[derive(Clone)]
pub(super) struct Answer {
    sender: Arc<Mutex<Option<oneshot::Sender<Bytes>>>>,
    limit_bytes: usize,
}

impl Answer {
    pub(super) fn new(limit_bytes: usize) -> (Self, oneshot::Receiver<Bytes>) {
        let (sender, receiver) = oneshot::channel();
        (
            Self {
                sender: Arc::new(Mutex::new(Some(sender))),
                limit_bytes,
            },
            receiver,
        )
    }
}

#[async_trait]
impl Reply for Answer {
    async fn send(self: Box<Self>, payload: Bytes) -> Result<(), BusError> {
        check_size(&payload, self.limit_bytes)?;
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(sender) = sender {
            // Whoever asked may have stopped waiting.
            let _ = sender.send(payload);
        }
        Ok(())
    }
}
