//! Calls to the part of the server that keeps streams: JSON there and back, faults by number.

use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;

use super::link::Link;
use crate::BusError;

/// The faults that are told apart, by the server's numbers.
pub(super) mod code {
    pub(crate) const CONSUMER_NOT_FOUND: u32 = 10_014;
    pub(crate) const CONSUMER_NOT_UNIQUE: u32 = 10_100;
    pub(crate) const CONSUMERS_WITHOUT_FILTER: u32 = 10_099;
    pub(crate) const CONSUMER_EXISTS: u32 = 10_148;
    pub(crate) const STREAM_NAME_IN_USE: u32 = 10_058;
    pub(crate) const STREAM_NOT_FOUND: u32 = 10_059;
    pub(crate) const STORE_FAILED: u32 = 10_077;
    /// The servers elect who decides.
    pub(crate) const NOT_AVAILABLE: u32 = 10_008;
    /// The first message with this id is still being stored.
    pub(crate) const DUPLICATE_IN_PROCESS: u32 = 10_158;
}

/// Pause before a call that a server could not serve just now.
const AFTER_UNAVAILABLE: Duration = Duration::from_millis(100);

/// What the server has against a call.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub(super) struct Fault {
    #[serde(default)]
    pub(super) err_code: u32,
    #[serde(default)]
    pub(super) description: String,
}

impl Fault {
    fn will_pass(&self) -> bool {
        [code::NOT_AVAILABLE, code::DUPLICATE_IN_PROCESS].contains(&self.err_code)
    }
}

/// A failed call.
#[derive(Debug)]
pub(super) enum CallError {
    /// The server answered, with a fault.
    Fault(Fault),
    /// There was no answer.
    Bus(BusError),
}

impl From<BusError> for CallError {
    fn from(error: BusError) -> Self {
        Self::Bus(error)
    }
}

impl CallError {
    /// Whether the server answered with this fault.
    pub(super) fn is(&self, code: u32) -> bool {
        match self {
            Self::Fault(fault) => fault.err_code == code,
            Self::Bus(_) => false,
        }
    }
}

impl From<CallError> for BusError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Bus(error) => error,
            CallError::Fault(fault) => {
                let text = format!("{} ({})", fault.description, fault.err_code);
                if fault.will_pass() {
                    Self::Closed(text)
                } else {
                    Self::Refused(text)
                }
            }
        }
    }
}

/// Reads an answer: its content or the fault in it.
pub(super) fn read(payload: &[u8]) -> Result<Value, CallError> {
    let unreadable = || BusError::Refused("an answer that cannot be read".to_owned());
    let mut answer: Value = serde_json::from_slice(payload).map_err(|_| unreadable())?;
    match answer.get_mut("error").map(Value::take) {
        None => Ok(answer),
        Some(fault) => {
            let fault = serde_json::from_value(fault).map_err(|_| unreadable())?;
            Err(CallError::Fault(fault))
        }
    }
}

/// Calls `$JS.API.<call>`. Only for calls that may be made twice. A server that cannot answer just now is asked again.
pub(super) async fn call(link: &Link, call: &str, body: &Value) -> Result<Value, CallError> {
    let subject = format!("$JS.API.{call}");
    let body = if body.is_null() {
        Bytes::new()
    } else {
        Bytes::from(body.to_string())
    };
    let deadline = Instant::now() + link.options.call_timeout;
    loop {
        let answer = match link.ask(&subject, None, body.clone()).await {
            Ok(answer) => read(&answer.message.payload),
            Err(BusError::NoResponders { .. }) => {
                let text = "the NATS servers offer no streams: is JetStream on?";
                Err(BusError::Closed(text.to_owned()).into())
            }
            Err(error) => Err(error.into()),
        };
        match answer {
            Err(CallError::Fault(fault)) if fault.will_pass() && Instant::now() < deadline => {
                tokio::time::sleep(AFTER_UNAVAILABLE).await;
            }
            answer => return answer,
        }
    }
}

/// A number at a place in an answer.
pub(super) fn number(answer: &Value, pointer: &str) -> u64 {
    answer.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_told_from_an_answer() {
        let full =
            br#"{"error":{"code":503,"err_code":10077,"description":"maximum messages exceeded"},"seq":0}"#;
        assert!(read(full).is_err_and(|error| error.is(code::STORE_FAILED)));
        assert_eq!(number(&read(br#"{"a":{"b":7}}"#).unwrap(), "/a/b"), 7);
        assert!(matches!(
            read(b"nonsense"),
            Err(CallError::Bus(BusError::Refused(_)))
        ));
    }
}
