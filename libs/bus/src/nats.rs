//! A bus over NATS servers: subjects as they are, streams and consumers kept by the servers.
//!
//! Every wait is bounded. A lost connection comes back by itself; calls to streams are repeated over it, and what a
//! restarted server lost is made again. What cannot get better, such as a missing permission, is told by
//! [`NatsBus::fatal`].

mod api;
mod connect;
mod consumer;
mod health;
mod link;
mod options;
mod pull;
mod streams;
mod subscription;

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{HeaderMap, HeaderValue};
use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::consumer::{IfThere, NatsConsumer};
use self::health::Health;
use self::link::{Answer, Link, invalid, literal};
pub use self::options::{
    ConnectError, NatsFatal, NatsLogin, NatsOptions, NatsStorage, NatsTls, OwnCertificate,
};
use self::pull::Puller;
use self::streams::{Streams, read_stored};
use self::subscription::NatsSubscription;
use crate::{
    Bus, BusError, Consumer, ConsumerSpec, Enqueued, StreamName, StreamRules, Subject, Subscription,
};

/// How long closing waits for what is on its way.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);
/// How long the client may take to report the connection it has just made.
const REPORT_LIMIT: Duration = Duration::from_secs(1);

/// A bus over NATS servers.
pub struct NatsBus {
    link: Arc<Link>,
    streams: Arc<Streams>,
}

impl NatsBus {
    /// Connects. Servers that are not up yet are waited for, up to the start limit.
    ///
    /// # Errors
    /// No server in time, a server that is too old or refuses the login, or an address that cannot be used.
    pub async fn connect(options: NatsOptions) -> Result<Self, ConnectError> {
        let health = Arc::new(Health::default());
        let client = connect::connect(&options, &health).await?;
        // From here on a change of the line means a new connection, not the report of this one.
        let mut line = health.line();
        let _reported = timeout(REPORT_LIMIT, line.wait_for(|line| line.connections > 0)).await;
        let link = Arc::new(Link {
            client,
            health,
            options,
            closed: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        let streams = Arc::new(Streams::new(Arc::clone(&link)));
        link.tasks
            .spawn(keep_streams(Arc::clone(&link), Arc::clone(&streams)));
        Ok(Self { link, streams })
    }

    /// Waits until the connection is ended for good: waiting longer, or asking again, does not help.
    pub async fn fatal(&self) -> NatsFatal {
        self.link.health.fatal().await
    }

    /// Whether a server is connected now.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.link.health.line().borrow().is_up
    }

    /// Messages lost inside this process before they reached any subscriber's queue, which counts its own. Not zero
    /// means that this process is far too slow for what it listens to.
    #[must_use]
    pub fn overruns(&self) -> u64 {
        self.link.health.overruns()
    }

    /// Sends what is on its way, ends every wait and refuses every later call.
    pub async fn close(&self) {
        let _flushed = timeout(CLOSE_LIMIT, self.link.client.flush()).await;
        self.link.closed.cancel();
        self.link.tasks.close();
        self.link.tasks.wait().await;
        let _drained = timeout(CLOSE_LIMIT, self.link.client.drain()).await;
    }
}

impl Drop for NatsBus {
    fn drop(&mut self) {
        self.link.closed.cancel();
    }
}

/// After each new connection: looks whether the streams are still there, and whether the server is one to rely on.
async fn keep_streams(link: Arc<Link>, streams: Arc<Streams>) {
    let mut line = link.health.line();
    loop {
        let connections = line.borrow_and_update().connections;
        tokio::select! {
            biased;
            () = link.closed.cancelled() => return,
            changed = line.wait_for(|line| line.connections > connections) => {
                changed.expect("the sender is part of the link");
            }
        }
        tracing::info!("connected to the bus again");
        tokio::select! {
            biased;
            () = link.closed.cancelled() => return,
            () = restore(&link, &streams) => {}
        }
        let version = link.client.server_info().version;
        if !options::is_new_enough(&version) {
            link.health.end(NatsFatal::TooOld { version });
        }
    }
}

async fn restore(link: &Link, streams: &Streams) {
    while let Err(error) = streams.restore_all().await {
        tracing::warn!(%error, "the streams cannot be looked at");
        if !error.is_retryable() || !link.health.line().borrow().is_up {
            return;
        }
        tokio::time::sleep(connect::pause(usize::MAX)).await;
    }
}

#[async_trait]
impl Bus for NatsBus {
    async fn publish(&self, subject: &Subject, payload: Bytes) -> Result<(), BusError> {
        self.link.send(literal(subject)?, None, payload).await
    }

