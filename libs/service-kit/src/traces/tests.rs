//! Spans on their way to a collector that is there, away, slow or unwilling.

use std::future::poll_fn;
use std::sync::Mutex;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

#[path = "../../../../tests/system/src/collector.rs"]
#[expect(unreachable_pub, reason = "public where it lives")]
mod collector;
use collector::Collector;

const STOP: Duration = Duration::from_secs(20);

fn quick(endpoint: &str) -> TracesConfig {
    TracesConfig {
        batch_interval: Duration::from_millis(5),
        flush_limit: Duration::from_millis(50),
        ..TracesConfig::new(endpoint)
    }
}

fn counted(metrics: &Metrics, name: &str) -> u64 {
    let text = metrics.encode();
    let line = text.lines().find(|line| line.starts_with(name));
    let value = line.and_then(|line| line.rsplit(' ').next());
    value.and_then(|value| value.parse().ok()).unwrap_or(0)
}

const SENT: &str = "vlinders_trace_spans_sent_total";

fn dropped_for(reason: &str) -> String {
    format!("vlinders_trace_spans_dropped_total{{reason=\"{reason}\"}}")
}

#[tokio::test]
async fn a_collector_gets_what_spans_tell_under_the_names_of_their_services() {
    let (collector, tasks, metrics) = (
        Collector::start().await.unwrap(),
        Tasks::new(),
        Metrics::default(),
    );
    let traces = Traces::start(quick(&collector.endpoint()), &tasks, &metrics).unwrap();
    let (front, back) = (traces.tracer("front", "f-1"), traces.tracer("back", "b-1"));

    let mut first = front.first_span(None, "plain", SpanKind::Server);
    first.rename(|| "POST /v1".to_owned());
    first.set("model", "replaced");
    first.set("model", "m");
    first.set("texts", Fact::Texts(&["a", "b"]));
    first.event("happened", [("attempt", Fact::Count(1))]);
    let mut below = back.span(first.context(), "below", SpanKind::Consumer);
    below.began_at_us(1_000_000);
    let mut earlier = back.span(first.context(), "earlier", SpanKind::Internal);
    earlier.began_at(Instant::now() - Duration::from_secs(10));
    earlier.end();
    below.set("shown", Fact::Shown(&7));
    below.fail("broken");
    below.end();
    let context = first.context().unwrap();
    first.end();

    let spans = collector.until(|spans| spans.len() >= 3).await.unwrap();
    tasks.stop(STOP).await.unwrap();
    assert_eq!((collector.spans().len(), counted(&metrics, SENT)), (3, 3));
    let named = |name: &str| spans.iter().find(|span| span.name == name).unwrap();
    let (first, below) = (named("POST /v1"), named("below"));
    assert_eq!(
        (first.service.as_str(), first.instance.as_str(), first.kind),
        ("front", "f-1", "server")
    );
    assert_eq!(
        (below.service.as_str(), below.instance.as_str(), below.kind),
        ("back", "b-1", "consumer")
    );
    assert_eq!(
        format!("00-{}-{}-01", first.trace_id, first.span_id),
        context.to_string()
    );
    assert_eq!(
        (&below.trace_id, &below.parent_id),
        (&first.trace_id, &first.span_id)
    );
    assert_eq!(first.parent_id, "");
    assert_eq!((first.attribute("model"), first.attribute("texts")), ("m", "a,b"));
    assert_eq!(first.events[0].name, "happened");
    assert_eq!(first.events[0].attributes["attempt"], "1");
    assert!(first.start_ns <= first.events[0].at_ns && first.events[0].at_ns <= first.end_ns);
    assert_eq!(
        (below.attribute("shown"), below.start_ns, below.failed),
        ("7", 1_000_000_000, true)
    );
    assert!(below.end_ns > first.start_ns && !first.failed);
    let earlier = named("earlier");
    assert!(earlier.start_ns < first.start_ns && earlier.end_ns > first.start_ns);
}

#[tokio::test]
async fn the_caller_decides_on_its_own_trace_and_the_ratio_on_all_others() {
    let (tasks, metrics) = (Tasks::new(), Metrics::default());
    let with_ratio = |sample_ratio| {
        let config = TracesConfig {
            sample_ratio,
            ..quick("http://127.0.0.1:1")
        };
        Traces::start(config, &tasks, &metrics).unwrap().tracer("s", "i")
    };
    let (all, none) = (with_ratio(1.0), with_ratio(0.0));
    let caller = |flags: &str| {
        TraceContext::parse(&format!(
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}"
        ))
    };
    let first = |tracer: &Tracer, caller| tracer.first_span(caller, "s", SpanKind::Server).context();
    assert!(first(&all, None).is_some() && first(&none, None).is_none());
    assert_ne!(first(&all, None).unwrap().trace, first(&all, None).unwrap().trace);
    for tracer in [&all, &none] {
        let context = first(tracer, caller("01")).unwrap();
        assert_eq!(context.trace, caller("01").unwrap().trace);
        assert_ne!(context.span, caller("01").unwrap().span);
        assert!(first(tracer, caller("00")).is_none());
        let below = |parent| tracer.span(parent, "s", SpanKind::Internal).context();
        assert!(below(caller("01")).is_some() && below(caller("00")).is_none() && below(None).is_none());
    }
    tasks.stop(STOP).await.unwrap();
}

#[tokio::test]
async fn without_an_endpoint_nothing_is_recorded_and_nothing_asked() {
    struct Unseen;
    impl std::fmt::Display for Unseen {
        fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            panic!("nobody looks")
        }
    }
    let tracer = Traces::off().tracer("s", "i");
    let caller = TraceContext::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    let mut span = tracer.first_span(caller, "s", SpanKind::Server);
    span.rename(|| panic!("nobody asks"));
    span.set("key", Fact::Shown(&Unseen));
    span.event("event", [("key", Fact::Shown(&Unseen))]);
    assert!(!tracer.is_on() && span.context().is_none());
    let shared = SharedSpan::from(span);
    shared.set("key", Fact::Shown(&Unseen));
    assert!(shared.context().is_none());
}

