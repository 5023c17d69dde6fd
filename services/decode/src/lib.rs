//! The decode role: a worker that takes sequences over from prefill and generates their tokens.

use vlinders_types::{Epoch, ModelName, WorkerId};
use vlinders_worker::{Role, WorkerConfig, WorkerError, WorkerParts};

/// The usual settings of a decode worker. Change what differs, then [`start`] it.
#[must_use]
pub fn config(worker: WorkerId, epoch: Epoch, model: ModelName) -> WorkerConfig {
    WorkerConfig::new(worker, epoch, Role::Decode, model)
}

/// Starts the worker; it stops with its tasks.
///
/// # Errors
/// When the bus refuses a subscription or the system a thread.
///
/// # Panics
/// When `config` is for another role.
pub async fn start(config: WorkerConfig, parts: WorkerParts) -> Result<(), WorkerError> {
    assert_eq!(
        config.role,
        Role::Decode,
        "the decode service starts decode workers"
    );
    vlinders_worker::start(config, parts).await
}
