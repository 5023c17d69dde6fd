//! Pulling messages for one member of a consumer.
//!
//! The server is asked for as many messages as there is room for: it sends what it has at once, or waits for the first
//! to come, and the pull is over with them. A task keeps the pull, because whoever fetches may leave: what comes then
//! is given back at once, and the next fetch takes over the pull, so a member never has two waiting.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Message, Subscriber};
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use serde_json::json;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::consumer::{IfThere, create};
use super::health::Line;
use super::link::{Link, closed};
use super::streams::{Streams, nanos};
use crate::{BusError, ConsumerSpec};

/// The longest a pull waits at the server: a member that leaves is forgotten after this.
const LONGEST_PULL: Duration = Duration::from_secs(5);
/// How much later than agreed the server's word about a pull's end may come.
const GRACE: Duration = Duration::from_secs(1);
/// Messages of one pull come together; after this long without one, it is over.
const BETWEEN: Duration = Duration::from_millis(100);
/// Pause when other members' pulls take what is there just now.
const AFTER_OTHERS: Duration = Duration::from_millis(20);
/// Pause before a lost consumer is made again.
const BEFORE_REPAIR: Duration = Duration::from_millis(100);

/// A fetch.
pub(super) struct Order {
    pub(super) max: usize,
    pub(super) deadline: Instant,
    pub(super) answer: oneshot::Sender<Result<Vec<Taken>, BusError>>,
}

/// A message taken from the server. Unless it reaches somebody who keeps it, it is given back at once.
pub(super) struct Taken {
    link: Arc<Link>,
    message: Option<Message>,
}

impl Taken {
    /// The message, whose fate is now in the caller's hands.
    pub(super) fn keep(mut self) -> Message {
        self.message.take().expect("taken only here and when dropped")
    }

    /// Which delivery of this message this is, from 1.
    pub(super) fn delivery_count(&self) -> u32 {
        let reply = self.message.as_ref().and_then(|message| message.reply.as_ref());
        reply.and_then(|reply| count_of(reply)).unwrap_or(1)
    }
}

/// Reads the count from `$JS.ACK.<stream>.<consumer>.<count>.…`, which servers may lengthen by two tokens in front.
fn count_of(reply: &str) -> Option<u32> {
    let tokens: Vec<&str> = reply.split('.').collect();
    let index = if tokens.len() >= 11 { 6 } else { 4 };
    tokens.get(index)?.parse().ok()
}

impl Drop for Taken {
    fn drop(&mut self) {
        let Some(reply) = self.message.take().and_then(|message| message.reply) else {
            return;
        };
        // Done at once while the client's queue has room. If not, the message comes again after `ack_wait`.
        let said = self.link.client.publish(reply, Bytes::from_static(b"-NAK"));
        let _said = tokio::task::unconstrained(said).now_or_never();
    }
}

/// A pull the server knows of.
struct Pull {
    number: u64,
    /// Messages it may still bring.
    left: usize,
    ends: Instant,
}

/// What the puller waited for.
enum Heard {
    Message(Taken),
    /// The pull of this number is over.
    End(u64),
    /// The server has no such consumer, or is about to leave.
    Broken,
    /// The connection was lost or made anew: the server has forgotten every pull.
    Cut,
    Silence,
}

/// Pulls for one member, one order after the other.
pub(super) struct Puller {
    link: Arc<Link>,
    streams: Arc<Streams>,
    spec: ConsumerSpec,
    /// Pull number n asks for its messages to be sent to `<inbox>.<n>`.
    inbox: String,
    arrivals: Subscriber,
    line: watch::Receiver<Line>,
    pull: Option<Pull>,
    next_number: u64,
}

impl Puller {
    pub(super) async fn start(
        link: &Arc<Link>,
        streams: &Arc<Streams>,
        spec: ConsumerSpec,
    ) -> Result<mpsc::Sender<Order>, BusError> {
        let inbox = link.client.new_inbox();
        let subscribed = link.client.subscribe(format!("{inbox}.*")).await;
        let puller = Self {
            arrivals: subscribed.map_err(|error| BusError::Closed(error.to_string()))?,
            link: Arc::clone(link),
            streams: Arc::clone(streams),
            spec,
            inbox,
            line: link.health.line(),
            pull: None,
            next_number: 0,
        };
        let (orders, receiver) = mpsc::channel(1);
        link.tasks.spawn(puller.run(receiver));
        Ok(orders)
    }

