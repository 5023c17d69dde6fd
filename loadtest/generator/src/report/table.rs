//! The report for people.

use std::fmt::Write;

use super::notes::{note_on_chunks, notes};
use super::shape::{Goodput, LoadReport, Quantiles, Report, RoundReport, Settings, WatchReport};

const COLUMNS: [&str; 7] = ["mean", "p50", "p90", "p95", "p99", "p99.9", "max"];
/// Of requests, within the objectives: a load with less is more than the server carries.
const ENOUGH_GOOD: f64 = 0.95;

impl Report {
    /// As lines to print.
    #[must_use]
    pub fn table(&self) -> String {
        let (settings, rounds) = (self.settings(), self.rounds.as_slice());
        match rounds {
            [round] => one_round(settings, round),
            rounds => many_rounds(settings, rounds),
        }
    }
}

fn one_round(settings: &Settings, round: &RoundReport) -> String {
    let mut text = String::new();
    let requests = &round.requests;
    line(&mut text, "load", &load_line(settings, round));
    let asked = format!("{}, seed {}", settings.model, settings.seed);
    line(&mut text, "model", &asked);
    let mut ends = format!(
        "{} completed, {} failed",
        count(requests.completed),
        count(requests.failed)
    );
    for (number, what) in [
        (requests.unfinished, "unfinished"),
        (requests.never_sent, "never sent"),
    ] {
        if number > 0 {
            let _ = write!(ends, ", {} {what}", count(number));
        }
    }
    let _ = write!(ends, "; {}/s", rate(round.throughput.requests_per_s));
    line(&mut text, "requests", &ends);
    line(&mut text, "tokens", &token_line(round));
    if let (true, Some(per_chunk)) = (settings.stream, round.tokens.per_chunk_mean) {
        let chunks = rate(round.throughput.chunks_per_s);
        line(
            &mut text,
            "chunks",
            &format!("{chunks}/s, {per_chunk:.2} tokens each"),
        );
    }
    text.push('\n');
    latencies(&mut text, round);
    text.push('\n');
    if let (Some(goodput), Some(objectives)) = (&round.goodput, &settings.objectives) {
        line(&mut text, "goodput", &goodput_line(goodput, &objectives.shown));
    }
    if let Some(check) = &round.usage_check {
        let unknown = if check.unknown > 0 {
            format!(", {} without tokens to count", count(check.unknown))
        } else {
            String::new()
        };
        let told = format!(
            "{} right, {} wrong{unknown}",
            count(check.right),
            count(check.wrong)
        );
        line(&mut text, "usage", &told);
    }
    for watch in &round.watched {
        line(&mut text, &watch.label, &watch_line(watch));
    }
    line(
        &mut text,
        "generator",
        &format!("{:.2} cores", round.generator.cores),
    );
    failure_lines(&mut text, round);
    for note in note_on_chunks(round).into_iter().chain(notes(settings, round)) {
        line(&mut text, "note", &note);
    }
    text
}

fn load_line(settings: &Settings, round: &RoundReport) -> String {
    let load = match round.load {
        LoadReport::Rate { rate_per_s } => format!("open loop, {rate_per_s} requests/s"),
        LoadReport::Concurrency { concurrency } => format!("closed loop, {concurrency} at once"),
    };
    let kind = if settings.stream {
        "streamed"
    } else {
        "whole answers"
    };
    let stopped = if round.stopped_early {
        ", stopped early"
    } else {
        ""
    };
    format!(
        "{load}, {kind}; {:.1} s measured after {:.1} s of warm-up{stopped}",
        round.window_s, settings.warm_up_s
    )
}

fn token_line(round: &RoundReport) -> String {
    let throughput = &round.throughput;
    let mut told = format!("output {}/s", rate(throughput.output_tokens_per_s));
    if let Some(mean) = round.tokens.output_mean {
        let _ = write!(told, " ({mean:.1} a request)");
    }
    if let Some(mean) = round.tokens.input_mean {
        let _ = write!(
            told,
            ", input {}/s ({mean:.1} a request",
            rate(throughput.input_tokens_per_s)
        );
        if let Some(cached) = round.tokens.cached_input_mean.filter(|cached| *cached > 0.0) {
            let _ = write!(told, ", {cached:.1} of them cached");
        }
        told.push(')');
    }
    told
}

fn latencies(text: &mut String, round: &RoundReport) {
    let _ = write!(text, "{:<22}", "milliseconds");
    for column in COLUMNS {
        let _ = write!(text, "{column:>10}");
    }
    text.push('\n');
    let latency = &round.latency;
    for (name, quantiles) in [
        ("time to first token", latency.ttft_ms),
        ("gap between chunks", latency.itl_ms),
        ("time per output token", latency.tpot_ms),
        ("end to end", latency.e2e_ms),
        ("send lag", latency.send_lag_ms.filter(|_| round.is_open())),
    ] {
        let Some(quantiles) = quantiles else { continue };
        let _ = write!(text, "{name:<22}");
        for value in columns(&quantiles) {
            let _ = write!(text, "{:>10}", time(value));
        }
        text.push('\n');
    }
}

const fn columns(quantiles: &Quantiles) -> [f64; 7] {
    let Quantiles {
        mean,
        p50,
        p90,
        p95,
        p99,
        p99_9,
        max,
        ..
    } = *quantiles;
    [mean, p50, p90, p95, p99, p99_9, max]
}

fn goodput_line(goodput: &Goodput, objectives: &str) -> String {
    format!(
        "{:.1} % of requests met {objectives}: {}/s",
        100.0 * goodput.share,
        rate(goodput.requests_per_s)
    )
}

