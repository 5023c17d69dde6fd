//! The report as JSON. Names carry their units and keep their meaning; `loadtest/README.md` tells them to users.

use std::time::Duration;

use serde::Serialize;

use crate::plan::{Plan, PromptSource};
use crate::recorder::{Recorder, Spread};
use crate::request::Delivery;
use crate::round::{Load, RoundResult};
use crate::watch::Watch;
use crate::words::TokensPerWord;

/// Raised when a name goes or changes its meaning; new names may come without.
const SCHEMA: u32 = 1;

/// Everything measured by one run of the program.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    schema: u32,
    program: &'static str,
    started_at_unix_ms: u64,
    settings: Settings,
    /// One for each load, in the order they were offered.
    pub(crate) rounds: Vec<RoundReport>,
}

/// What was asked for.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Settings {
    urls: Vec<String>,
    pub(crate) model: String,
    endpoint: &'static str,
    pub(crate) stream: bool,
    prompts: String,
    prompt_tokens: Option<String>,
    tokens_per_word: Option<f64>,
    template_tokens: Option<f64>,
    output_tokens: String,
    ignore_eos: bool,
    temperature: Option<f64>,
    pub(crate) warm_up_s: f64,
    duration_s: Option<f64>,
    requests: Option<u64>,
    max_in_flight: u32,
    timeout_s: f64,
    pub(crate) seed: u64,
    pub(crate) objectives: Option<ObjectivesReport>,
}

/// What is known only after the server was asked.
pub(crate) struct SettingsParts {
    pub(crate) model: String,
    pub(crate) per_word: Option<TokensPerWord>,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct ObjectivesReport {
    ttft_ms: Option<f64>,
    itl_ms: Option<f64>,
    tpot_ms: Option<f64>,
    e2e_ms: Option<f64>,
    #[serde(skip)]
    pub(crate) shown: String,
}

/// One load.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct RoundReport {
    pub(crate) load: LoadReport,
    pub(crate) window_s: f64,
    pub(crate) stopped_early: bool,
    pub(crate) requests: Requests,
    pub(crate) throughput: Throughput,
    pub(crate) tokens: Tokens,
    pub(crate) latency: Latency,
    pub(crate) failures: Vec<FailureReport>,
    pub(crate) goodput: Option<Goodput>,
    pub(crate) usage_check: Option<UsageCheckReport>,
    pub(crate) watched: Vec<WatchReport>,
    pub(crate) generator: Generator,
}

#[derive(Clone, Copy, Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum LoadReport {
    Rate { rate_per_s: f64 },
    Concurrency { concurrency: u32 },
}

/// Requests that were due in the window.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Requests {
    pub(crate) due: u64,
    pub(crate) completed: u64,
    pub(crate) failed: u64,
    pub(crate) unfinished: u64,
    pub(crate) never_sent: u64,
    pub(crate) most_in_flight: u64,
}

/// What came in the window.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Throughput {
    pub(crate) requests_per_s: f64,
    pub(crate) output_tokens_per_s: f64,
    pub(crate) input_tokens_per_s: f64,
    pub(crate) chunks_per_s: f64,
}

