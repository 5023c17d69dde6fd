//! Ends streams whose time is up. One sweep over all streams is cheaper than a timer for each.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::assembly::GivenUp;
use super::stream::Stream;
use super::table::Streams;

/// How exact deadlines are.
const PERIOD: Duration = Duration::from_millis(100);

/// When streams end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SweepRules {
    pub(crate) stalled_client: Duration,
    /// How long streams may go on once intake has stopped.
    pub(crate) drain: Duration,
}

/// Runs until `end`. `stopping` begins the time that streams have to finish.
pub(crate) async fn run(
    streams: Arc<Streams>,
    rules: SweepRules,
    stopping: CancellationToken,
    end: CancellationToken,
) {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut stop_since: Option<Instant> = None;
    loop {
        tokio::select! {
            biased;
            () = end.cancelled() => return,
            _ = ticks.tick() => {}
        }
        if stopping.is_cancelled() {
            stop_since.get_or_insert_with(Instant::now);
        }
        let must_end = stop_since.is_some_and(|since| since.elapsed() >= rules.drain);
        for (stream, reason) in streams.find(|stream| reason_to_end(stream, rules, must_end)) {
            streams.give_up(stream.handle(), reason);
        }
    }
}

fn reason_to_end(stream: &Stream, rules: SweepRules, must_end: bool) -> Option<GivenUp> {
    if must_end {
        Some(GivenUp::Stopping)
    } else if Instant::now() >= stream.spec.deadline {
        Some(GivenUp::Deadline)
    } else if stream.is_stalled(rules.stalled_client) {
        Some(GivenUp::SlowClient)
    } else {
        None
    }
}
