//! The destination's side of one hand-off.
//!
//! Everything happens inside the caller's future. Dropping it anywhere drops [`Puller`] (which gives up towards
//! the source) and then [`OpenPull`] (which closes the gate and keeps unfinished reads in quarantine).

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::{Instant, timeout};
use vlinders_types::{BlockId, Hello, RequestId, Ticket};

use crate::endpoint::Core;
use crate::frames::HelloFrame;
use crate::puller::Puller;
use crate::{Gate, KvTransport, Link, PullError, PullErrorKind};

/// Which blocks to take over, from whom, and where to put them.
#[derive(Clone, Debug)]
pub struct PullOrder {
    /// The source.
    pub peer: Hello,
    /// The right to read.
    pub ticket: Ticket,
    /// Which request.
    pub request: RequestId,
    /// Which attempt of it.
    pub attempt: u32,
    /// Blocks before this index are here already.
    pub first_needed_block: u32,
    /// Where the blocks from `first_needed_block` on go: all of them, in order.
    pub destination: Vec<BlockId>,
}

pub(crate) async fn pull(
    core: &Arc<Core>,
    transports: &[Arc<dyn KvTransport>],
    order: PullOrder,
) -> Result<Bytes, PullError> {
    let failed = |kind| PullError {
        kind,
        quiesced: true,
        settled: false,
        last: None,
    };
    let block_count = checked(core, &order).map_err(failed)?;
    if !core.begin_pull() {
        return Err(failed(PullErrorKind::Full));
    }
    let open = OpenPull {
        core,
        request: order.request,
        attempt: order.attempt,
        gate: Gate::open(),
        began_at: Instant::now(),
        label: "dropped",
    };
    let link = match connect(core, transports, &order.peer).await {
        Ok(link) => link,
        Err(kind) => {
            return Err(PullError {
                quiesced: open.finish(kind.label()),
                ..failed(kind)
            });
        }
    };
    let mut puller = Puller::new(core, order, block_count, link, &open.gate);
    let result = puller.run().await;
    let (settled, last) = (puller.is_settled(), puller.last.take());
    // The link goes first: what it still reads ends by that.
    drop(puller);
    match result {
        Ok(last) => {
            open.finish("ok");
            Ok(last)
        }
        Err(kind) => Err(PullError {
            kind,
            quiesced: open.finish(kind.label()),
            settled,
            last,
        }),
    }
}

/// Whether the order can be carried out here, and the blocks of the whole sequence.
fn checked(core: &Core, order: &PullOrder) -> Result<u32, PullErrorKind> {
    let pool_blocks = core.memory.block_count();
    let wanted = u32::try_from(order.destination.len()).map_err(|_| PullErrorKind::InvalidOrder)?;
    let block_count = order
        .first_needed_block
        .checked_add(wanted)
        .ok_or(PullErrorKind::InvalidOrder)?;
    if order.destination.iter().any(|block| block.0 >= pool_blocks) {
        return Err(PullErrorKind::InvalidOrder);
    }
    // The same questions the source will ask; an offer that cannot work needs no connection.
    let theirs = HelloFrame {
        protocol: order.peer.protocol,
        incarnation: order.peer.incarnation,
        peer_incarnation: core.config.incarnation,
        layout_hash: order.peer.layout_hash,
        block_bytes: order.peer.block_bytes,
    };
    core.check_hello(&theirs).map_err(PullErrorKind::Refused)?;
    Ok(block_count)
}

/// Connects by the first of the peer's transports that we speak and that reaches it.
async fn connect(
    core: &Core,
    transports: &[Arc<dyn KvTransport>],
    peer: &Hello,
) -> Result<Box<dyn Link>, PullErrorKind> {
    for (name, address) in &peer.transports {
        let Some(transport) = transports.iter().find(|transport| transport.name() == name) else {
            continue;
        };
        match timeout(core.config.heartbeat(), transport.connect(peer, address)).await {
            Ok(Ok(link)) => return Ok(link),
            Ok(Err(error)) => {
                tracing::debug!(transport = name, %error, "kv transfer tries the next transport")
            }
            Err(_) => tracing::debug!(transport = name, "kv transfer could not connect in time"),
        }
    }
    Err(PullErrorKind::Unreachable)
}

/// A pull's place among the open ones.
struct OpenPull<'a> {
    core: &'a Core,
    request: RequestId,
    attempt: u32,
    gate: Gate,
    began_at: Instant,
    label: &'static str,
}

impl OpenPull<'_> {
    /// Ends it; true when nothing can write into its blocks any more.
    fn finish(mut self, label: &'static str) -> bool {
        self.label = label;
        self.gate.close();
        self.gate.is_drained()
    }
}

impl Drop for OpenPull<'_> {
    fn drop(&mut self) {
        self.core.quarantine.hold(self.request, self.attempt, &self.gate);
        self.core.end_pull();
        self.core
            .count(|counts| counts.pull_ended(self.label, self.began_at.elapsed()));
    }
}