fn watch_line(watch: &WatchReport) -> String {
    let mut told = format!("{:.2} CPU s ({:.2} cores)", watch.cpu_s, watch.cores);
    if let Some(cost) = watch.cpu_s_per_1000_output_tokens {
        let _ = write!(told, ", {cost:.4} CPU s per 1,000 output tokens");
    }
    let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let _ = write!(
        told,
        "; RSS {:.1} → {:.1} MiB, at most {:.1}",
        mebibytes(watch.rss_before_bytes),
        mebibytes(watch.rss_after_bytes),
        mebibytes(watch.rss_peak_bytes)
    );
    told
}

fn failure_lines(text: &mut String, round: &RoundReport) {
    for failure in &round.failures {
        let status = failure.status.map(|status| format!(" {status}"));
        let told = format!(
            "{} × {}{}: {}",
            count(failure.count),
            failure.kind,
            status.unwrap_or_default(),
            failure.example
        );
        line(text, "failed", &told);
    }
}

/// One row for each load.
fn many_rounds(settings: &Settings, rounds: &[RoundReport]) -> String {
    let (mut heads, mut units) = (vec!["load", "req/s", "out tok/s"], vec!["", "", ""]);
    if settings.stream {
        heads.extend(["tok/chunk", "TTFT p50", "p99", "gap p50", "p99"]);
        units.extend(["", "ms", "ms", "ms", "ms"]);
    }
    heads.extend(["e2e p50", "p99", "failed"]);
    units.extend(["ms", "ms", ""]);
    if settings.objectives.is_some() {
        heads.push("good");
        units.push("%");
    }
    let mut rows: Vec<Vec<String>> = [heads, units]
        .map(|row| row.into_iter().map(str::to_owned).collect())
        .into();
    rows.extend(rounds.iter().map(|round| cells(settings, round)));
    let mut text = String::new();
    let kind = if settings.stream {
        "streamed"
    } else {
        "whole answers"
    };
    line(
        &mut text,
        "load",
        &format!("{kind}; {}, seed {}", settings.model, settings.seed),
    );
    text.push('\n');
    aligned(&mut text, &rows);
    if let Some(objectives) = &settings.objectives {
        let _ = write!(text, "\n{}\n", best_load(rounds, &objectives.shown));
    }
    for round in rounds {
        let mut lines = String::new();
        failure_lines(&mut lines, round);
        for watch in &round.watched {
            line(&mut lines, &watch.label, &watch_line(watch));
        }
        for note in notes(settings, round) {
            line(&mut lines, "note", &note);
        }
        if !lines.is_empty() {
            let _ = write!(text, "\n{}:\n{lines}", load_cell(round));
        }
    }
    text
}

/// What the table is for: how much the server carries.
fn best_load(rounds: &[RoundReport], objectives: &str) -> String {
    let good = |round: &&RoundReport| round.goodput.is_some_and(|good| good.share >= ENOUGH_GOOD);
    let speed = |round: &RoundReport| round.throughput.requests_per_s;
    let best = rounds
        .iter()
        .filter(good)
        .max_by(|left, right| speed(left).total_cmp(&speed(right)));
    match best {
        Some(best) => format!(
            "most with 95 % of requests within {objectives}: {}, {} requests/s",
            load_cell(best),
            rate(speed(best))
        ),
        None => format!("at no load were 95 % of requests within {objectives}"),
    }
}

/// Columns as wide as their widest cell; the first to the left, the others to the right.
fn aligned(text: &mut String, rows: &[Vec<String>]) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in rows {
        let mut shown = String::new();
        for (index, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let _ = if index == 0 {
                write!(shown, "{cell:<width$}")
            } else {
                write!(shown, "  {cell:>width$}")
            };
        }
        text.push_str(shown.trim_end());
        text.push('\n');
    }
}

fn cells(settings: &Settings, round: &RoundReport) -> Vec<String> {
    let mut cells = vec![
        load_cell(round),
        rate(round.throughput.requests_per_s),
        rate(round.throughput.output_tokens_per_s),
    ];
    let latency = &round.latency;
    let mut times = Vec::new();
    if settings.stream {
        let per_chunk = round.tokens.per_chunk_mean;
        cells.push(per_chunk.map_or("-".to_owned(), |tokens| format!("{tokens:.2}")));
        times.extend([latency.ttft_ms, latency.itl_ms]);
    }
    times.push(latency.e2e_ms);
    for quantiles in times {
        let shown =
            |pick: fn(&Quantiles) -> f64| quantiles.as_ref().map_or("-".to_owned(), |it| time(pick(it)));
        cells.extend([shown(|it| it.p50), shown(|it| it.p99)]);
    }
    cells.push(count(round.requests.failed + round.requests.never_sent));
    if let Some(goodput) = &round.goodput {
        cells.push(format!("{:.1}", 100.0 * goodput.share));
    }
    cells
}

fn load_cell(round: &RoundReport) -> String {
    match round.load {
        LoadReport::Rate { rate_per_s } => format!("{rate_per_s} /s"),
        LoadReport::Concurrency { concurrency } => format!("{concurrency} at once"),
    }
}

fn line(text: &mut String, name: &str, told: &str) {
    let _ = writeln!(text, "{name:<12}{told}");
}

/// With separators for thousands.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut shown = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

/// A rate with as many digits as say something.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "rates are positive and far below 2^64"
)]
fn rate(per_s: f64) -> String {
    if per_s >= 100.0 {
        count(per_s.round() as u64)
    } else {
        format!("{per_s:.1}")
    }
}

/// Milliseconds with as many digits as say something.
fn time(ms: f64) -> String {
    if ms >= 1000.0 {
        format!("{ms:.0}")
    } else if ms >= 10.0 {
        format!("{ms:.1}")
    } else {
        format!("{ms:.3}")
    }
}
