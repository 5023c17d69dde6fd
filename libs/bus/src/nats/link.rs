//! One connection, with a limit on every wait.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, HeaderMap, Message, PublishErrorKind, Request, RequestErrorKind};
use bytes::Bytes;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::health::Health;
use super::options::NatsOptions;
use crate::{BusError, Subject};

/// What all parts of a bus share.
pub(super) struct Link {
    pub(super) client: Client,
    pub(super) health: Arc<Health>,
    pub(super) options: NatsOptions,
    pub(super) closed: CancellationToken,
    /// Everything that runs beside the callers.
    pub(super) tasks: TaskTracker,
}

/// An answer, and whether the question was asked more than once.
pub(super) struct Answer {
    pub(super) message: Message,
    pub(super) was_repeated: bool,
}

pub(super) fn closed() -> BusError {
    BusError::Closed("shut down".to_owned())
}

pub(super) fn in_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Link {
    pub(super) fn check_open(&self) -> Result<(), BusError> {
        if self.closed.is_cancelled() {
            Err(closed())
        } else {
            Ok(())
        }
    }

    /// Sends without waiting for anybody, through a connection that may be down for a while.
    pub(super) async fn send(
        &self,
        subject: &str,
        reply: Option<String>,
        payload: Bytes,
    ) -> Result<(), BusError> {
        self.check_open()?;
        let bytes = payload.len();
        let sending = async {
            match reply {
                None => self.client.publish(subject.to_owned(), payload).await,
                Some(reply) => {
                    let subject = subject.to_owned();
                    self.client.publish_with_reply(subject, reply, payload).await
                }
            }
        };
        match timeout(self.options.publish_timeout, sending).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(match error.kind() {
                PublishErrorKind::MaxPayloadExceeded => self.too_large(bytes),
                PublishErrorKind::InvalidSubject => invalid(subject),
                PublishErrorKind::Send => BusError::Closed(error.to_string()),
            }),
            Err(_) => Err(BusError::Closed("the connection is down or too slow".to_owned())),
        }
    }

    /// Asks once and waits for one answer.
    pub(super) async fn ask_once(
        &self,
        subject: &str,
        headers: Option<&HeaderMap>,
        payload: Bytes,
        deadline: Instant,
    ) -> Result<Message, BusError> {
        self.check_open()?;
        let began = Instant::now();
        let bytes = payload.len();
        let mut request = Request::new().payload(payload);
        if let Some(headers) = headers {
            request = request.headers(headers.clone());
        }
        tokio::select! {
            biased;
            answer = self.client.send_request(subject.to_owned(), request) => answer.map_err(|error| {
                match error.kind() {
                    RequestErrorKind::NoResponders => BusError::NoResponders { subject: subject.to_owned() },
                    RequestErrorKind::MaxPayloadExceeded => self.too_large(bytes),
                    RequestErrorKind::InvalidSubject => invalid(subject),
                    RequestErrorKind::TimedOut | RequestErrorKind::Other => BusError::Closed(error.to_string()),
                }
            }),
            () = self.closed.cancelled() => Err(closed()),
            reason = self.health.fatal() => Err(BusError::Refused(reason.to_string())),
            () = tokio::time::sleep_until(deadline) => Err(BusError::Timeout {
                subject: subject.to_owned(),
                waited_ms: in_ms(began.elapsed()),
            }),
        }
    }

    /// Asks, and asks again when the connection was made anew meanwhile: only for what may be done twice.
    pub(super) async fn ask(
        &self,
        subject: &str,
        headers: Option<&HeaderMap>,
        payload: Bytes,
    ) -> Result<Answer, BusError> {
        let deadline = Instant::now() + self.options.call_timeout;
        let mut line = self.health.line();
        let mut was_repeated = false;
        loop {
            let connections = line.borrow_and_update().connections;
            let asked = tokio::select! {
                biased;
                asked = self.ask_once(subject, headers, payload.clone(), deadline) => Some(asked),
                _ = line.wait_for(|line| line.connections > connections) => None,
            };
            match asked {
                Some(asked) => {
                    return asked.map(|message| Answer {
                        message,
                        was_repeated,
                    });
                }
                None => was_repeated = true,
            }
        }
    }

    fn too_large(&self, bytes: usize) -> BusError {
        let limit_bytes = self.client.max_payload();
        BusError::TooLarge { bytes, limit_bytes }
    }
}

pub(super) fn invalid(subject: &str) -> BusError {
    BusError::InvalidSubject {
        subject: subject.to_owned(),
    }
}

/// Checks that a message can be sent to it.
pub(super) fn literal(subject: &Subject) -> Result<&str, BusError> {
    if subject.is_literal() {
        Ok(subject.as_str())
    } else {
        Err(invalid(subject.as_str()))
    }
}
