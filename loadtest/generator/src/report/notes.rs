//! What a reader of the numbers has to know about them.

use super::shape::{RoundReport, Settings};
use super::table::count;

/// The whole program runs on one thread; above this share of a core it may itself be the limit.
const BUSY_CORES: f64 = 0.85;
/// A request that is sent so much late was delayed by this program or its machine.
const LATE_MS: f64 = 5.0;
/// More tokens in a chunk than this: gaps say little about tokens.
const COALESCED: f64 = 1.05;

/// When gaps between chunks are not gaps between tokens. Several loads have a column for it.
pub(super) fn note_on_chunks(round: &RoundReport) -> Option<String> {
    let per_chunk = round.tokens.per_chunk_mean.filter(|tokens| *tokens > COALESCED)?;
    Some(format!(
        "a chunk carries {per_chunk:.2} tokens; gaps lie between chunks, not tokens"
    ))
}

/// One sentence each.
pub(super) fn notes(settings: &Settings, round: &RoundReport) -> Vec<String> {
    let mut notes = Vec::new();
    if round.tokens.answers_without_usage > 0 && settings.stream {
        notes.push("answers without usage: every chunk with content counts as one token".to_owned());
    }
    if round.requests.never_sent > 0 {
        notes.push(format!(
            "{} requests were due and never sent, since --max-in-flight was reached; they count as missed",
            count(round.requests.never_sent)
        ));
    }
    if round.generator.cores > BUSY_CORES {
        notes.push("this program was busy nearly all the time and may have been the limit".to_owned());
    }
    if round.is_open() && round.latency.send_lag_ms.is_some_and(|lag| lag.p99 > LATE_MS) {
        notes.push("requests were sent late; the wait is in their latencies".to_owned());
    }
    if round.requests.due == 0 {
        notes.push("no request was due in the time measured".to_owned());
    }
    notes
}