/// Of completed requests.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Tokens {
    pub(crate) input_mean: Option<f64>,
    pub(crate) cached_input_mean: Option<f64>,
    pub(crate) output_mean: Option<f64>,
    pub(crate) per_chunk_mean: Option<f64>,
    pub(crate) answers_without_usage: u64,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Latency {
    pub(crate) ttft_ms: Option<Quantiles>,
    pub(crate) itl_ms: Option<Quantiles>,
    pub(crate) tpot_ms: Option<Quantiles>,
    pub(crate) e2e_ms: Option<Quantiles>,
    pub(crate) send_lag_ms: Option<Quantiles>,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Quantiles {
    pub(crate) count: u64,
    pub(crate) mean: f64,
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p95: f64,
    pub(crate) p99: f64,
    pub(crate) p99_9: f64,
    pub(crate) max: f64,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct FailureReport {
    pub(crate) kind: &'static str,
    pub(crate) status: Option<u16>,
    pub(crate) count: u64,
    pub(crate) example: String,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Goodput {
    pub(crate) good_requests: u64,
    pub(crate) share: f64,
    pub(crate) requests_per_s: f64,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct UsageCheckReport {
    pub(crate) right: u64,
    pub(crate) wrong: u64,
    pub(crate) unknown: u64,
    pub(crate) example: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct WatchReport {
    pub(crate) label: String,
    pub(crate) pid: u32,
    pub(crate) cpu_s: f64,
    pub(crate) cores: f64,
    pub(crate) cpu_s_per_1000_output_tokens: Option<f64>,
    pub(crate) rss_before_bytes: u64,
    pub(crate) rss_after_bytes: u64,
    pub(crate) rss_peak_bytes: u64,
}

/// What this program itself used.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Generator {
    pub(crate) cpu_s: f64,
    pub(crate) cores: f64,
}

impl Report {
    pub(crate) fn new(settings: Settings, started_at_unix_ms: u64, rounds: Vec<RoundReport>) -> Self {
        Self {
            schema: SCHEMA,
            program: concat!("vlinders-loadtest ", env!("CARGO_PKG_VERSION")),
            started_at_unix_ms,
            settings,
            rounds,
        }
    }

    /// The settings, for the table.
    pub(crate) const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Whether there is nothing to trust: not one request completed, or usage was wrong.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        let completed: u64 = self.rounds.iter().map(|round| round.requests.completed).sum();
        let wrong_usage =
            |round: &RoundReport| round.usage_check.as_ref().is_some_and(|check| check.wrong > 0);
        completed == 0 || self.rounds.iter().any(wrong_usage)
    }
}

impl Settings {
    pub(crate) fn of(plan: &Plan, parts: SettingsParts) -> Self {
        let (prompts, prompt_tokens) = match &plan.source {
            PromptSource::Made { sharing, lengths, .. } => (sharing.to_string(), Some(lengths.to_string())),
            PromptSource::File(_) => ("file".to_owned(), None),
        };
        let round = &plan.rounds[0];
        Self {
            urls: plan.targets.iter().map(ToString::to_string).collect(),
            model: parts.model,
            endpoint: plan.endpoint.name(),
            stream: plan.delivery == Delivery::Streamed,
            prompts,
            prompt_tokens,
            tokens_per_word: parts.per_word.map(|per_word| per_word.each),
            template_tokens: parts.per_word.map(|per_word| per_word.fixed),
            output_tokens: plan.output_tokens.to_string(),
            ignore_eos: plan.ignores_eos,
            temperature: plan.temperature,
            warm_up_s: round.warm_up.as_secs_f64(),
            duration_s: round.duration.map(|duration| duration.as_secs_f64()),
            requests: round.requests,
            max_in_flight: round.max_in_flight,
            timeout_s: plan.timeout.as_secs_f64(),
            seed: plan.seed,
            objectives: plan.objectives.map(|objectives| ObjectivesReport {
                ttft_ms: objectives.ttft.map(milliseconds),
                itl_ms: objectives.itl.map(milliseconds),
                tpot_ms: objectives.tpot.map(milliseconds),
                e2e_ms: objectives.e2e.map(milliseconds),
                shown: objectives.to_string(),
            }),
        }
    }
}

impl RoundReport {
    /// Whether requests were due whatever the server did.
    pub(crate) const fn is_open(&self) -> bool {
        match self.load {
            LoadReport::Rate { .. } => true,
            LoadReport::Concurrency { .. } => false,
        }
    }

    pub(crate) fn of(result: &RoundResult, plan: &Plan) -> Self {
        let window_s = result.window.as_secs_f64();
        let recorder = &result.recorder;
        let output_tokens = result.output_tokens_in_window();
        Self {
            load: match result.load {
                Load::Rate(rate_per_s) => LoadReport::Rate { rate_per_s },
                Load::Concurrency(concurrency) => LoadReport::Concurrency { concurrency },
            },
            window_s,
            stopped_early: result.was_stopped,
            requests: Requests {
                due: result.due(),
                completed: recorder.tally.completed,
                failed: recorder.tally.failed,
                unfinished: result.unfinished,
                never_sent: result.never_sent,
                most_in_flight: result.most_in_flight,
            },
            throughput: Throughput {
                requests_per_s: per(result.in_window.ended.completed as f64, window_s),
                output_tokens_per_s: per(output_tokens, window_s),
                input_tokens_per_s: per(result.in_window.ended.input_tokens as f64, window_s),
                chunks_per_s: per(result.in_window.stream_chunks as f64, window_s),
            },
            tokens: tokens(result, plan.delivery),
            latency: latency(recorder),
            failures: failures(recorder),
            goodput: plan.objectives.map(|_| Goodput {
                good_requests: recorder.good,
                share: per(recorder.good as f64, result.due() as f64),
                requests_per_s: per(recorder.good as f64, window_s),
            }),
            usage_check: plan.checks_usage.then(|| UsageCheckReport {
                right: recorder.usage_check.right,
                wrong: recorder.usage_check.wrong,
                unknown: recorder.usage_check.unknown,
                example: recorder.usage_check.example.clone(),
            }),
            watched: result
                .watched
                .iter()
                .map(|watch| watched(watch, window_s, output_tokens))
                .collect(),
            generator: Generator {
                cpu_s: result.in_window.own_cpu_s,
                cores: per(result.in_window.own_cpu_s, window_s),
            },
        }
    }
}

fn tokens(result: &RoundResult, delivery: Delivery) -> Tokens {
    let tally = &result.recorder.tally;
    let mean = |sum: u64, count: u64| (count > 0).then(|| sum as f64 / count as f64);
    let with_usage = tally.completed - tally.without_usage;
    Tokens {
        input_mean: mean(tally.input_tokens, with_usage),
        cached_input_mean: mean(tally.cached_tokens, with_usage),
        output_mean: mean(tally.output_tokens, tally.completed),
        per_chunk_mean: match delivery {
            Delivery::Streamed => mean(tally.output_tokens, tally.chunks),
            Delivery::Whole => None,
        },
        answers_without_usage: tally.without_usage,
    }
}

fn latency(recorder: &Recorder) -> Latency {
    Latency {
        ttft_ms: quantiles(&recorder.ttft),
        itl_ms: quantiles(&recorder.gap),
        tpot_ms: quantiles(&recorder.tpot),
        e2e_ms: quantiles(&recorder.e2e),
        send_lag_ms: quantiles(&recorder.send_lag),
    }
}

fn quantiles(spread: &Spread) -> Option<Quantiles> {
    (spread.count() > 0).then(|| Quantiles {
        count: spread.count(),
        mean: spread.mean_ms(),
        p50: spread.quantile_ms(0.5),
        p90: spread.quantile_ms(0.9),
        p95: spread.quantile_ms(0.95),
        p99: spread.quantile_ms(0.99),
        p99_9: spread.quantile_ms(0.999),
        max: spread.max_ms(),
    })
}

fn failures(recorder: &Recorder) -> Vec<FailureReport> {
    let failures = recorder.failures.iter();
    let mut failures: Vec<FailureReport> = failures
        .map(|((kind, status), tally)| FailureReport {
            kind,
            status: *status,
            count: tally.count,
            example: tally.example.clone(),
        })
        .collect();
    failures.sort_by_key(|failure| std::cmp::Reverse(failure.count));
    failures
}

fn watched(watch: &Watch, window_s: f64, output_tokens: f64) -> WatchReport {
    let cpu_s = |sample: Option<crate::watch::ProcessSample>| sample.map_or(0.0, |sample| sample.cpu_s);
    let rss = |sample: Option<crate::watch::ProcessSample>| sample.map_or(0, |sample| sample.rss_bytes);
    let used = cpu_s(watch.after) - cpu_s(watch.before);
    WatchReport {
        label: watch.process.label.clone(),
        pid: watch.process.pid,
        cpu_s: used,
        cores: per(used, window_s),
        cpu_s_per_1000_output_tokens: (output_tokens > 0.0).then(|| used * 1000.0 / output_tokens),
        rss_before_bytes: rss(watch.before),
        rss_after_bytes: rss(watch.after),
        rss_peak_bytes: watch.peak_rss_bytes,
    }
}

/// Zero when nothing can be said.
fn per(amount: f64, of: f64) -> f64 {
    if of > 0.0 { amount / of } else { 0.0 }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
