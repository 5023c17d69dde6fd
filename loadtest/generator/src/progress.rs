//! A round made visible: one line that changes on a terminal, a line now and then elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::round::{Phase, Snapshot};
use crate::span;

/// A plain line at most this often.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Where progress goes.
pub(crate) enum Progress {
    /// A person watches.
    Bar(ProgressBar),
    /// A log.
    Lines {
        /// When the last one was written.
        last: Instant,
    },
    /// Nobody wants it.
    Hidden,
}

impl Progress {
    /// On standard error.
    pub(crate) fn new(is_wanted: bool) -> Self {
        if !is_wanted {
            return Self::Hidden;
        }
        if !std::io::stderr().is_terminal() {
            return Self::Lines { last: Instant::now() };
        }
        let bar = ProgressBar::no_length();
        if let Ok(style) = ProgressStyle::with_template("{wide_msg}") {
            bar.set_style(style);
        }
        Self::Bar(bar)
    }

    /// Shows how far a round is.
    pub(crate) fn show(&mut self, snapshot: &Snapshot<'_>) {
        match self {
            Self::Bar(bar) => bar.set_message(told(snapshot)),
            Self::Lines { last } if last.elapsed() >= LINE_EVERY => {
                *last = Instant::now();
                eprintln!("{}", told(snapshot));
            }
            Self::Lines { .. } | Self::Hidden => {}
        }
    }

    /// Makes room for the report.
    pub(crate) fn clear(&self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

fn told(snapshot: &Snapshot<'_>) -> String {
    let seconds = snapshot.elapsed.as_secs_f64();
    let (phase, whole) = match snapshot.phase {
        Phase::WarmUp { .. } => ("warming up", Some(snapshot.round.warm_up)),
        Phase::Measuring { .. } => ("measuring", snapshot.round.duration),
        Phase::Draining => ("waiting for the last answers", None),
    };
    let whole = whole.map(|whole| format!("/{}", span::show(whole)));
    let mut line = format!(
        "{phase} {seconds:.0}s{}, {} in flight",
        whole.unwrap_or_default(),
        snapshot.in_flight
    );
    let (flow, tally) = (&snapshot.flow, &snapshot.recorder.tally);
    if snapshot.phase.sends() && seconds > 0.0 {
        line += &format!(", {:.0} req/s", flow.ended.completed as f64 / seconds);
        if flow.stream_chunks > 0 {
            line += &format!(", {:.0} chunks/s", flow.stream_chunks as f64 / seconds);
        }
    }
    let (name, spread) = if snapshot.recorder.ttft.count() > 0 {
        ("TTFT", &snapshot.recorder.ttft)
    } else {
        ("e2e", &snapshot.recorder.e2e)
    };
    if spread.count() > 0 {
        line += &format!(
            ", {name} p50 {:.1} p99 {:.1} ms",
            spread.quantile_ms(0.5),
            spread.quantile_ms(0.99)
        );
    }
    if tally.failed > 0 {
        line += &format!(", {} failed", tally.failed);
    }
    line
}
