//! The service's settings, parts and start.

use std::sync::Arc;
use std::time::Duration;

use vlinders_bus::{Bus, BusError, ConsumerSpec, StreamName, Subject};
use vlinders_ledger::Ledger;
use vlinders_service_kit::{Clock, Metrics, Stage, Tasks};
use vlinders_types::WorkerId;
use vlinders_wire::subjects;

use crate::recorder::{Counters, Recorder};

/// How usage is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageConfig {
    /// Signs the dead letters.
    pub writer: WorkerId,
    /// Events recorded in one transaction at most.
    pub batch: usize,
    /// The stream gives an event to somebody else after this long without a word.
    pub ack_wait: Duration,
    /// How long a failing ledger or bus is left alone before the next try.
    pub retry: Duration,
    /// How long the ledger may go on failing once the process is asked to stop.
    pub stop_limit: Duration,
}

impl Default for UsageConfig {
    /// A transaction costs a flush to disk however many events it has, so many are taken at once.
    fn default() -> Self {
        Self {
            writer: WorkerId::new("usage"),
            batch: 512,
            ack_wait: Duration::from_secs(30),
            retry: Duration::from_millis(500),
            stop_limit: Duration::from_secs(5),
        }
    }
}

/// What the service works with.
pub struct UsageParts {
    /// Where events come from. Its streams for usage and dead letters exist already.
    pub bus: Arc<dyn Bus>,
    /// Where they go.
    pub ledger: Arc<dyn Ledger>,
    /// Its task is one of these, of the last stage: when asked to stop, it first stores what all others have sent.
    pub tasks: Tasks,
    /// Counts events.
    pub metrics: Metrics,
    /// Dates dead letters.
    pub clock: Arc<dyn Clock>,
}

/// Starts taking usage; it stops with its tasks. Several processes may run it: they share the events.
///
/// # Errors
/// When the bus refuses the consumer.
pub async fn start(config: UsageConfig, parts: UsageParts) -> Result<(), BusError> {
    let consumer = parts
        .bus
        .consumer(ConsumerSpec {
            stream: StreamName::Usage,
            filter: Subject::new(subjects::ALL_USAGE),
            name: "usage".to_owned(),
            ack_wait: config.ack_wait,
            // An event is given up for what it says, never for how often the ledger was away.
            max_deliver: u32::MAX,
        })
        .await?;
    let stopping = parts.tasks.stopping(Stage::Store);
    let recorder = Recorder {
        config,
        consumer,
        bus: parts.bus,
        ledger: parts.ledger,
        counters: Counters::new(&parts.metrics),
        clock: parts.clock,
        stopping,
    };
    parts.tasks.spawn(Stage::Store, "usage", recorder.run());
    Ok(())
}
