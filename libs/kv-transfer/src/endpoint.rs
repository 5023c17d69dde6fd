//! One worker's part in all of its hand-offs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::Instant;
use vlinders_kernel_api::KvMemory;
use vlinders_types::{Hello, RequestId};

use crate::frames::{Attach, Frame, HelloFrame};
use crate::hand_off::{HandOff, Terms};
use crate::pull::{PullOrder, PullReport};
use crate::quarantine::Quarantine;
use crate::ticket::{self, Claim};
use crate::{
    Door, EndpointConfig, KvTransport, Listener, OpenError, PROTOCOL, PullError, Refusal, Source, SourceEnd,
    TransferCounts, TransportError,
};

/// What is open at an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenHandOffs {
    /// As source: a ticket is out or blocks are being read.
    pub sources: usize,
    /// As destination.
    pub pulls: usize,
    /// Over, but somebody may still touch their blocks.
    pub quarantined: usize,
}

/// A worker's leases, tickets and quarantine, as source and as destination. Dropping it withdraws every open
/// hand-off and stops listening.
pub struct Endpoint {
    core: Arc<Core>,
    transports: Vec<Arc<dyn KvTransport>>,
    /// By transport name.
    listeners: Vec<(&'static str, Listener)>,
}

/// What hand-offs and sessions share; outlives the endpoint while one of them lives.
pub(crate) struct Core {
    pub(crate) config: EndpointConfig,
    pub(crate) memory: Arc<dyn KvMemory>,
    pub(crate) quarantine: Quarantine,
    table: Mutex<Table>,
    counts: Mutex<TransferCounts>,
}

#[derive(Default)]
struct Table {
    /// By ticket number. One that is not here is spent.
    hand_offs: BTreeMap<u64, Arc<HandOff>>,
    next_number: u64,
    pulls: usize,
}

impl Endpoint {
    /// An endpoint over `memory` that listens on every transport, best first.
    ///
    /// # Errors
    /// When a transport cannot listen.
    pub fn new(
        config: EndpointConfig,
        memory: Arc<dyn KvMemory>,
        transports: Vec<Arc<dyn KvTransport>>,
    ) -> Result<Arc<Self>, TransportError> {
        let core = Arc::new(Core {
            config,
            memory,
            quarantine: Quarantine::default(),
            table: Mutex::default(),
            counts: Mutex::default(),
        });
        let mut listeners = Vec::with_capacity(transports.len());
        for transport in &transports {
            listeners.push((transport.name(), transport.listen(Door::new(&core))?));
        }
        Ok(Arc::new(Self {
            core,
            transports,
            listeners,
        }))
    }

    /// How peers reach this endpoint; goes into every offer.
    #[must_use]
    pub fn hello(&self) -> Hello {
        let frame = self.core.hello_frame(0);
        let transports = self.listeners.iter();
        Hello {
            protocol: frame.protocol,
            worker: self.core.config.worker.clone(),
            incarnation: frame.incarnation,
            layout_hash: frame.layout_hash,
            block_bytes: frame.block_bytes,
            transports: transports
                .map(|(name, listener)| ((*name).to_owned(), listener.address.clone()))
                .collect(),
        }
    }

    /// Opens a hand-off of `block_count` blocks as source. The ticket is good for one lease; from then on the
    /// destination keeps the hand-off alive.
    ///
    /// # Errors
    /// When too many are open, or the blocks cannot be in this pool.
    pub fn open(&self, request: RequestId, attempt: u32, block_count: u32) -> Result<Source, OpenError> {
        let config = &self.core.config;
        let pool_blocks = self.core.memory.block_count();
        if block_count == 0 || block_count > pool_blocks {
            return Err(OpenError::BlockCount {
                block_count,
                pool_blocks,
            });
        }
        let mut table = self.core.table();
        if table.hand_offs.len() >= config.max_hand_offs {
            return Err(OpenError::Full {
                limit: config.max_hand_offs,
            });
        }
        let lease_ms = u64::try_from(config.lease.as_millis()).unwrap_or(u64::MAX);
        let expires_ms = (config.clock)().saturating_add(lease_ms);
        let number = table.next_number;
        table.next_number += 1;
        let claim = Claim {
            incarnation: config.incarnation,
            request,
            attempt,
            block_count,
        };
        let ticket = ticket::issue(&config.ticket_key, claim, number, expires_ms);
        let terms = Terms {
            now: Instant::now(),
            lease: config.lease,
            limit: config.limit,
        };
        let hand_off = Arc::new(HandOff::new(ticket, request, attempt, block_count, &terms));
        table.hand_offs.insert(number, Arc::clone(&hand_off));
        Ok(Source::new(Arc::clone(&self.core), hand_off))
    }

