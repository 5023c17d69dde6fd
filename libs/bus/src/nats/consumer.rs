//! Joining a consumer, and settling what it delivers.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::api::{CallError, call, code};
use super::link::{Link, closed};
use super::pull::{Order, Taken};
use super::streams::nanos;
use crate::{BusError, Consumer, ConsumerSpec, Delivery, DeliveryControl, StreamName, Subject};

/// Waiting members of one consumer at most: workers of one model and queue.
const MAX_WAITING: u32 = 4096;
/// A wait without an end would overflow the clock; this one is as good.
const LONGEST_WAIT: Duration = Duration::from_secs(30 * 86_400);

/// What to do with a consumer that is there already.
#[derive(Clone, Copy)]
pub(super) enum IfThere {
    /// Give it these settings.
    Change,
    /// Leave it.
    Keep,
}

/// Makes the consumer.
pub(super) async fn create(link: &Link, spec: &ConsumerSpec, if_there: IfThere) -> Result<(), BusError> {
    let stream = spec.stream.name();
    let max_deliver = match spec.max_deliver {
        u32::MAX => -1,
        count => i64::from(count),
    };
    let body = json!({
        "stream_name": stream,
        "action": match if_there {
            IfThere::Change => "",
            IfThere::Keep => "create",
        },
        "config": {
            "durable_name": spec.name,
            "name": spec.name,
            "filter_subject": spec.filter.as_str(),
            "deliver_policy": "all",
            "replay_policy": "instant",
            "ack_policy": "explicit",
            "ack_wait": nanos(spec.ack_wait),
            "max_deliver": max_deliver,
            // Whoever fetches has room for what it asked for; there is no other limit.
            "max_ack_pending": -1,
            "max_waiting": MAX_WAITING,
        },
    });
    let subject = format!("CONSUMER.CREATE.{stream}.{}.{}", spec.name, spec.filter);
    match call(link, &subject, &body).await {
        Ok(_) => Ok(()),
        Err(error) if error.is(code::CONSUMER_EXISTS) => Ok(()),
        Err(error) if error.is(code::STREAM_NOT_FOUND) => Err(BusError::NoStream { stream }),
        Err(error) if error.is(code::CONSUMER_NOT_UNIQUE) || error.is(code::CONSUMERS_WITHOUT_FILTER) => {
            Err(BusError::Overlap {
                stream,
                name: spec.name.clone(),
                other: overlapping(link, spec)
                    .await
                    .unwrap_or_else(|_| "(unknown)".to_owned()),
            })
        }
        Err(error) => Err(error.into()),
    }
}

/// The consumer that takes some of the same messages.
async fn overlapping(link: &Link, spec: &ConsumerSpec) -> Result<String, CallError> {
    let list = format!("CONSUMER.LIST.{}", spec.stream.name());
    let answer = call(link, &list, &json!({ "offset": 0 })).await?;
    let consumers = answer["consumers"].as_array().map_or(&[][..], Vec::as_slice);
    let takes_same = |consumer: &&Value| {
        let filter = consumer["config"]["filter_subject"].as_str().unwrap_or(">");
        Subject::new(filter).overlaps(&spec.filter)
    };
    let name = consumers
        .iter()
        .find(takes_same)
        .and_then(|consumer| consumer["name"].as_str());
    Ok(name.unwrap_or("(unknown)").to_owned())
}

/// One member of a consumer. Its pulling is done by a task of its own, so that a dropped fetch loses nothing.
pub(super) struct NatsConsumer {
    pub(super) stream: StreamName,
    pub(super) link: Arc<Link>,
    pub(super) orders: mpsc::Sender<Order>,
}

#[async_trait]
impl Consumer for NatsConsumer {
    async fn fetch(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>, BusError> {
        self.link.check_open()?;
        if max == 0 {
            return Ok(Vec::new());
        }
        let (answer, answered) = oneshot::channel();
        let order = Order {
            max,
            deadline: Instant::now() + wait.min(LONGEST_WAIT),
            answer,
        };
        self.orders.send(order).await.map_err(|_| closed())?;
        let taken = answered.await.map_err(|_| closed())??;
        Ok(taken.into_iter().map(|taken| self.delivery(taken)).collect())
    }
}

impl NatsConsumer {
    fn delivery(&self, taken: Taken) -> Delivery {
        let delivery_count = taken.delivery_count();
        let message = taken.keep();
        let control = NatsControl {
            stream: self.stream,
            link: Arc::clone(&self.link),
            settle: message.reply.map(|reply| reply.to_string()).unwrap_or_default(),
        };
        Delivery {
            subject: Subject::new(message.subject.as_str()),
            payload: message.payload,
            delivery_count,
            control: Box::new(control),
        }
    }
}

/// The right to settle one delivery.
struct NatsControl {
    stream: StreamName,
    link: Arc<Link>,
    /// Where words about this delivery go.
    settle: String,
}

impl NatsControl {
    /// Says how it ended and waits until the server has heard it. Saying it twice does no harm.
    async fn end(&self, word: &'static [u8]) -> Result<(), BusError> {
        match self.link.ask(&self.settle, None, Bytes::from_static(word)).await {
            Ok(_) => Ok(()),
            // Nobody keeps this stream any more, and the message is gone with it.
            Err(BusError::NoResponders { .. }) => Err(BusError::NoStream {
                stream: self.stream.name(),
            }),
            Err(error) => Err(error),
        }
    }
}

#[async_trait]
impl DeliveryControl for NatsControl {
    async fn ack(&self) -> Result<(), BusError> {
        self.end(b"+ACK").await
    }

    async fn progress(&self) -> Result<(), BusError> {
        self.link
            .send(&self.settle, None, Bytes::from_static(b"+WPI"))
            .await
    }

    async fn give_back(&self, delay: Duration) -> Result<(), BusError> {
        let word = if delay.is_zero() {
            Bytes::from_static(b"-NAK")
        } else {
            Bytes::from(format!("-NAK {{\"delay\": {}}}", nanos(delay)))
        };
        self.link.send(&self.settle, None, word).await
    }

    async fn terminate(&self) -> Result<(), BusError> {
        self.end(b"+TERM").await
    }
}
