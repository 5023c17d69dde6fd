//! The streams on the servers: made, given their rules, made again when a restart lost them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use super::api::{self, CallError, call, code, number};
use super::link::Link;
use super::options::NatsStorage;
use crate::{BusError, StreamName, StreamRules};

/// The servers take no shorter window.
const SHORTEST_WINDOW: Duration = Duration::from_millis(100);
/// How many of the messages that are done go at once when a stream needs room: one in so many.
const PURGED_SHARE: u64 = 10;
/// How often a stream that another process makes at the same moment is looked at again.
const TRIES: usize = 3;

/// The streams this process has given rules to.
pub(super) struct Streams {
    link: Arc<Link>,
    known: Mutex<HashMap<StreamName, StreamRules>>,
}

pub(super) fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

impl Streams {
    pub(super) fn new(link: Arc<Link>) -> Self {
        Self {
            link,
            known: Mutex::default(),
        }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<StreamName, StreamRules>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the stream or gives it these rules.
    pub(super) async fn ensure(&self, stream: StreamName, rules: StreamRules) -> Result<(), BusError> {
        let mut last = None;
        for _ in 0..TRIES {
            let done = match self.info(stream).await {
                Ok(info) => self.follow(stream, rules, &info["config"]).await,
                Err(error) if error.is(code::STREAM_NOT_FOUND) => self.create(stream, rules).await,
                Err(error) => Err(error),
            };
            match done {
                Ok(()) => {
                    self.known().insert(stream, rules);
                    return Ok(());
                }
                // Another process made it between the look and the call.
                Err(error) if error.is(code::STREAM_NAME_IN_USE) => last = Some(error),
                Err(error) => return Err(error.into()),
            }
        }
        Err(last.expect("at least one try").into())
    }

    /// Makes the stream again when it is gone and its rules are known here. Changes nothing that is there.
    pub(super) async fn restore(&self, stream: StreamName) -> Result<(), BusError> {
        let rules = self.known().get(&stream).copied();
        match self.info(stream).await {
            Ok(_) => Ok(()),
            Err(error) if error.is(code::STREAM_NOT_FOUND) => {
                let rules = rules.ok_or(BusError::NoStream {
                    stream: stream.name(),
                })?;
                tracing::warn!(stream = stream.name(), "the stream is gone and made again");
                self.ensure(stream, rules).await
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Makes all streams again that are gone.
    pub(super) async fn restore_all(&self) -> Result<(), BusError> {
        let known: Vec<StreamName> = self.known().keys().copied().collect();
        for stream in known {
            self.restore(stream).await?;
        }
        Ok(())
    }

    async fn info(&self, stream: StreamName) -> Result<Value, CallError> {
        call(
            &self.link,
            &format!("STREAM.INFO.{}", stream.name()),
            &Value::Null,
        )
        .await
    }

    async fn create(&self, stream: StreamName, rules: StreamRules) -> Result<(), CallError> {
        let options = &self.link.options;
        let mut config = json!({
            "name": stream.name(),
            "retention": retention(stream),
            "storage": match storage(stream, options.request_storage) {
                NatsStorage::File => "file",
                NatsStorage::Memory => "memory",
            },
            "num_replicas": options.replicas,
            "max_consumers": -1,
            "max_bytes": -1,
            "max_msg_size": -1,
            "max_msgs_per_subject": -1,
        });
        apply(&mut config, stream, rules);
        call(&self.link, &format!("STREAM.CREATE.{}", stream.name()), &config).await?;
        Ok(())
    }

    /// Changes what the rules say and leaves the rest to whoever runs the servers.
    async fn follow(&self, stream: StreamName, rules: StreamRules, config: &Value) -> Result<(), CallError> {
        if config["retention"] != retention(stream) {
            let text = format!(
                "stream {} keeps its messages by {}, not by {}",
                stream.name(),
                config["retention"],
                retention(stream)
            );
            return Err(BusError::Refused(text).into());
        }
        let mut wanted = config.clone();
        apply(&mut wanted, stream, rules);
        if wanted != *config {
            call(&self.link, &format!("STREAM.UPDATE.{}", stream.name()), &wanted).await?;
        }
        Ok(())
    }

    /// Messages that are not yet done.
    pub(super) async fn pending(&self, stream: StreamName) -> Result<u64, BusError> {
        if stream == StreamName::Usage {
            match self.usage_consumer().await {
                Ok(info) => return Ok(number(&info, "/num_pending") + number(&info, "/num_ack_pending")),
                Err(error) if error.is(code::CONSUMER_NOT_FOUND) || error.is(code::STREAM_NOT_FOUND) => {}
                Err(error) => return Err(error.into()),
            }
        }
        match self.info(stream).await {
            Ok(info) => Ok(number(&info, "/state/messages")),
            Err(error) if error.is(code::STREAM_NOT_FOUND) => Err(BusError::NoStream {
                stream: stream.name(),
            }),
            Err(error) => Err(error.into()),
        }
    }

    async fn usage_consumer(&self) -> Result<Value, CallError> {
        let (stream, consumer) = (StreamName::Usage.name(), &self.link.options.usage_consumer);
        call(
            &self.link,
            &format!("CONSUMER.INFO.{stream}.{consumer}"),
            &Value::Null,
        )
        .await
    }

    /// Usage events stay after they are done, for whoever reads them later, as long as there is room. When there is
    /// none, the oldest of those that are done go. Whether any went.
    pub(super) async fn make_room(&self, stream: StreamName) -> Result<bool, BusError> {
        if stream != StreamName::Usage {
            return Ok(false);
        }
        let done_to = match self.usage_consumer().await {
            Ok(info) => number(&info, "/ack_floor/stream_seq"),
            Err(error) if error.is(code::CONSUMER_NOT_FOUND) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let info = self.info(stream).await?;
        let (first, held) = (
            number(&info, "/state/first_seq"),
            number(&info, "/state/messages"),
        );
        // All before this one go.
        let keep_from = (done_to + 1).min(first + held.div_ceil(PURGED_SHARE));
        if keep_from <= first {
            return Ok(false);
        }
        let purge = format!("STREAM.PURGE.{}", stream.name());
        call(&self.link, &purge, &json!({ "seq": keep_from })).await?;
        Ok(true)
    }
}

/// Requests belong to one worker and are gone when they are done. Usage and dead letters stay for other readers.
fn retention(stream: StreamName) -> &'static str {
    match stream {
        StreamName::Requests => "workqueue",
        StreamName::Usage | StreamName::DeadLetters => "limits",
    }
}

fn storage(stream: StreamName, requests: NatsStorage) -> NatsStorage {
    match stream {
        StreamName::Requests => requests,
        StreamName::Usage | StreamName::DeadLetters => NatsStorage::File,
    }
}

fn apply(config: &mut Value, stream: StreamName, rules: StreamRules) {
    // The servers refuse a window longer than the messages live.
    let window = rules.dedup_window.max(SHORTEST_WINDOW).min(rules.max_age);
    config["subjects"] = json!([stream.subjects()]);
    config["discard"] = json!("new");
    config["max_msgs"] = json!(i64::try_from(rules.max_messages).unwrap_or(i64::MAX));
    config["max_age"] = json!(nanos(rules.max_age));
    config["duplicate_window"] = json!(nanos(window));
}

/// Reads the answer to a stored message, or why it was not stored.
pub(super) fn read_stored(stream: StreamName, payload: &[u8]) -> Result<bool, BusError> {
    match api::read(payload) {
        Ok(answer) => Ok(answer["duplicate"] == true),
        Err(CallError::Fault(fault))
            if fault.err_code == code::STORE_FAILED && fault.description.contains("maximum") =>
        {
            Err(BusError::Full {
                stream: stream.name(),
            })
        }
        Err(error) => Err(error.into()),
    }
}