#[tokio::test]
async fn a_shared_span_ends_once_whoever_holds_it() {
    let (collector, tasks, metrics) = (
        Collector::start().await.unwrap(),
        Tasks::new(),
        Metrics::default(),
    );
    let traces = Traces::start(quick(&collector.endpoint()), &tasks, &metrics).unwrap();
    let tracer = traces.tracer("s", "i");
    let shared = |name| SharedSpan::from(tracer.first_span(None, name, SpanKind::Server));
    let (ended, dropped) = (shared("ended"), shared("dropped"));
    let clone = ended.clone();
    ended.end();
    clone.event("too late", []);
    clone.end();
    drop((ended, clone, dropped.clone()));
    dropped.event("in time", []);
    dropped.fail("failed");
    drop(dropped);
    collector.until(|spans| spans.len() >= 2).await.unwrap();
    tasks.stop(STOP).await.unwrap();
    let spans = collector.spans();
    let seen: Vec<_> = spans
        .iter()
        .map(|span| (span.name.as_str(), span.events.len(), span.failed))
        .collect();
    assert_eq!(seen, [("ended", 0, false), ("dropped", 1, true)]);
}

#[tokio::test]
async fn a_collector_that_is_away_costs_its_spans_and_nothing_else() {
    let (tasks, metrics) = (Tasks::new(), Metrics::default());
    // A port that was free a moment ago and where nobody listens.
    let away = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let traces = Traces::start(quick(&format!("http://{away}")), &tasks, &metrics).unwrap();
    let tracer = traces.tracer("s", "i");
    for _ in 0..10 {
        tracer.first_span(None, "lost", SpanKind::Server).end();
    }
    while counted(&metrics, &dropped_for("export_failed")) < 10 {
        tokio::task::yield_now().await;
    }
    tasks.stop(STOP).await.unwrap();
    assert_eq!(counted(&metrics, SENT), 0);
}

#[tokio::test]
async fn a_collector_that_never_answers_neither_stops_recording_nor_leaving() {
    let (tasks, metrics) = (Tasks::new(), Metrics::default());
    let slow = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = TracesConfig {
        queue_spans: 16,
        batch_spans: 4,
        export_timeout: Duration::from_secs(600),
        ..quick(&format!("http://{}", slow.local_addr().unwrap()))
    };
    let traces = Traces::start(config, &tasks, &metrics).unwrap();
    let tracer = traces.tracer("s", "i");
    // Recording is a plain call: were it to wait, this would not go on.
    tracer.first_span(None, "first", SpanKind::Server).end();
    let (mut connection, _) = slow.accept().await.unwrap();
    connection.read_u8().await.unwrap();
    for _ in 0..100 {
        tracer.first_span(None, "more", SpanKind::Server).end();
    }
    assert_eq!(counted(&metrics, &dropped_for("queue_full")), 84);
    tasks.stop(STOP).await.unwrap();
    assert_eq!(counted(&metrics, &dropped_for("shutdown")), 17);
    tracer.first_span(None, "late", SpanKind::Server).end();
    assert_eq!(counted(&metrics, &dropped_for("queue_full")), 85);
}

#[tokio::test]
async fn what_was_recorded_before_the_stop_is_sent() {
    let (collector, tasks, metrics) = (
        Collector::start().await.unwrap(),
        Tasks::new(),
        Metrics::default(),
    );
    let config = TracesConfig {
        batch_spans: 3,
        batch_interval: Duration::from_secs(600),
        flush_limit: STOP,
        ..TracesConfig::new(&collector.endpoint())
    };
    let traces = Traces::start(config, &tasks, &metrics).unwrap();
    let tracer = traces.tracer("s", "i");
    for _ in 0..10 {
        tracer.first_span(None, "kept", SpanKind::Server).end();
    }
    tasks.stop(STOP).await.unwrap();
    assert_eq!((collector.spans().len(), counted(&metrics, SENT)), (10, 10));
}

/// What this thread logs.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_collector_that_refuses_is_asked_again_with_the_next_spans_only_and_told_of_once_a_minute() {
    let log = Log::default();
    let writer = log.clone();
    let lines = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || writer.clone());
    let _guard = tracing::subscriber::set_default(lines.finish());
    let told = || {
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        text.matches("503").count()
    };
    let (tasks, metrics) = (Tasks::new(), Metrics::default());
    let unwilling = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", unwilling.local_addr().unwrap());
    let traces = Traces::start(quick(&endpoint), &tasks, &metrics).unwrap();
    let tracer = traces.tracer("s", "i");
    for (round, expected) in [(1, 1), (2, 1), (3, 2)] {
        if round == 3 {
            tokio::time::pause();
            tokio::time::advance(Duration::from_secs(60)).await;
            tokio::time::resume();
        }
        tracer.first_span(None, "refused", SpanKind::Server).end();
        let (mut connection, _) = unwilling.accept().await.unwrap();
        connection.read_u8().await.unwrap();
        let refusal = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
        connection.write_all(refusal).await.unwrap();
        while counted(&metrics, &dropped_for("export_failed")) < round {
            tokio::task::yield_now().await;
        }
        assert_eq!(told(), expected, "after {round} refusals");
        let nobody = poll_fn(|context| Poll::Ready(unwilling.poll_accept(context).is_pending()));
        assert!(nobody.await, "the same spans came again");
    }
    tasks.stop(STOP).await.unwrap();
}
