//! What happened in a run, for people who replay it and for the check that a replay is one.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

/// Lines with virtual times. Clones write into the same trace.
#[derive(Clone)]
pub(crate) struct Trace {
    began: Instant,
    is_printed: bool,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Trace {
    pub(crate) fn begin(is_printed: bool) -> Self {
        Self {
            began: Instant::now(),
            is_printed,
            lines: Arc::default(),
        }
    }

    pub(crate) fn note(&self, what: std::fmt::Arguments<'_>) {
        let line = format!("{:9.3} {what}", self.began.elapsed().as_secs_f64());
        if self.is_printed {
            eprintln!("{line}");
        }
        self.lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(line);
    }

    /// Equal for equal runs.
    pub(crate) fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .hash(&mut hasher);
        hasher.finish()
    }
}
