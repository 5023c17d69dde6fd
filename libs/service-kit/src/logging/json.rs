//! A log line as one JSON object: `@timestamp`, `level` and `message` as collectors look for them, then the event's own
//! fields beside them.

use std::fmt;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Writes events as lines of JSON. Spans are not shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct JsonLines;

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'lookup> LookupSpan<'lookup>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let mut line = Line(Map::new());
        line.0.insert("@timestamp".to_owned(), time.into());
        let level = event.metadata().level().as_str();
        line.0.insert("level".to_owned(), level.into());
        // Before the other fields, wherever the event names it.
        line.0.insert("message".to_owned(), "".into());
        event.record(&mut line);
        writeln!(writer, "{}", Value::Object(line.0))
    }
}

/// The fields of one line.
struct Line(Map<String, Value>);

impl Line {
    fn set(&mut self, field: &Field, value: Value) {
        self.0.insert(field.name().to_owned(), value);
    }
}

impl Visit for Line {
    fn record_f64(&mut self, field: &Field, value: f64) {
        // What is no number in JSON is null.
        self.set(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field, value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field, value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set(field, format!("{value:?}").into());
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Error, Write};
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn every_line_is_one_object_with_time_level_message_and_the_events_fields() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .event_format(JsonLines)
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            let error: &dyn std::error::Error = &Error::other("no\nroom");
            tracing::error!(
                error,
                count = 3_u64,
                share = 0.5,
                none = Option::<u64>::None,
                "it \"broke\""
            );
            let shown = std::net::Ipv4Addr::LOCALHOST;
            tracing::info!(%shown, debug = ?Some(1), flag = true, left = -1_i64, nan = f64::NAN);
        });
        let bytes = lines.0.lock().unwrap().clone();
        let text = String::from_utf8(bytes).unwrap();
        let mut lines = text.lines().map(|line| {
            assert!(line.starts_with("{\"@timestamp\":\"2"), "{line}");
            let mut line: Map<String, Value> = serde_json::from_str(line).unwrap();
            let time = line.shift_remove("@timestamp").unwrap();
            let time = time.as_str().unwrap();
            assert!(time.ends_with('Z') && time.as_bytes()[10] == b'T', "{time}");
            Value::Object(line).to_string()
        });
        assert_eq!(
            lines.next().unwrap(),
            r#"{"level":"ERROR","message":"it \"broke\"","error":"no\nroom","count":3,"share":0.5}"#
        );
        assert_eq!(
            lines.next().unwrap(),
            r#"{"level":"INFO","message":"","shown":"127.0.0.1","debug":"Some(1)","flag":true,"left":-1,"nan":null}"#
        );
        assert_eq!(lines.next(), None);
    }
}
