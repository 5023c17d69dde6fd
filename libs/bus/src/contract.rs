//! The [`Bus`] trait and what passes through it.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::Subject;

/// A failed bus operation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// The stream has as many messages as it may hold.
    #[error("stream {stream} is full")]
    Full {
        /// Which stream.
        stream: &'static str,
    },
    /// Nobody serves the subject.
    #[error("no responders on {subject}")]
    NoResponders {
        /// Which subject.
        subject: String,
    },
    /// No answer in time.
    #[error("no answer on {subject} within {waited_ms} ms")]
    Timeout {
        /// Which subject.
        subject: String,
        /// How long was waited.
        waited_ms: u64,
    },
    /// A message larger than the bus carries.
    #[error("message of {bytes} bytes is more than the bus carries ({limit_bytes})")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit_bytes: usize,
    },
    /// A subject that cannot be used this way: empty tokens, wildcards where a message is sent, or not one of the
    /// stream's.
    #[error("subject {subject} cannot be used here")]
    InvalidSubject {
        /// Which subject.
        subject: String,
    },
    /// The stream was never created, or is lost.
    #[error("stream {stream} does not exist")]
    NoStream {
        /// Which stream.
        stream: &'static str,
    },
    /// Another consumer of the stream takes some of the same messages.
    #[error("consumer {name} overlaps consumer {other} of stream {stream}")]
    Overlap {
        /// Which stream.
        stream: &'static str,
        /// The consumer that was asked for.
        name: String,
        /// The one that is there.
        other: String,
    },
    /// The bus does not do it, now or later, for the reason it gives.
    #[error("the bus refuses: {0}")]
    Refused(String),
    /// The bus is shut down or out of reach.
    #[error("bus closed: {0}")]
    Closed(String),
}

impl BusError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Full { .. }
            | Self::NoResponders { .. }
            | Self::Timeout { .. }
            | Self::NoStream { .. }
            | Self::Closed(_) => true,
            Self::TooLarge { .. } | Self::InvalidSubject { .. } | Self::Overlap { .. } | Self::Refused(_) => {
                false
            }
        }
    }
}

/// The durable streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StreamName {
    /// Work queue of requests: `vl.req.>`.
    Requests,
    /// Usage events: `vl.usage.>`.
    Usage,
    /// Poisoned messages with the reason: `vl.dlq.>`.
    DeadLetters,
}

impl StreamName {
    /// The stream's name on the server.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Requests => "VL_REQ",
            Self::Usage => "VL_USAGE",
            Self::DeadLetters => "VL_DLQ",
        }
    }

    /// The subjects it holds; nothing else can be put into it.
    #[must_use]
    pub const fn subjects(self) -> &'static str {
        match self {
            Self::Requests => "vl.req.>",
            Self::Usage => "vl.usage.>",
            Self::DeadLetters => "vl.dlq.>",
        }
    }
}

/// What a stream holds at most and how long. A full stream refuses new messages; it never drops accepted ones for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamRules {
    /// Messages held.
    pub max_messages: u64,
    /// A message older than this is dropped.
    pub max_age: Duration,
    /// A second message with the same id inside this window is recognised and not stored.
    pub dedup_window: Duration,
}

/// What became of an enqueued message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enqueued {
    /// Stored.
    Stored,
    /// Its id was seen before; the stream is unchanged.
    Duplicate,
}

/// How a consumer takes messages from a stream. Consumers of the same name share the messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerSpec {
    /// Which stream.
    pub stream: StreamName,
    /// Only subjects that match.
    pub filter: Subject,
    /// The shared name.
    pub name: String,
    /// A delivery neither acknowledged nor progressed for this long is given to somebody else.
    pub ack_wait: Duration,
    /// Deliveries of one message at most.
    pub max_deliver: u32,
}

/// One message taken from a stream. Dropping it without a word lets `ack_wait` run out.
pub struct Delivery {
    /// Where it was put.
    pub subject: Subject,
    /// What it says.
    pub payload: Bytes,
    /// Which delivery of this message this is, from 1.
    pub delivery_count: u32,
    /// Settles it.
    pub control: Box<dyn DeliveryControl>,
}

/// The right and the duty to settle one delivery.
#[async_trait]
pub trait DeliveryControl: Send + Sync {
    /// Its effect has happened: the message is done.
    async fn ack(&self) -> Result<(), BusError>;
    /// Still at work: `ack_wait` starts again.
    async fn progress(&self) -> Result<(), BusError>;
    /// Give it to somebody else, after `delay`.
    async fn give_back(&self, delay: Duration) -> Result<(), BusError>;
    /// Never deliver it again.
    async fn terminate(&self) -> Result<(), BusError>;
}

/// Takes messages from a stream.
#[async_trait]
pub trait Consumer: Send + Sync {
    /// Waits up to `wait` for at least one message and returns at most `max`. Empty when none came. Nothing is
    /// taken beyond what is returned; dropping the future loses no message.
    async fn fetch(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>, BusError>;
}

/// A message on a subscribed subject.
pub struct Incoming {
    /// Where it was sent.
    pub subject: Subject,
    /// What it says.
    pub payload: Bytes,
    /// Answers it, when it asks for an answer.
    pub reply: Option<Box<dyn Reply>>,
}

/// The right to answer one request, once.
#[async_trait]
pub trait Reply: Send + Sync {
    /// Sends the answer. Somebody who no longer waits is not an error.
    async fn send(self: Box<Self>, payload: Bytes) -> Result<(), BusError>;
}

/// Messages of the subscribed subjects, in the order sent by each sender. A subscriber that falls too far behind
/// loses messages, as on any broker without storage: the count of lost ones is reported.
#[async_trait]
pub trait Subscription: Send {
    /// The next message; none when the bus is closed. Cancel-safe.
    async fn next(&mut self) -> Option<Incoming>;
    /// Messages lost because this subscriber was slow, since it began.
    fn lost(&self) -> u64;
}

/// How bytes travel between processes.
#[async_trait]
pub trait Bus: Send + Sync + 'static {
    /// Sends to whoever listens now; nobody listening is not an error.
    async fn publish(&self, subject: &Subject, payload: Bytes) -> Result<(), BusError>;

    /// Listens to a subject, which may end in `>` or contain `*`.
    async fn subscribe(&self, pattern: &Subject) -> Result<Box<dyn Subscription>, BusError>;

    /// Asks and waits for one answer. [`BusError::NoResponders`] at once when nobody listens.
    async fn request(&self, subject: &Subject, payload: Bytes, timeout: Duration) -> Result<Bytes, BusError>;

    /// Creates a stream, or gives an existing one these rules; its messages stay.
    async fn ensure_stream(&self, stream: StreamName, rules: StreamRules) -> Result<(), BusError>;

    /// Stores a message; when this returns `Ok`, it is safe. `message_id` is unique for what the message says.
    /// After [`BusError::Timeout`] or [`BusError::Closed`] it may or may not be stored: send it again with the same id.
    async fn enqueue(
        &self,
        stream: StreamName,
        subject: &Subject,
        message_id: &str,
        payload: Bytes,
    ) -> Result<Enqueued, BusError>;

    /// Joins (or creates) a consumer. Consumers of different names may not take the same requests; usage and dead
    /// letters may stay for other readers, as far as the bus keeps them.
    async fn consumer(&self, spec: ConsumerSpec) -> Result<Box<dyn Consumer>, BusError>;

    /// Messages of a stream that are not yet acknowledged, over all subjects.
    async fn pending(&self, stream: StreamName) -> Result<u64, BusError>;
}
