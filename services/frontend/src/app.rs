//! What every request handler can reach.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use vlinders_bus::Bus;
use vlinders_service_kit::{Clock, Tracer};
use vlinders_types::{FrontendId, RequestId};

use crate::generate::{Forms, Preparer};
use crate::kept::Kept;
use crate::limiter::Settling;
use crate::metrics::FrontendMetrics;
use crate::standing::Standing;
use crate::streams::Streams;
use crate::workers::Workers;
use crate::{Authenticator, Books, Entropy, FrontendConfig, IsUp, Limiter, ServedModels, Tenants};

/// The parts of a running frontend.
pub(crate) struct App {
    pub(crate) frontend: FrontendId,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) bus_is_up: IsUp,
    pub(crate) models: ServedModels,
    pub(crate) authenticator: Arc<dyn Authenticator>,
    pub(crate) limiter: Arc<dyn Limiter>,
    pub(crate) settling: Settling,
    pub(crate) books: Books,
    pub(crate) tenants: Tenants,
    pub(crate) standing: Arc<Standing>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) metrics: Arc<FrontendMetrics>,
    pub(crate) tracer: Tracer,
    pub(crate) streams: Arc<Streams>,
    pub(crate) workers: Arc<Workers>,
    pub(crate) preparer: Preparer,
    pub(crate) forms: Forms,
    /// One permit for each file that may arrive.
    pub(crate) uploads: Semaphore,
    /// One permit for each KiB of a body in memory.
    pub(crate) body_memory: Arc<Semaphore>,
    /// Where things are kept for tenants, if anywhere.
    pub(crate) kept: Option<Kept>,
    pub(crate) config: FrontendConfig,
    /// Cancelled when no new requests are taken.
    pub(crate) stopping: CancellationToken,
    /// Seconds since 1970 at the start.
    pub(crate) started_s: u64,
}

impl App {
    /// A new id, never one a client chose: usage is counted once for each id.
    pub(crate) fn new_request_id(&self) -> RequestId {
        let random = (u128::from(self.entropy.next_u64()) << 64) | u128::from(self.entropy.next_u64());
        RequestId::from_parts(self.clock.now_ms(), random)
    }
}
