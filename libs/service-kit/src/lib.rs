//! What every process needs and no domain knows: tasks that stop in order, metrics, logs, a clock, signals.

mod clock;
mod logging;
mod metrics;
mod signals;
mod tasks;

pub use clock::{Clock, SystemClock};
pub use logging::{LogFormat, LoggingError, init_logging};
pub use metrics::{Buckets, Counter, Gauge, Histogram, Labels, Metrics};
pub use signals::StopSignals;
pub use tasks::{Stage, StillRunning, Tasks};
