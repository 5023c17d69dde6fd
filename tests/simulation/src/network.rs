//! The wires between endpoints: cut, silent, slow, and with writes that come late.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::sleep;
use vlinders_kernel_api::KvMemory;
use vlinders_kv_transfer::{
    BlockRead, DestinationMemory, Door, Frame, KvTransport, Link, LinkClosed, Listener, MemTransport,
    TransportError,
};
use vlinders_service_kit::{Stage, Tasks};
use vlinders_types::{BlockId, Hello};

use crate::random::Random;

/// How often somebody looks whether a wire is whole again.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// A wire nobody answers on is given up by the machine at its other end after this long.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// All wires of one world.
pub(crate) struct Network {
    mem: Arc<MemTransport>,
    /// Runs what machines do by themselves: late writes, wires that nobody holds any more.
    hardware: Tasks,
    state: Mutex<State>,
}

struct State {
    /// Endpoints, by incarnation, that nobody reaches for now.
    cut: BTreeSet<u64>,
    /// Processes that were killed: their wires are closed.
    killed: BTreeSet<u64>,
    random: Random,
    corrupt: f64,
    stall: f64,
    longest_stall_ms: u64,
}

/// How bad the wires are.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WireFaults {
    /// A block arrives damaged.
    pub(crate) corrupt: f64,
    /// A read stands still, up to `longest_stall_ms`, and something else is written first.
    pub(crate) stall: f64,
    pub(crate) longest_stall_ms: u64,
}

impl Network {
    pub(crate) fn new(hardware: Tasks, random: Random, faults: WireFaults) -> Arc<Self> {
        Arc::new(Self {
            mem: MemTransport::new(),
            hardware,
            state: Mutex::new(State {
                cut: BTreeSet::new(),
                killed: BTreeSet::new(),
                random,
                corrupt: faults.corrupt,
                stall: faults.stall,
                longest_stall_ms: faults.longest_stall_ms.max(1),
            }),
        })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn cut(&self, incarnation: u64) {
        self.state().cut.insert(incarnation);
    }

    pub(crate) fn mend(&self, incarnation: u64) {
        self.state().cut.remove(&incarnation);
    }

    /// The process is gone, its machine is not: every wire of it closes.
    pub(crate) fn killed(&self, incarnation: u64) {
        self.state().killed.insert(incarnation);
    }

    /// No more damage and no more stalls. Machines that are off stay so.
    pub(crate) fn heal(&self) {
        let mut state = self.state();
        (state.corrupt, state.stall) = (0.0, 0.0);
    }

    fn is_cut(&self, ends: [u64; 2]) -> bool {
        let state = self.state();
        ends.iter().any(|end| state.cut.contains(end))
    }

    fn is_killed(&self, end: u64) -> bool {
        self.state().killed.contains(&end)
    }

    fn stall(&self) -> Option<Duration> {
        let mut state = self.state();
        let (stall, longest_ms) = (state.stall, state.longest_stall_ms);
        let happens = state.random.happens(stall);
        happens.then(|| state.random.millis(1, longest_ms))
    }

    fn is_damaged(&self) -> bool {
        let mut state = self.state();
        let corrupt = state.corrupt;
        state.random.happens(corrupt)
    }

    async fn mended(&self, ends: [u64; 2]) {
        while self.is_cut(ends) {
            sleep(LOOK_AGAIN).await;
        }
    }
}

/// One endpoint's way into the network.
pub(crate) struct SimTransport {
    pub(crate) network: Arc<Network>,
    /// The endpoint's incarnation.
    pub(crate) own: u64,
}

#[async_trait]
impl KvTransport for SimTransport {
    fn name(&self) -> &'static str {
        "sim"
    }

    fn listen(&self, door: Door) -> Result<Listener, TransportError> {
        self.network.mem.listen(door)
    }

