//! The durable streams and their limits. Requests belong to the frontends, usage and dead letters to the usage service:
//! they give the streams their rules. Everybody else only makes what is missing, so that a worker started with other
//! settings does not change a queue under load.

use std::time::Duration;

use vlinders_bus::{Bus, BusError, StreamName, StreamRules};

use crate::settings::QueueSettings;

/// Usage events and dead letters held at most.
const MESSAGES: u64 = 1_000_000;
const DAY: Duration = Duration::from_secs(24 * 3600);
const DEDUP_WINDOW: Duration = Duration::from_secs(120);

fn request_rules(queue: QueueSettings) -> StreamRules {
    StreamRules {
        max_messages: queue.max_queued_requests,
        max_age: queue.request_deadline,
        dedup_window: DEDUP_WINDOW,
    }
}

fn kept(days: u32) -> StreamRules {
    StreamRules {
        max_messages: MESSAGES,
        max_age: days * DAY,
        dedup_window: DEDUP_WINDOW,
    }
}

/// Makes the request queue, or gives the one that is there these limits.
pub(crate) async fn ensure_requests(bus: &dyn Bus, queue: QueueSettings) -> Result<(), BusError> {
    bus.ensure_stream(StreamName::Requests, request_rules(queue))
        .await
}

/// Makes the streams of usage events and dead letters.
pub(crate) async fn ensure_usage(bus: &dyn Bus) -> Result<(), BusError> {
    bus.ensure_stream(StreamName::Usage, kept(7)).await?;
    bus.ensure_stream(StreamName::DeadLetters, kept(30)).await
}

/// Makes those streams that are not there.
pub(crate) async fn make_missing(bus: &dyn Bus, queue: QueueSettings) -> Result<(), BusError> {
    for (stream, rules) in [
        (StreamName::Requests, request_rules(queue)),
        (StreamName::Usage, kept(7)),
        (StreamName::DeadLetters, kept(30)),
    ] {
        match bus.pending(stream).await {
            Ok(_) => {}
            Err(BusError::NoStream { .. }) => bus.ensure_stream(stream, rules).await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
