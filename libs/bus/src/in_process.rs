//! A bus inside one process, with the promises of a broker: subjects without storage, and work queues that refuse when
//! full. It runs no task of its own: what time changes is brought up to date whenever somebody looks.

mod consumer;
mod routes;
mod stream;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::consumer::QueueConsumer;
use self::routes::{Answer, Routes};
use self::stream::StreamState;
use crate::{
    Bus, BusError, Consumer, ConsumerSpec, Enqueued, StreamName, StreamRules, Subject, Subscription,
};

/// What the bus holds at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InProcessLimits {
    /// Bytes of one message.
    pub max_payload_bytes: usize,
    /// Messages that wait for one subscriber; it loses what comes on top.
    pub subscriber_queue: usize,
    /// Message ids remembered per stream. Beyond it the oldest are forgotten before their window ends.
    pub remembered_ids: usize,
}

impl Default for InProcessLimits {
    /// Room for the largest message with some kilobytes of envelope, for seconds of step batches, and for two minutes
    /// of ids at thousands of requests a second.
    fn default() -> Self {
        Self {
            max_payload_bytes: 17 << 20,
            subscriber_queue: 4096,
            remembered_ids: 1 << 20,
        }
    }
}

/// A wait without an end would overflow the clock; this one is as good.
const LONGEST_WAIT: Duration = Duration::from_secs(30 * 86_400);

/// One stream: its state, which only advances under the lock and is never held over a wait.
type SharedStream = Arc<Mutex<StreamState>>;

/// A bus inside one process. Dropping it closes it.
pub struct InProcessBus {
    limits: InProcessLimits,
    routes: Arc<Routes>,
    streams: Mutex<HashMap<StreamName, SharedStream>>,
    closed: CancellationToken,
}

impl InProcessBus {
    /// An empty bus.
    #[must_use]
    pub fn new(limits: InProcessLimits) -> Self {
        Self {
            limits,
            routes: Arc::default(),
            streams: Mutex::default(),
            closed: CancellationToken::new(),
        }
    }

    /// Ends every wait on the bus and refuses every later call. Subscribers still get what they had not read.
    pub fn close(&self) {
        self.closed.cancel();
        self.routes.clear();
    }

    fn check_open(&self) -> Result<(), BusError> {
        if self.closed.is_cancelled() {
            Err(closed())
        } else {
            Ok(())
        }
    }

    fn check_message(&self, subject: &Subject, payload: &Bytes) -> Result<(), BusError> {
        self.check_open()?;
        check_size(payload, self.limits.max_payload_bytes)?;
        if subject.is_literal() {
            Ok(())
        } else {
            Err(invalid(subject))
        }
    }

    fn stream(&self, name: StreamName) -> Result<SharedStream, BusError> {
        let streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        streams
            .get(&name)
            .cloned()
            .ok_or(BusError::NoStream { stream: name.name() })
    }
}

impl Drop for InProcessBus {
    fn drop(&mut self) {
        self.close();
    }
}

fn closed() -> BusError {
    BusError::Closed("shut down".to_owned())
}

fn invalid(subject: &Subject) -> BusError {
    BusError::InvalidSubject {
        subject: subject.to_string(),
    }
}

fn check_size(payload: &Bytes, limit_bytes: usize) -> Result<(), BusError> {
    let bytes = payload.len();
    if bytes > limit_bytes {
        Err(BusError::TooLarge { bytes, limit_bytes })
    } else {
        Ok(())
    }
}

#[async_trait]
impl Bus for InProcessBus {
    async fn publish(&self, subject: &Subject, payload: Bytes) -> Result<(), BusError> {
        self.check_message(subject, &payload)?;
        self.routes.send(subject, &payload, None);
        Ok(())
    }

    async fn subscribe(&self, pattern: &Subject) -> Result<Box<dyn Subscription>, BusError> {
        self.check_open()?;
        if !pattern.is_pattern() {
            return Err(invalid(pattern));
        }
        Ok(Box::new(Routes::subscribe(
            &self.routes,
            pattern,
            self.limits.subscriber_queue,
        )))
    }

    async fn request(&self, subject: &Subject, payload: Bytes, timeout: Duration) -> Result<Bytes, BusError> {
        self.check_message(subject, &payload)?;
        // The answer is held here until the end: whoever drops its right to answer leaves the asker waiting, as
        // over a network.
        let (answer, answered) = Answer::new(self.limits.max_payload_bytes);
        if self.routes.send(subject, &payload, Some(&answer)) == 0 {
            return Err(BusError::NoResponders {
                subject: subject.to_string(),
            });
        }
        tokio::select! {
            biased;
            answered = tokio::time::timeout(timeout, answered) => match answered {
                Ok(Ok(payload)) => Ok(payload),
                Ok(Err(_)) | Err(_) => Err(BusError::Timeout {
                    subject: subject.to_string(),
                    waited_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
                }),
            },
            () = self.closed.cancelled() => Err(closed()),
        }
    }