    async fn connect(&self, peer: &Hello, address: &str) -> Result<Box<dyn Link>, TransportError> {
        let ends = [self.own, peer.incarnation];
        self.network.mended(ends).await;
        let inner = self.network.mem.connect(peer, address).await?;
        Ok(Box::new(SimLink {
            inner: Some(inner),
            network: Arc::clone(&self.network),
            ends,
            block_bytes: usize::try_from(peer.block_bytes).expect("a block fits into memory"),
            is_dead: false,
        }))
    }
}

struct SimLink {
    /// Always there, until it is dropped.
    inner: Option<Box<dyn Link>>,
    network: Arc<Network>,
    /// This end's incarnation, and the source's.
    ends: [u64; 2],
    block_bytes: usize,
    /// Something was lost on it: it never recovers.
    is_dead: bool,
}

impl SimLink {
    fn is_dead(&mut self) -> bool {
        self.is_dead |= self.network.is_cut(self.ends);
        self.is_dead
    }

    fn inner(&mut self) -> &mut Box<dyn Link> {
        self.inner.as_mut().expect("it is taken only when dropped")
    }

    /// The read stands still while somebody's late write goes on behind a pass.
    async fn stall(
        &self,
        time: Duration,
        read: &BlockRead,
        into: &DestinationMemory,
    ) -> Result<(), LinkClosed> {
        let (pass, destination) = (into.begin()?, read.destination);
        let garbage = vec![0xA5; self.block_bytes];
        self.network
            .hardware
            .spawn(Stage::Work, "late-write", async move {
                sleep(time).await;
                pass.write(destination, &garbage);
            });
        sleep(time + Duration::from_millis(2)).await;
        Ok(())
    }
}

#[async_trait]
impl Link for SimLink {
    fn send(&mut self, frame: Frame) -> Result<(), LinkClosed> {
        if self.network.is_killed(self.ends[0]) || self.network.is_killed(self.ends[1]) {
            return Err(LinkClosed);
        }
        if self.is_dead() {
            // The sender does not know.
            return Ok(());
        }
        self.inner().send(frame)
    }

    async fn recv(&mut self) -> Option<Frame> {
        let frame = if self.is_dead() {
            None
        } else {
            self.inner().recv().await
        };
        if self.is_dead() {
            self.network.mended(self.ends).await;
            return None;
        }
        frame.filter(|_| !self.network.is_killed(self.ends[1]))
    }

    async fn read_blocks(&mut self, reads: &[BlockRead], into: &DestinationMemory) -> Result<(), LinkClosed> {
        if self.is_dead() {
            self.network.mended(self.ends).await;
            return Err(LinkClosed);
        }
        if let Some(read) = reads.last()
            && let Some(time) = self.network.stall()
        {
            self.stall(time, read, into).await?;
        }
        self.inner().read_blocks(reads, into).await
    }
}

impl Drop for SimLink {
    fn drop(&mut self) {
        let is_silent = self.is_dead() && !self.network.is_killed(self.ends[0]);
        if let Some(inner) = self.inner.take_if(|_| is_silent) {
            // The source hears nothing of it.
            self.network
                .hardware
                .spawn(Stage::Work, "silent-wire", async move {
                    sleep(KEEP_ALIVE).await;
                    drop(inner);
                });
        }
    }
}

/// Memory into which wires write damaged blocks.
pub(crate) struct WiredMemory {
    pub(crate) inner: Arc<dyn KvMemory>,
    pub(crate) network: Arc<Network>,
}

impl KvMemory for WiredMemory {
    fn block_count(&self) -> u32 {
        self.inner.block_count()
    }

    fn block_bytes(&self) -> usize {
        self.inner.block_bytes()
    }

    fn with_block(&self, block: BlockId, see: &mut dyn FnMut(&[u8])) {
        self.inner.with_block(block, see);
    }

    fn write_block(&self, block: BlockId, bytes: &[u8]) {
        if !self.network.is_damaged() {
            return self.inner.write_block(block, bytes);
        }
        let mut damaged = bytes.to_vec();
        damaged[0] ^= 1;
        self.inner.write_block(block, &damaged);
    }
}
