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
use crate::{Gate, KvTransport, Link, PullError, PullErrorKind, TransportError};

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

/// What a pull has done, however it ended. Of a dropped one it tells nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PullReport {
    /// By which transport the source was reached.
    pub transport: Option<&'static str>,
    /// Bytes of blocks that arrived and were verified.
    pub bytes: u64,
}

pub(crate) async fn pull(
    core: &Arc<Core>,
    transports: &[Arc<dyn KvTransport>],
    order: PullOrder,
    report: &mut PullReport,
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
        Ok((transport, link)) => {
            report.transport = Some(transport);
            link
        }
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
    report.bytes = puller.pulled_bytes;
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

/// Best first. What is not here is a transport of the caller's own; it was listed for a reason.
const PREFERRED: [&str; 4] = ["mem", "shm", "nixl", "tcp"];

/// The peer's transports that we speak too, best first, with the peer's address by each.
fn in_common<'a>(
    transports: &'a [Arc<dyn KvTransport>],
    peer: &'a Hello,
) -> Vec<(&'a dyn KvTransport, &'a str)> {
    let mut common: Vec<_> = peer
        .transports
        .iter()
        .filter_map(|(name, address)| {
            let ours = transports.iter().find(|transport| transport.name() == name)?;
            Some((&**ours, address.as_str()))
        })
        .collect();
    // Unknown ones sort before the known: `None` is the least.
    common.sort_by_key(|(transport, _)| PREFERRED.iter().position(|name| *name == transport.name()));
    common
}

/// Connects by the best transport that both sides speak and that reaches the peer.
async fn connect(
    core: &Core,
    transports: &[Arc<dyn KvTransport>],
    peer: &Hello,
) -> Result<(&'static str, Box<dyn Link>), PullErrorKind> {
    for (transport, address) in in_common(transports, peer) {
        let (name, worker) = (transport.name(), &peer.worker);
        match timeout(core.config.heartbeat(), transport.connect(peer, address)).await {
            Ok(Ok(link)) => return Ok((name, link)),
            // Not meant to reach this peer, which is no failure.
            Ok(Err(error @ TransportError::Unreachable { .. })) => {
                tracing::debug!(transport = name, peer = %worker, %error, "kv transfer tries the next transport");
            }
            Ok(Err(TransportError::Io { source, .. })) => {
                tracing::warn!(transport = name, peer = %worker, error = %source, "kv transfer cannot connect");
            }
            Err(_) => {
                tracing::warn!(transport = name, peer = %worker, "kv transfer could not connect in time")
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MemTransport, TcpOptions, TcpTransport};
    use vlinders_types::WorkerId;

    #[test]
    fn the_best_common_transport_comes_first_whatever_the_order_of_the_lists() {
        let ours: Vec<Arc<dyn KvTransport>> = vec![
            TcpTransport::new(TcpOptions::new(([127, 0, 0, 1], 0).into())),
            MemTransport::new(),
        ];
        let listed = ["tcp", "shm", "unheard-of", "mem"];
        let peer = Hello {
            protocol: 1,
            worker: WorkerId::new("prefill-0"),
            incarnation: 1,
            layout_hash: 1,
            block_bytes: 1,
            transports: listed
                .map(|name| (name.to_owned(), format!("to {name}")))
                .to_vec(),
        };
        let common = in_common(&ours, &peer);
        let names = common
            .iter()
            .map(|(transport, address)| (transport.name(), *address));
        assert_eq!(names.collect::<Vec<_>>(), [("mem", "to mem"), ("tcp", "to tcp")]);
    }
}
