//! Loading made visible: a bar on a terminal, log lines elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use vlinders_model::LoadProgress;

/// A log line at most this often.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Shows how far loading has come.
pub(crate) enum LoadDisplay {
    Bar(ProgressBar),
    Lines { last: Instant },
}

impl LoadDisplay {
    /// A bar when a person watches.
    pub(crate) fn new() -> Self {
        if !std::io::stderr().is_terminal() {
            return Self::Lines { last: Instant::now() };
        }
        let bar = ProgressBar::new(0);
        let style = ProgressStyle::with_template("loading {bar:30} {bytes}/{total_bytes} {bytes_per_sec}");
        if let Ok(style) = style {
            bar.set_style(style);
        }
        Self::Bar(bar)
    }

    /// Takes in the newest state.
    pub(crate) fn show(&mut self, progress: LoadProgress) {
        match self {
            Self::Bar(bar) => {
                bar.set_length(progress.total_bytes);
                bar.set_position(progress.done_bytes);
                if progress.done_bytes == progress.total_bytes {
                    bar.finish_and_clear();
                }
            }
            Self::Lines { last } => {
                if last.elapsed() >= LINE_EVERY {
                    *last = Instant::now();
                    let percent = 100 * progress.done_bytes / progress.total_bytes.max(1);
                    tracing::info!(percent, total_bytes = progress.total_bytes, "loading weights");
                }
            }
        }
    }
}
