//! What the requests of a measurement took.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::objectives::Objectives;
use crate::outcome::{Failure, Outcome, Success};

/// Times up to here are told apart; longer ones count as this long. A request that takes longer has failed long ago.
const LONGEST_US: u64 = 24 * 3600 * 1_000_000;
/// 0.1 % of every time.
const SIGNIFICANT_DIGITS: u8 = 3;

/// Counts and times of measured requests.
#[derive(Debug)]
pub(crate) struct Recorder {
    objectives: Option<Objectives>,
    checks_usage: bool,
    /// To the first chunk with content.
    pub(crate) ttft: Spread,
    /// Between chunks with content.
    pub(crate) gap: Spread,
    /// Mean time per token after the first, of each request.
    pub(crate) tpot: Spread,
    /// To the end of the answer.
    pub(crate) e2e: Spread,
    /// From when a request was due to when it was sent.
    pub(crate) send_lag: Spread,
    pub(crate) tally: Tally,
    /// By kind and status.
    pub(crate) failures: BTreeMap<(&'static str, Option<u16>), FailureTally>,
    /// Completed requests that met all objectives.
    pub(crate) good: u64,
    pub(crate) usage_check: UsageCheck,
}

/// Sums over requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) completed: u64,
    pub(crate) failed: u64,
    pub(crate) input_tokens: u64,
    pub(crate) cached_tokens: u64,
    pub(crate) output_tokens: u64,
    /// Chunks with content; a whole answer is one.
    pub(crate) chunks: u64,
    /// Answers without usage: their input is unknown and their output is chunks.
    pub(crate) without_usage: u64,
}

/// Failures of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FailureTally {
    pub(crate) count: u64,
    /// What the first one said.
    pub(crate) example: String,
}

/// How usage compares with what was counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct UsageCheck {
    pub(crate) right: u64,
    pub(crate) wrong: u64,
    /// The answer lists no tokens or has no usage.
    pub(crate) unknown: u64,
    /// What was wrong first.
    pub(crate) example: Option<String>,
}

/// A distribution of times.
#[derive(Clone, Debug)]
pub(crate) struct Spread {
    micros: Histogram<u64>,
    max_us: u64,
}

impl Recorder {
    /// Nothing is measured.
    pub(crate) fn new(objectives: Option<Objectives>, checks_usage: bool) -> Self {
        Self {
            objectives,
            checks_usage,
            ttft: Spread::new(),
            gap: Spread::new(),
            tpot: Spread::new(),
            e2e: Spread::new(),
            send_lag: Spread::new(),
            tally: Tally::default(),
            failures: BTreeMap::new(),
            good: 0,
            usage_check: UsageCheck::default(),
        }
    }

    /// Takes in a request that has ended.
    pub(crate) fn record(&mut self, outcome: &Outcome) {
        self.tally.add(outcome);
        self.send_lag.record(outcome.send_lag);
        match &outcome.result {
            Ok(success) => self.record_success(success),
            Err(failure) => self.record_failure(failure),
        }
    }

    fn record_success(&mut self, success: &Success) {
        let times = success.times();
        self.e2e.record(times.e2e);
        if let Some(ttft) = times.ttft {
            self.ttft.record(ttft);
        }
        if let Some(tpot) = times.tpot {
            self.tpot.record(tpot);
        }
        for gap_us in &success.gaps_us {
            self.gap.record_us(u64::from(*gap_us));
        }
        if self
            .objectives
            .is_some_and(|objectives| objectives.are_met_by(&times))
        {
            self.good += 1;
        }
        if self.checks_usage {
            self.usage_check.check(success);
        }
    }

    fn record_failure(&mut self, failure: &Failure) {
        let tally = self.failures.entry((failure.kind(), failure.status()));
        let tally = tally.or_insert_with(|| FailureTally {
            count: 0,
            example: failure.text().to_owned(),
        });
        tally.count += 1;
    }
}

