//! A collector of traces: takes OTLP over HTTP and shows the spans it was sent.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, Span};
use prost::Message;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Longer than spans take to come.
const PATIENCE: Duration = Duration::from_secs(30);

/// A span as it arrived. Values of attributes are written as text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReceivedSpan {
    /// `service.name` of whoever sent it.
    pub service: String,
    /// `service.instance.id` of whoever sent it.
    pub instance: String,
    /// 32 hexadecimal digits.
    pub trace_id: String,
    /// 16 hexadecimal digits.
    pub span_id: String,
    /// The same of the span above it; empty for the first one of a trace.
    pub parent_id: String,
    /// What it is a span of.
    pub name: String,
    /// `server`, `consumer`, `client` or `internal`.
    pub kind: &'static str,
    /// Nanoseconds since 1970.
    pub start_ns: u64,
    /// Nanoseconds since 1970.
    pub end_ns: u64,
    /// What it tells.
    pub attributes: BTreeMap<String, String>,
    /// What happened meanwhile.
    pub events: Vec<ReceivedEvent>,
    /// Whether it says that it failed.
    pub failed: bool,
}

/// An event of a span.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReceivedEvent {
    /// What happened.
    pub name: String,
    /// Nanoseconds since 1970.
    pub at_ns: u64,
    /// What it tells.
    pub attributes: BTreeMap<String, String>,
}

impl ReceivedSpan {
    /// The value of an attribute; empty when it has none of this name.
    #[must_use]
    pub fn attribute(&self, key: &str) -> &str {
        self.attributes.get(key).map_or("", String::as_str)
    }
}

/// Listens on a port of its own until it is dropped.
pub struct Collector {
    address: SocketAddr,
    received: Arc<Received>,
    _serving: JoinSet<()>,
}

struct Received {
    spans: Mutex<Vec<ReceivedSpan>>,
    /// How many there are.
    count: watch::Sender<usize>,
}

impl Collector {
    /// Starts to listen.
    ///
    /// # Errors
    /// When there is no port.
    pub async fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let received = Arc::new(Received {
            spans: Mutex::default(),
            count: watch::Sender::new(0),
        });
        let address = listener.local_addr()?;
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, Arc::clone(&received)));
        Ok(Self {
            address,
            received,
            _serving: serving,
        })
    }

    /// For `OTEL_EXPORTER_OTLP_ENDPOINT`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What has come so far.
    #[must_use]
    pub fn spans(&self) -> Vec<ReceivedSpan> {
        self.received.lock().clone()
    }

    /// Waits until what has come is enough.
    ///
    /// # Errors
    /// With the spans that came, when they never are.
    pub async fn until(
        &self,
        enough: impl Fn(&[ReceivedSpan]) -> bool,
    ) -> Result<Vec<ReceivedSpan>, Vec<ReceivedSpan>> {
        let mut count = self.received.count.subscribe();
        let waiting = count.wait_for(|_| enough(&self.received.lock()));
        let came = tokio::time::timeout(PATIENCE, waiting).await.is_ok();
        let spans = self.spans();
        if came { Ok(spans) } else { Err(spans) }
    }
}

impl Received {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<ReceivedSpan>> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, request: ExportTraceServiceRequest) {
        let mut spans = self.lock();
        spans.extend(request.resource_spans.into_iter().flat_map(received));
        let count = spans.len();
        drop(spans);
        self.count.send_replace(count);
    }
}

async fn serve(listener: TcpListener, received: Arc<Received>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let received = Arc::clone(&received);
        // A sender that breaks off loses its own spans.
        connections.spawn(async move { drop(answer(stream, &received).await) });
    }
}

/// One request per connection is all a collector must understand.
async fn answer(stream: TcpStream, received: &Received) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let (mut is_ours, mut length) = (false, 0);
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        is_ours |= line.starts_with("post /v1/traces http/1.1");
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    let request = ExportTraceServiceRequest::decode(&*body).ok().filter(|_| is_ours);
    let status = if request.is_some() {
        "200 OK"
    } else {
        "400 Bad Request"
    };
    if let Some(request) = request {
        received.add(request);
    }
    let head =
        format!("HTTP/1.1 {status}\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n");
    stream.get_mut().write_all(head.as_bytes()).await
}

fn received(sender: ResourceSpans) -> Vec<ReceivedSpan> {
    let resource = attributes(
        sender
            .resource
            .map(|resource| resource.attributes)
            .unwrap_or_default(),
    );
    let of = |key: &str| resource.get(key).cloned().unwrap_or_default();
    let spans = sender.scope_spans.into_iter().flat_map(|scope| scope.spans);
    spans
        .map(|span| ReceivedSpan {
            service: of("service.name"),
            instance: of("service.instance.id"),
            kind: kind(&span),
            failed: span
                .status
                .is_some_and(|status| status.code == StatusCode::Error as i32),
            trace_id: hex(&span.trace_id),
            span_id: hex(&span.span_id),
            parent_id: hex(&span.parent_span_id),
            name: span.name,
            start_ns: span.start_time_unix_nano,
            end_ns: span.end_time_unix_nano,
            attributes: attributes(span.attributes),
            events: span
                .events
                .into_iter()
                .map(|event| ReceivedEvent {
                    name: event.name,
                    at_ns: event.time_unix_nano,
                    attributes: attributes(event.attributes),
                })
                .collect(),
        })
        .collect()
}

fn kind(span: &Span) -> &'static str {
    match span.kind {
        1 => "internal",
        2 => "server",
        3 => "client",
        4 => "producer",
        5 => "consumer",
        _ => "unspecified",
    }
}

fn attributes(pairs: Vec<KeyValue>) -> BTreeMap<String, String> {
    let pairs = pairs
        .into_iter()
        .map(|pair| (pair.key, pair.value.map_or_else(String::new, text)));
    pairs.collect()
}

fn text(value: AnyValue) -> String {
    match value.value {
        Some(Value::StringValue(text)) => text,
        Some(Value::BoolValue(flag)) => flag.to_string(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::DoubleValue(number)) => number.to_string(),
        Some(Value::ArrayValue(array)) => {
            let texts: Vec<_> = array.values.into_iter().map(text).collect();
            texts.join(",")
        }
        other => format!("{other:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
