//! Clocks of machines that do not agree: virtual time with an offset for each.

use tokio::time::Instant;
use vlinders_service_kit::Clock;

/// When every simulated run begins, milliseconds since 1970.
const BEGIN_MS: u64 = 1_700_000_000_000;

/// One machine's clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SkewedClock {
    began: Instant,
    /// How far it is ahead.
    skew_ms: i64,
}

impl SkewedClock {
    pub(crate) fn new(began: Instant, skew_ms: i64) -> Self {
        Self { began, skew_ms }
    }
}

impl Clock for SkewedClock {
    fn now_ms(&self) -> u64 {
        let elapsed = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        (BEGIN_MS + elapsed).saturating_add_signed(self.skew_ms)
    }
}