    /// Takes over a sequence's blocks as destination and returns the source's last state. Each block is verified
    /// on this side's bytes. Dropping the future gives up; the destination blocks may then be used again after
    /// [`quiesced`](Self::quiesced).
    ///
    /// # Errors
    /// Why the blocks are not here, and whether the destination blocks may be used again at once.
    pub async fn pull(&self, order: PullOrder) -> Result<Bytes, PullError> {
        self.pull_reported(order, &mut PullReport::default()).await
    }

    /// The same, and tells what was done, whether it was enough or not.
    ///
    /// # Errors
    /// As [`pull`](Self::pull).
    pub async fn pull_reported(&self, order: PullOrder, report: &mut PullReport) -> Result<Bytes, PullError> {
        crate::pull::pull(&self.core, &self.transports, order, report).await
    }

    /// Waits until no transfer of this request's attempt can touch blocks of this pool any more: after a
    /// [`PullError`] with `quiesced` false, a dropped pull, or a dropped [`Source`]. Returns at once when there is
    /// none; it does not wait for transfers that still go on.
    pub async fn quiesced(&self, request: RequestId, attempt: u32) {
        self.core.quarantine.quiesced(request, attempt).await;
    }

    /// What is open.
    #[must_use]
    pub fn open_hand_offs(&self) -> OpenHandOffs {
        let quarantined = self.core.quarantine.count();
        let table = self.core.table();
        OpenHandOffs {
            sources: table.hand_offs.len(),
            pulls: table.pulls,
            quarantined,
        }
    }

    /// Totals since the beginning.
    #[must_use]
    pub fn counts(&self) -> TransferCounts {
        self.core
            .counts
            .lock()
            .expect("nothing panics while it is held")
            .clone()
    }

    /// An idle endpoint keeps no lease, no ticket and no quarantined block.
    ///
    /// # Panics
    /// When something is open.
    pub fn assert_idle(&self) {
        assert_eq!(
            self.open_hand_offs(),
            OpenHandOffs::default(),
            "an idle endpoint has nothing open"
        );
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        // Nobody new comes in; then those inside are told.
        self.listeners.clear();
        let open: Vec<_> = self.core.table().hand_offs.values().cloned().collect();
        for hand_off in open {
            hand_off.abort();
        }
    }
}

impl Core {
    fn table(&self) -> std::sync::MutexGuard<'_, Table> {
        self.table.lock().expect("nothing panics while it is held")
    }

    pub(crate) fn count(&self, change: impl FnOnce(&mut TransferCounts)) {
        change(&mut self.counts.lock().expect("nothing panics while it is held"));
    }

    /// Our HELLO to the peer of that life.
    pub(crate) fn hello_frame(&self, peer_incarnation: u64) -> HelloFrame {
        HelloFrame {
            protocol: PROTOCOL,
            incarnation: self.config.incarnation,
            peer_incarnation,
            layout_hash: self.config.layout_hash,
            block_bytes: self.memory.block_bytes() as u64,
        }
    }

    /// Whether a peer's HELLO is for us and its blocks are like ours.
    pub(crate) fn check_hello(&self, theirs: &HelloFrame) -> Result<(), Refusal> {
        let ours = self.hello_frame(theirs.incarnation);
        if theirs.protocol != ours.protocol {
            return Err(Refusal::Protocol);
        }
        if theirs.peer_incarnation != ours.incarnation {
            return Err(Refusal::Incarnation);
        }
        if theirs.layout_hash != ours.layout_hash {
            return Err(Refusal::Layout);
        }
        if theirs.block_bytes != ours.block_bytes {
            return Err(Refusal::BlockBytes);
        }
        Ok(())
    }

    /// Redeems a ticket.
    pub(crate) fn attach(
        &self,
        attach: &Attach,
        outbox: mpsc::Sender<Frame>,
    ) -> Result<Arc<HandOff>, Refusal> {
        let claim = Claim {
            incarnation: self.config.incarnation,
            request: attach.request,
            attempt: attach.attempt,
            block_count: attach.block_count,
        };
        ticket::check(
            &self.config.ticket_key,
            claim,
            &attach.ticket,
            (self.config.clock)(),
        )?;
        if attach.first_needed_block > attach.block_count {
            return Err(Refusal::Malformed);
        }
        let found = self.table().hand_offs.get(&attach.ticket.number).cloned();
        let hand_off = found.ok_or(Refusal::TicketSpent)?;
        hand_off.attach(attach, outbox, Instant::now())?;
        Ok(hand_off)
    }

    /// Forgets an ended hand-off and counts it, once.
    pub(crate) fn retire(&self, hand_off: &HandOff, end: SourceEnd) {
        if self.table().hand_offs.remove(&hand_off.ticket.number).is_some() {
            self.count(|counts| counts.hand_off_ended(end, hand_off.opened_at.elapsed()));
        }
    }

    /// One more pull, unless there are too many.
    pub(crate) fn begin_pull(&self) -> bool {
        let mut table = self.table();
        let fits = table.pulls < self.config.max_pulls;
        table.pulls += usize::from(fits);
        fits
    }

    pub(crate) fn end_pull(&self) {
        self.table().pulls -= 1;
    }
}