impl Tally {
    /// Takes in a request that has ended.
    pub(crate) fn add(&mut self, outcome: &Outcome) {
        let Ok(success) = &outcome.result else {
            self.failed += 1;
            return;
        };
        self.completed += 1;
        self.output_tokens += success.output_tokens();
        self.chunks += success.counted.chunks;
        match success.counted.usage {
            Some(usage) => {
                self.input_tokens += usage.prompt_tokens;
                let details = usage.prompt_tokens_details.unwrap_or_default();
                self.cached_tokens += details.cached_tokens.unwrap_or(0);
            }
            None => self.without_usage += 1,
        }
    }

    /// What came on top since `before`.
    pub(crate) const fn since(&self, before: &Self) -> Self {
        Self {
            completed: self.completed - before.completed,
            failed: self.failed - before.failed,
            input_tokens: self.input_tokens - before.input_tokens,
            cached_tokens: self.cached_tokens - before.cached_tokens,
            output_tokens: self.output_tokens - before.output_tokens,
            chunks: self.chunks - before.chunks,
            without_usage: self.without_usage - before.without_usage,
        }
    }
}

impl UsageCheck {
    fn check(&mut self, success: &Success) {
        let counted = &success.counted;
        let (Some(usage), Some(listed)) = (counted.usage, counted.listed_tokens) else {
            self.unknown += 1;
            return;
        };
        // The token that ends an answer is used up and need not be listed.
        let most = if counted.ended_at_limit {
            listed
        } else {
            listed + 1
        };
        let fault = if !(listed..=most).contains(&usage.completion_tokens) {
            format!(
                "completion_tokens is {}, the answer lists {listed} tokens",
                usage.completion_tokens
            )
        } else if usage.prompt_tokens == 0 {
            "prompt_tokens is 0".to_owned()
        } else if usage.total_tokens != usage.prompt_tokens + usage.completion_tokens {
            format!("total_tokens is {}, which is not the sum", usage.total_tokens)
        } else {
            self.right += 1;
            return;
        };
        self.wrong += 1;
        self.example.get_or_insert(fault);
    }
}

impl Spread {
    fn new() -> Self {
        let micros = Histogram::new_with_bounds(1, LONGEST_US, SIGNIFICANT_DIGITS);
        Self {
            micros: micros.expect("the bounds are in order and the digits few"),
            max_us: 0,
        }
    }

