//! Requests to the collector, one a second at most.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};

use crate::http_client::exchange;

/// Posts to one collector. It starts no task and keeps no connection.
#[derive(Debug)]
pub(super) struct Post {
    timeout: Duration,
    /// Why the last request was not answered: the exporter says only that it was not.
    fault: Mutex<Option<String>>,
}

impl Post {
    pub(super) fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            fault: Mutex::default(),
        }
    }

    /// Why the last request was not answered, once.
    pub(super) fn take_fault(&self) -> Option<String> {
        self.fault().take()
    }

    fn fault(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl HttpClient for Post {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let answer = match tokio::time::timeout(self.timeout, exchange(request)).await {
            Ok(answer) => answer,
            Err(_elapsed) => Err(format!("no answer within {} ms", self.timeout.as_millis()).into()),
        };
        *self.fault() = answer.as_ref().err().map(ToString::to_string);
        answer
    }
}
