//! How long and how much is kept.

use std::time::Duration;

/// Which answers of `/v1/responses` are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ResponseKeeping {
    /// Those whose clients do not say otherwise, as they expect.
    #[default]
    UnlessRefused,
    /// Those whose clients ask for it.
    WhenAsked,
    /// None.
    Never,
}

/// How long and how much is kept. The default is fit for production.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptRules {
    /// How long everything is kept where nobody says otherwise.
    pub retention: Duration,
    /// Which responses are kept.
    pub responses: ResponseKeeping,
    /// Between two looks for what is old.
    pub sweep_every: Duration,
    /// Bytes of one file.
    pub file_bytes: u64,
    /// Bytes of all files of one tenant. What batches write may exceed it.
    pub tenant_bytes: u64,
    /// Files that arrive at one time.
    pub uploads: usize,
    /// How long one may take to arrive.
    pub upload_deadline: Duration,
    /// How batches run.
    pub batches: BatchRules,
}

/// How batches run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchRules {
    /// How long a batch may take: after that no more lines are begun.
    pub window: Duration,
    /// Lines of one batch.
    pub lines: u32,
    /// Batches of one tenant that have not ended.
    pub open: u32,
    /// Batches that this process runs at one time. 0: it runs none, others do.
    pub at_once: usize,
    /// Lines of one batch that are being answered at one time.
    pub lines_at_once: usize,
    /// How long a batch is held without a word: whoever is silent for longer has lost it.
    pub lease: Duration,
    /// Between two looks for a batch that nobody runs.
    pub look_every: Duration,
    /// How often a line that fails on our side is tried.
    pub tries: u32,
    /// A key that has no room for so long lets others go first.
    pub park_after: Duration,
}

impl Default for KeptRules {
    fn default() -> Self {
        Self {
            retention: Duration::from_secs(30 * 24 * 3600),
            responses: ResponseKeeping::default(),
            sweep_every: Duration::from_secs(600),
            file_bytes: 100 << 20,
            tenant_bytes: 2 << 30,
            uploads: 16,
            upload_deadline: Duration::from_secs(900),
            batches: BatchRules::default(),
        }
    }
}

impl Default for BatchRules {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(24 * 3600),
            lines: 50_000,
            open: 100,
            at_once: 4,
            lines_at_once: 8,
            lease: Duration::from_secs(15),
            look_every: Duration::from_secs(1),
            tries: 5,
            park_after: Duration::from_secs(30),
        }
    }
}

impl KeptRules {
    /// When what is kept at this time is old, milliseconds since 1970.
    pub(crate) fn expires_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_add(milliseconds(self.retention))
    }
}

pub(crate) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
