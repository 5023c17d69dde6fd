//! The loop that prefill and decode share: take a job, plan, step, reply.
//!
//! `core` decides, on one thread and without clock or bus. `turn` drives it with an engine. Everything else is the
//! async side: it takes requests from the queue (`queue`), finds decode workers (`offering`), answers offers
//! (`accepting`), carries out what the loop says (`outlet`), and says it again when it was missed (`resending`).

mod accepting;
mod beacons;
mod config;
mod core;
mod ending_texts;
mod forms;
mod listening;
mod metrics;
mod offering;
mod outbox;
mod outlet;
mod output;
mod queue;
mod recent;
mod resending;
mod sequence;
mod spans;
mod start;
mod teeth;
mod tombstones;
mod turn;

pub use config::{Parting, Role, WorkerConfig, WorkerParts};
#[cfg(feature = "simulation")]
pub use start::start_simulated;
pub use start::{WorkerError, start};
#[cfg(feature = "simulation")]
pub use turn::StepTime;
