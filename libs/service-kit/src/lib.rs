//! What every process needs and no domain knows: tasks that stop in order, metrics, logs, traces, a clock,
//! signals.

mod clock;
mod logging;
mod metrics;
mod signals;
mod tasks;
mod traces;

pub use clock::{Clock, SystemClock};
pub use logging::{LogFormat, LoggingError, init_logging};
pub use metrics::{Buckets, Counter, Gauge, Histogram, Labels, Metrics};
pub use signals::StopSignals;
pub use tasks::{Stage, StillRunning, Tasks};
pub use traces::{Fact, SharedSpan, Span, SpanKind, TraceContext, Tracer, Traces, TracesConfig, TracesError};
