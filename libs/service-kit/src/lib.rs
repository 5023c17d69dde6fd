//! What every process needs and no domain knows: settings, tasks that stop in order, metrics, logs, traces, a clock,
//! signals, a health port.

mod clock;
mod health;
mod http_client;
mod logging;
mod metrics;
mod process_metrics;
mod pulse;
mod settings;
mod signals;
mod tasks;
mod traces;

pub use clock::{Clock, SystemClock, rfc3339};
pub use health::{HealthParts, Probe, serve_health};
pub use http_client::ask_process;
pub use logging::{JsonLines, LogFormat, LoggingError, check_log_level, init_logging};
pub use metrics::{Buckets, Counter, Gauge, Histogram, Labels, Metrics, SecondsCounter};
pub use pulse::Pulse;
pub use settings::{Checks, FileSettings, Given, SettingFaults, SettingValue, SettingsFileError, read_yaml};
pub use signals::StopSignals;
pub use tasks::{Stage, StillRunning, Tasks};
pub use traces::{Fact, SharedSpan, Span, SpanKind, TraceContext, Tracer, Traces, TracesConfig, TracesError};
