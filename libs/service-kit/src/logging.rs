//! Log lines: readable on a terminal, JSON for collectors. Always on standard error, never buffered.

mod json;

use std::io::IsTerminal;
use std::str::FromStr;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

pub use self::json::JsonLines;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// One readable line each.
    #[default]
    Text,
    /// One JSON object each.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(format!("`{text}` is no log format; use `text` or `json`")),
        }
    }
}

/// Logging could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The level is not understood.
    #[error(
        "log level `{level}`: use error, warn, info, debug or trace, or a filter like `info,vlinders_worker=debug`"
    )]
    Level {
        /// As given.
        level: String,
    },
    /// Somebody started it before.
    #[error("logging was already started")]
    AlreadyStarted,
}

/// Starts logging for the whole process.
///
/// # Errors
/// When `level` is no filter, or logging runs already.
pub fn init_logging(level: &str, format: LogFormat) -> Result<(), LoggingError> {
    let filter = filter(level)?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    let started = match format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.event_format(JsonLines).try_init(),
    };
    started.map_err(|_| LoggingError::AlreadyStarted)
}

/// Whether a level is one that [`init_logging`] takes.
///
/// # Errors
/// When it is no filter.
pub fn check_log_level(level: &str) -> Result<(), LoggingError> {
    filter(level).map(|_| ())
}

fn filter(level: &str) -> Result<EnvFilter, LoggingError> {
    let refused = || LoggingError::Level {
        level: level.to_owned(),
    };
    // The filter takes a bare word that is no level for the name of a target, and then shows nothing else.
    let is_level = |word: &str| word.contains(['=', '[']) || word.trim().parse::<LevelFilter>().is_ok();
    if !level.split(',').all(is_level) {
        return Err(refused());
    }
    EnvFilter::try_new(level).map_err(|_| refused())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_format_says_which_ones_exist() {
        let message = LogFormat::from_str("xml").expect_err("xml is no format");
        assert!(message.contains("`text` or `json`"), "{message}");
    }

    #[test]
    fn a_level_that_is_no_filter_is_refused() {
        for level in ["nonsense=nonsense=1", "loud", "info,loud"] {
            let refused = init_logging(level, LogFormat::Text);
            assert!(
                matches!(refused, Err(LoggingError::Level { .. })),
                "{level}: {refused:?}"
            );
        }
    }
}