    fn record(&mut self, time: Duration) {
        self.record_us(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }

    fn record_us(&mut self, micros: u64) {
        self.micros.saturating_record(micros);
        self.max_us = self.max_us.max(micros);
    }

    /// Times taken in.
    pub(crate) fn count(&self) -> u64 {
        self.micros.len()
    }

    /// The mean, in milliseconds.
    pub(crate) fn mean_ms(&self) -> f64 {
        self.micros.mean() / 1e3
    }

    /// The time that this share of all times does not exceed, in milliseconds.
    pub(crate) fn quantile_ms(&self, share: f64) -> f64 {
        let highest = self.micros.value_at_quantile(share);
        // The middle of the times that the histogram does not tell apart, and never more than there was.
        self.micros.median_equivalent(highest).min(self.max_us) as f64 / 1e3
    }

    /// The longest, in milliseconds.
    pub(crate) fn max_ms(&self) -> f64 {
        self.max_us as f64 / 1e3
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::answer::{Counted, Usage};

    fn outcome(result: Result<Success, Failure>) -> Outcome {
        Outcome {
            due: Instant::now(),
            send_lag: Duration::from_micros(5),
            result,
        }
    }

    fn success(e2e_ms: u64) -> Success {
        Success {
            ttft: Some(Duration::from_millis(e2e_ms / 2)),
            gaps_us: vec![1000],
            e2e: Duration::from_millis(e2e_ms),
            counted: Counted {
                chunks: 2,
                ..Counted::default()
            },
        }
    }

    fn with_usage(listed: u64, limit: bool, [prompt, completion, total]: [u64; 3]) -> Success {
        let mut success = success(10);
        success.counted.listed_tokens = Some(listed);
        success.counted.ended_at_limit = limit;
        success.counted.usage = Some(Usage {
            prompt_tokens: prompt,
            completion_tokens: completion,
            total_tokens: total,
            prompt_tokens_details: None,
        });
        success
    }

    #[test]
    fn quantiles_of_a_known_distribution_are_right() {
        let mut recorder = Recorder::new(None, false);
        for e2e_ms in 1..=1000 {
            recorder.record(&outcome(Ok(success(e2e_ms))));
        }
        for (share, right) in [(0.5, 500.0), (0.9, 900.0), (0.99, 990.0), (0.999, 999.0)] {
            let ratio = recorder.e2e.quantile_ms(share) / right;
            assert!((0.999..1.001).contains(&ratio), "{share}: {ratio}");
        }
        assert_eq!(recorder.e2e.count(), 1000);
        assert!((recorder.e2e.mean_ms() / 500.5 - 1.0).abs() < 0.001);
        assert!((recorder.e2e.max_ms() / 1000.0 - 1.0).abs() < 0.001);
    }

    #[test]
    fn good_requests_are_those_that_completed_within_the_objectives() {
        let mut recorder = Recorder::new(Some("ttft=5ms,e2e=10ms".parse().unwrap()), false);
        for result in [
            Ok(success(10)),
            Ok(success(11)),
            Ok(success(9)),
            Err(Failure::Timeout),
        ] {
            recorder.record(&outcome(result));
        }
        assert_eq!(recorder.good, 2);
        assert_eq!((recorder.tally.completed, recorder.tally.failed), (3, 1));
    }

    #[test]
    fn failures_are_counted_by_kind_and_status_with_the_first_text() {
        let mut recorder = Recorder::new(None, false);
        for (status, text) in [(429, "first"), (503, "down"), (429, "second")] {
            recorder.record(&outcome(Err(Failure::Status(status, text.to_owned()))));
        }
        let busy = &recorder.failures[&("status", Some(429))];
        assert_eq!((busy.count, busy.example.as_str()), (2, "first"));
        assert_eq!(recorder.failures.len(), 2);
        assert_eq!(recorder.e2e.count(), 0, "a failure has no end-to-end time");
        assert_eq!(recorder.send_lag.count(), 3);
    }

    #[test]
    fn usage_is_held_against_what_was_counted() {
        let mut recorder = Recorder::new(None, true);
        for (success, right) in [
            (with_usage(8, true, [3, 8, 11]), true),
            (with_usage(8, false, [3, 9, 12]), true),
            (with_usage(8, true, [3, 9, 12]), false),
            (with_usage(8, false, [3, 10, 13]), false),
            (with_usage(8, true, [0, 8, 8]), false),
            (with_usage(8, true, [3, 8, 12]), false),
        ] {
            let before = recorder.usage_check.right;
            recorder.record(&outcome(Ok(success)));
            assert_eq!(recorder.usage_check.right == before + 1, right);
        }
        recorder.record(&outcome(Ok(success(1))));
        let check = &recorder.usage_check;
        assert_eq!((check.right, check.wrong, check.unknown), (2, 4, 1));
        let example = check.example.as_deref();
        assert_eq!(example, Some("completion_tokens is 9, the answer lists 8 tokens"));
    }

    #[test]
    fn tokens_come_from_usage_and_else_from_chunks() {
        let mut recorder = Recorder::new(None, false);
        recorder.record(&outcome(Ok(with_usage(8, true, [3, 8, 11]))));
        recorder.record(&outcome(Ok(success(1))));
        let tally = recorder.tally;
        assert_eq!(
            (tally.input_tokens, tally.output_tokens, tally.chunks),
            (3, 10, 4)
        );
        assert_eq!(tally.without_usage, 1);
    }
}
