//! Who an endpoint is and how long it waits.

use std::sync::Arc;
use std::time::Duration;

use vlinders_types::WorkerId;

/// Milliseconds since 1970.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Who an endpoint is and how long it waits.
#[derive(Clone)]
pub struct EndpointConfig {
    /// Whose endpoint it is.
    pub worker: WorkerId,
    /// Which life of the worker; never used twice.
    pub incarnation: u64,
    /// Random and kept nowhere else: who knows it can forge tickets.
    pub ticket_key: [u8; 32],
    /// Equal for pools whose blocks may be exchanged.
    pub layout_hash: u64,
    /// Tells when tickets expire.
    pub clock: Clock,
    /// A peer silent for so long is given up.
    pub lease: Duration,
    /// No hand-off takes longer, however lively its peer.
    pub limit: Duration,
    /// Hand-offs open as source at once.
    pub max_hand_offs: usize,
    /// Pulls open at once.
    pub max_pulls: usize,
    /// Blocks of one READY at most; a chunk is read between two heartbeats.
    pub chunk_blocks: usize,
}

impl EndpointConfig {
    /// The usual times and limits.
    #[must_use]
    pub fn new(
        worker: WorkerId,
        incarnation: u64,
        ticket_key: [u8; 32],
        layout_hash: u64,
        clock: Clock,
    ) -> Self {
        Self {
            worker,
            incarnation,
            ticket_key,
            layout_hash,
            clock,
            lease: Duration::from_secs(30),
            // The longest prompt on the slowest backend we serve takes minutes.
            limit: Duration::from_secs(600),
            max_hand_offs: 1024,
            max_pulls: 1024,
            chunk_blocks: 64,
        }
    }

    /// Between two signs of life: a lease survives the loss of five.
    pub(crate) fn heartbeat(&self) -> Duration {
        self.lease / 6
    }
}