    async fn ensure_stream(&self, stream: StreamName, rules: StreamRules) -> Result<(), BusError> {
        self.check_open()?;
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        match streams.get(&stream) {
            Some(existing) => existing
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .set_rules(rules),
            None => {
                let state = StreamState::new(stream, rules, self.limits.remembered_ids);
                streams.insert(stream, Arc::new(Mutex::new(state)));
            }
        }
        Ok(())
    }

    async fn enqueue(
        &self,
        stream: StreamName,
        subject: &Subject,
        message_id: &str,
        payload: Bytes,
    ) -> Result<Enqueued, BusError> {
        self.check_message(subject, &payload)?;
        if !Subject::new(stream.subjects()).matches(subject) {
            return Err(invalid(subject));
        }
        let stream = self.stream(stream)?;
        let mut state = stream.lock().unwrap_or_else(PoisonError::into_inner);
        state.enqueue(Instant::now(), subject, message_id, payload)
    }

    async fn consumer(&self, spec: ConsumerSpec) -> Result<Box<dyn Consumer>, BusError> {
        self.check_open()?;
        if !spec.filter.is_pattern() {
            return Err(invalid(&spec.filter));
        }
        let stream = self.stream(spec.stream)?;
        let (index, wake) = {
            let mut state = stream.lock().unwrap_or_else(PoisonError::into_inner);
            state.join(spec)?
        };
        Ok(Box::new(QueueConsumer {
            stream,
            index,
            wake,
            closed: self.closed.clone(),
        }))
    }

    async fn pending(&self, stream: StreamName) -> Result<u64, BusError> {
        self.check_open()?;
        let stream = self.stream(stream)?;
        let mut state = stream.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(state.pending(Instant::now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small_bus() -> InProcessBus {
        InProcessBus::new(InProcessLimits {
            max_payload_bytes: 8,
            subscriber_queue: 2,
            ..InProcessLimits::default()
        })
    }

    #[tokio::test]
    async fn a_message_beyond_the_size_limit_is_refused() {
        let bus = small_bus();
        let sent = bus.publish(&Subject::new("a"), Bytes::from_static(&[0; 9])).await;
        assert_eq!(
            sent,
            Err(BusError::TooLarge {
                bytes: 9,
                limit_bytes: 8
            })
        );
    }

    #[tokio::test]
    async fn subjects_are_checked_before_use() {
        let bus = small_bus();
        assert!(matches!(
            bus.publish(&Subject::new("a.*"), Bytes::new()).await,
            Err(BusError::InvalidSubject { .. })
        ));
        assert!(matches!(
            bus.subscribe(&Subject::new("a..b")).await,
            Err(BusError::InvalidSubject { .. })
        ));
        let elsewhere = bus
            .enqueue(StreamName::Usage, &Subject::new("vl.req.m"), "1", Bytes::new())
            .await;
        assert!(matches!(elsewhere, Err(BusError::InvalidSubject { .. })));
        let missing = bus
            .enqueue(StreamName::Usage, &Subject::new("vl.usage.t"), "1", Bytes::new())
            .await;
        assert_eq!(missing, Err(BusError::NoStream { stream: "VL_USAGE" }));
    }

    #[tokio::test(start_paused = true)]
    async fn closing_ends_every_wait() {
        let bus = small_bus();
        let rules = StreamRules {
            max_messages: 1,
            max_age: Duration::from_secs(60),
            dedup_window: Duration::from_secs(60),
        };
        bus.ensure_stream(StreamName::Requests, rules).await.unwrap();
        let spec = ConsumerSpec {
            stream: StreamName::Requests,
            filter: Subject::new("vl.req.>"),
            name: "c".to_owned(),
            ack_wait: Duration::from_secs(1),
            max_deliver: 1,
        };
        let consumer = bus.consumer(spec).await.unwrap();
        let mut subscription = bus.subscribe(&Subject::new("ask")).await.unwrap();
        let long = Duration::from_secs(3600);
        let asked = Subject::new("ask");
        let (fetched, next, answer, ()) = tokio::join!(
            consumer.fetch(1, long),
            async {
                let _unanswered = subscription.next().await.unwrap();
                subscription.next().await
            },
            bus.request(&asked, Bytes::new(), long),
            async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                bus.close();
            },
        );
        assert!(matches!(fetched, Err(BusError::Closed(_))));
        assert!(next.is_none());
        assert!(matches!(answer, Err(BusError::Closed(_))));
        assert!(matches!(
            bus.publish(&asked, Bytes::new()).await,
            Err(BusError::Closed(_))
        ));
    }
}