    async fn subscribe(&self, pattern: &Subject) -> Result<Box<dyn Subscription>, BusError> {
        self.link.check_open()?;
        if !pattern.is_pattern() {
            return Err(invalid(pattern.as_str()));
        }
        Ok(Box::new(
            NatsSubscription::start(&self.link, pattern.as_str()).await?,
        ))
    }

    async fn request(&self, subject: &Subject, payload: Bytes, timeout: Duration) -> Result<Bytes, BusError> {
        let deadline = Instant::now() + timeout;
        let asked = self
            .link
            .ask_once(literal(subject)?, None, payload, deadline)
            .await;
        asked.map(|message| message.payload)
    }

    async fn ensure_stream(&self, stream: StreamName, rules: StreamRules) -> Result<(), BusError> {
        self.streams.ensure(stream, rules).await
    }

    async fn enqueue(
        &self,
        stream: StreamName,
        subject: &Subject,
        message_id: &str,
        payload: Bytes,
    ) -> Result<Enqueued, BusError> {
        let name = literal(subject)?;
        if !Subject::new(stream.subjects()).matches(subject) {
            return Err(invalid(name));
        }
        let id = HeaderValue::from_str(message_id).map_err(|_| invalid(message_id))?;
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", id);
        match self.store(stream, name, &headers, payload.clone()).await {
            Err(BusError::NoResponders { .. }) => self.streams.restore(stream).await?,
            Err(BusError::Full { stream: full }) => {
                if !self.streams.make_room(stream).await? {
                    return Err(BusError::Full { stream: full });
                }
            }
            stored => return stored,
        }
        match self.store(stream, name, &headers, payload).await {
            Err(BusError::NoResponders { .. }) => Err(BusError::NoStream {
                stream: stream.name(),
            }),
            stored => stored,
        }
    }

    async fn consumer(&self, spec: ConsumerSpec) -> Result<Box<dyn Consumer>, BusError> {
        let name = Subject::new(&spec.name);
        if !spec.filter.is_pattern() || !name.is_literal() || spec.name.contains('.') {
            return Err(invalid(spec.filter.as_str()));
        }
        match consumer::create(&self.link, &spec, IfThere::Change).await {
            Err(BusError::NoStream { .. }) => {
                self.streams.restore(spec.stream).await?;
                consumer::create(&self.link, &spec, IfThere::Change).await?;
            }
            created => created?,
        }
        let stream = spec.stream;
        Ok(Box::new(NatsConsumer {
            stream,
            orders: Puller::start(&self.link, &self.streams, spec).await?,
            link: Arc::clone(&self.link),
        }))
    }

    async fn pending(&self, stream: StreamName) -> Result<u64, BusError> {
        self.streams.pending(stream).await
    }
}

impl NatsBus {
    async fn store(
        &self,
        stream: StreamName,
        subject: &str,
        headers: &HeaderMap,
        payload: Bytes,
    ) -> Result<Enqueued, BusError> {
        let Answer {
            message,
            was_repeated,
        } = self.link.ask(subject, Some(headers), payload).await?;
        // A repeated message that is there already is this one, stored before its confirmation was lost.
        match read_stored(stream, &message.payload)? {
            true if !was_repeated => Ok(Enqueued::Duplicate),
            true | false => Ok(Enqueued::Stored),
        }
    }
}
