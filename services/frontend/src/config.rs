//! The frontend's limits in time and number. What a request may hold is in `vlinders_openai_api::LIMITS`.

use std::time::Duration;

use vlinders_openai_api::UnknownFields;

use crate::TapForm;

/// How the frontend behaves. [`FrontendConfig::default`] is fit for production.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrontendConfig {
    /// The queue requests are put into, the last part of `vl.req.<model>.<queue>`.
    pub queue: String,
    /// How long a request may take from acceptance to its last token.
    pub request_deadline: Duration,
    /// How long a client may take to send the first byte, and then the head of a request.
    pub head_deadline: Duration,
    /// How long a client may take to send a body.
    pub body_deadline: Duration,
    /// How long a client may leave us without reading anything before its connection is cut.
    pub stalled_client: Duration,
    /// Text and log-probabilities held for one client that reads slowly.
    pub stream_buffer_bytes: usize,
    /// Silence on a stream after which a comment shows that it lives.
    pub keep_alive: Duration,
    /// How tokens are told to subscribers outside the service. None: they are not.
    pub tap: Option<TapForm>,
    /// Open connections at most.
    pub connections: usize,
    /// Streams that one HTTP/2 connection may have open.
    pub streams_per_connection: u32,
    /// Requests queued or running at most.
    pub requests_in_flight: usize,
    /// Bytes of all bodies held at one time.
    pub body_memory_bytes: usize,
    /// Requests rendered and tokenized at one time.
    pub preparing: usize,
    /// Requests that may wait to be rendered and tokenized.
    pub waiting_to_prepare: usize,
    /// Constraints compiled at one time.
    pub compiling: usize,
    /// Requests that may wait for their constraint to be compiled.
    pub waiting_to_compile: usize,
    /// How old a worker's beacon may be for the worker to count as alive. What a silent one was running goes on elsewhere.
    pub beacon_fresh: Duration,
    /// With nothing in the queue, a request nobody has said a word about for so long is put into it again.
    pub first_token_patience: Duration,
    /// How often a request is put into the queue at most, workers being lost.
    pub max_attempts: u32,
    /// How long running streams may go on once the process is asked to stop.
    pub drain: Duration,
    /// `/metrics` and `/version` answer without a key.
    pub open_metrics: bool,
    /// What to do with fields nobody knows.
    pub unknown_fields: UnknownFields,
}

impl Default for FrontendConfig {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        Self {
            queue: vlinders_wire::subjects::DEFAULT_QUEUE.to_owned(),
            request_deadline: Duration::from_secs(300),
            head_deadline: Duration::from_secs(10),
            body_deadline: Duration::from_secs(30),
            stalled_client: Duration::from_secs(60),
            stream_buffer_bytes: 256 * 1024,
            keep_alive: Duration::from_secs(15),
            tap: None,
            connections: 8192,
            streams_per_connection: 128,
            requests_in_flight: 8192,
            body_memory_bytes: 256 * 1024 * 1024,
            preparing: cores,
            waiting_to_prepare: 512,
            compiling: cores.div_ceil(2),
            waiting_to_compile: 64,
            beacon_fresh: Duration::from_secs(3),
            first_token_patience: Duration::from_secs(30),
            max_attempts: 3,
            drain: Duration::from_secs(20),
            open_metrics: false,
            unknown_fields: UnknownFields::Refuse,
        }
    }
}