    async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        let closed = self.link.closed.clone();
        loop {
            let order = tokio::select! {
                biased;
                () = closed.cancelled() => return,
                order = orders.recv() => order,
                // Nobody asks: what a left pull brings is given back.
                heard = self.hear(None), if self.pull.is_some() => {
                    if heard.is_err() {
                        self.pull = None;
                    }
                    continue;
                }
            };
            match order {
                Some(order) => self.serve(order).await,
                None => break,
            }
        }
        // The consumer is gone, its last pull may not be.
        while let Some(ends) = self.pull.as_ref().map(|pull| pull.ends) {
            if Instant::now() >= ends + GRACE || self.hear(Some(ends + GRACE)).await.is_err() {
                return;
            }
        }
    }

    async fn serve(&mut self, mut order: Order) {
        let answer = tokio::select! {
            biased;
            // Whoever asked has left. What was taken is given back, the pull stays for the next order.
            () = order.answer.closed() => return,
            answer = self.collect(order.max, order.deadline) => answer,
        };
        // To somebody who has just left: dropped, and so given back.
        let _unsent = order.answer.send(answer);
    }

    async fn collect(&mut self, max: usize, deadline: Instant) -> Result<Vec<Taken>, BusError> {
        let mut taken = Vec::new();
        // A pull that was left waits for the first message, and an order that cannot wait needs an answer now.
        let mut probe = None;
        if self.pull.is_some() && deadline <= Instant::now() {
            probe = Some(self.send_pull(max, Duration::ZERO).await?);
        }
        let mut was_asked = probe.is_some();
        loop {
            if self.pull.is_none() && probe.is_none() {
                if was_asked && Instant::now() >= deadline {
                    return Ok(taken);
                }
                self.open(max, deadline).await?;
                was_asked = true;
            }
            match self.hear(Some(self.patience(&taken, probe, deadline))).await? {
                Heard::Message(message) => {
                    taken.push(message);
                    if taken.len() == max || self.pull.is_none() && probe.is_none() {
                        return Ok(taken);
                    }
                }
                Heard::End(number) if probe == Some(number) => return Ok(taken),
                Heard::End(_) | Heard::Cut if !taken.is_empty() => return Ok(taken),
                Heard::End(_) if Instant::now() < deadline => sleep(AFTER_OTHERS).await,
                Heard::End(_) => {}
                Heard::Cut => probe = None,
                Heard::Broken if !taken.is_empty() => return Ok(taken),
                Heard::Broken => {
                    probe = None;
                    self.repair().await?;
                }
                Heard::Silence if !taken.is_empty() || Instant::now() >= deadline => return Ok(taken),
                Heard::Silence => {}
            }
        }
    }

    /// How long to listen before something must be done.
    fn patience(&self, taken: &[Taken], probe: Option<u64>, deadline: Instant) -> Instant {
        if !taken.is_empty() {
            return Instant::now() + BETWEEN;
        }
        match &self.pull {
            // The order's own pull ends with it; the server says when.
            Some(pull) if probe.is_none() && pull.ends <= deadline => pull.ends + GRACE,
            Some(_) if probe.is_none() => deadline,
            Some(_) | None => Instant::now() + GRACE,
        }
    }

    /// Asks the server for messages, when it can be reached.
    async fn open(&mut self, max: usize, deadline: Instant) -> Result<(), BusError> {
        let is_up = tokio::select! {
            biased;
            _ = self.line.wait_for(|line| line.is_up) => true,
            () = self.link.closed.cancelled() => return Err(closed()),
            reason = self.link.health.fatal() => return Err(BusError::Refused(reason.to_string())),
            () = sleep_until(deadline) => false,
        };
        if !is_up {
            return Err(BusError::Closed("there is no connection".to_owned()));
        }
        let wait = deadline
            .saturating_duration_since(Instant::now())
            .min(LONGEST_PULL);
        let number = self.send_pull(max, wait).await?;
        self.pull = Some(Pull {
            number,
            left: max,
            ends: Instant::now() + wait,
        });
        Ok(())
    }

    async fn send_pull(&mut self, max: usize, wait: Duration) -> Result<u64, BusError> {
        self.next_number += 1;
        let number = self.next_number;
        // A pull that does not wait takes what is there; with `expires` it waits for the first, then the same.
        let mut body = json!({ "batch": max, "no_wait": true });
        if wait >= Duration::from_millis(1) {
            body["expires"] = json!(nanos(wait));
        }
        let next = format!(
            "$JS.API.CONSUMER.MSG.NEXT.{}.{}",
            self.spec.stream.name(),
            self.spec.name
        );
        let reply = format!("{}.{number}", self.inbox);
        self.link
            .send(&next, Some(reply), Bytes::from(body.to_string()))
            .await?;
        Ok(number)
    }

    /// Listens until something comes. Cancel-safe.
    async fn hear(&mut self, until: Option<Instant>) -> Result<Heard, BusError> {
        let silence = async {
            match until {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        let message = tokio::select! {
            biased;
            () = self.link.closed.cancelled() => return Err(closed()),
            _ = self.line.changed() => {
                self.pull = None;
                return Ok(Heard::Cut);
            }
            message = self.arrivals.next() => message.ok_or_else(closed)?,
            reason = self.link.health.fatal() => return Err(BusError::Refused(reason.to_string())),
            () = silence => {
                self.pull.take_if(|pull| Instant::now() >= pull.ends + GRACE);
                return Ok(Heard::Silence);
            }
        };
        Ok(self.sort(message))
    }

    fn sort(&mut self, message: Message) -> Heard {
        match message.status.map(|status| status.as_u16()) {
            None => {
                self.pull.take_if(|pull| {
                    pull.left = pull.left.saturating_sub(1);
                    pull.left == 0
                });
                Heard::Message(Taken {
                    link: Arc::clone(&self.link),
                    message: Some(message),
                })
            }
            // Nothing there, or nothing came, or others wait for what is there.
            Some(404 | 408) => {
                let number = message
                    .subject
                    .rsplit_once('.')
                    .and_then(|(_, number)| number.parse().ok());
                self.pull.take_if(|pull| Some(pull.number) == number);
                Heard::End(number.unwrap_or(0))
            }
            Some(_) => {
                self.pull = None;
                Heard::Broken
            }
        }
    }

    /// The consumer, or its whole stream, is gone: a restarted server keeps nothing that was in memory.
    async fn repair(&self) -> Result<(), BusError> {
        sleep(BEFORE_REPAIR).await;
        self.streams.restore(self.spec.stream).await?;
        create(&self.link, &self.spec, IfThere::Keep).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delivery_count_is_read_from_both_forms() {
        assert_eq!(
            count_of("$JS.ACK.VL_REQ.all.3.10.4.1700000000000000000.0"),
            Some(3)
        );
        assert_eq!(
            count_of("$JS.ACK._.hash.VL_REQ.all.2.10.4.1700000000000000000.0.x"),
            Some(2)
        );
        assert_eq!(count_of("$JS.ACK.short"), None);
    }
}
