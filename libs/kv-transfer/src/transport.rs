//! The cut between the protocol and what carries it: a transport moves frames and block bytes and decides nothing.
//!
//! How the transports fit:
//! - `mem`: frames by queue; `read_blocks` copies from the source's memory behind a [`ReadPass`](crate::ReadPass).
//! - `shm`: frames over a local socket; the destination maps the source's memory read-only and copies from it.
//! - `tcp`: blocking threads; the source's thread asks its [`Session`] for a pass per read and writes
//!   the block, the destination's thread reads it behind a [`WritePass`].
//! - `nixl`: frames over a socket; `read_blocks` posts one-sided reads, each holding a [`WritePass`] until its end.

use std::any::Any;
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use tokio::sync::mpsc;
use vlinders_kernel_api::KvMemory;
use vlinders_types::{BlockId, Hello};

use crate::endpoint::Core;
use crate::{Frame, Gate, Pass, Session, TransportError};

/// Frames from a source that wait for their link at most. A full queue pauses the source's driver.
const QUEUED_FRAMES: usize = 8;

/// Carries frames and blocks between endpoints.
#[async_trait]
pub trait KvTransport: Send + Sync {
    /// The name in [`Hello::transports`].
    fn name(&self) -> &'static str;

    /// Lets destinations connect to the endpoint behind `door`, until the listener is dropped.
    ///
    /// # Errors
    /// When the operating system refuses.
    fn listen(&self, door: Door) -> Result<Listener, TransportError>;

    /// Connects to the source `peer` at `address`, which its transport of the same name has given out.
    ///
    /// # Errors
    /// [`TransportError::Unreachable`] when there is nobody by this way; the caller tries another.
    async fn connect(&self, peer: &Hello, address: &str) -> Result<Box<dyn Link>, TransportError>;
}

/// The destination's end of a connection to a source. Dropping it closes it: the source learns of it, and reads
/// that have begun end soon.
#[async_trait]
pub trait Link: Send + Sync {
    /// Queues a frame for the source. Never blocks, so that it can be called while something is dropped.
    ///
    /// # Errors
    /// [`LinkClosed`] when the source cannot get it any more.
    fn send(&mut self, frame: Frame) -> Result<(), LinkClosed>;

    /// The next frame from the source; `None` when the link is closed. Cancel-safe: dropped, it loses nothing.
    async fn recv(&mut self) -> Option<Frame>;

    /// Copies blocks of the source into blocks of the destination. Every write, also one that a dropped future
    /// leaves behind, happens behind a [`WritePass`].
    ///
    /// # Errors
    /// [`LinkClosed`] when the source is gone or lets nobody read any more.
    async fn read_blocks(&mut self, reads: &[BlockRead], into: &DestinationMemory) -> Result<(), LinkClosed>;
}

/// One block to copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRead {
    /// Index in the sequence; by it the source knows that the block was announced.
    pub index: u32,
    /// Block of the source's pool.
    pub source: BlockId,
    /// Block of the destination's pool.
    pub destination: BlockId,
}

/// The link is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the link is closed")]
pub struct LinkClosed;

/// Keeps a transport listening.
pub struct Listener {
    /// What peers are told, next to the transport's name.
    pub address: String,
    /// Dropping it stops listening.
    pub guard: Box<dyn Any + Send + Sync>,
}

/// Where a transport brings the destinations that connect.
#[derive(Clone)]
pub struct Door {
    core: Weak<Core>,
    incarnation: u64,
}

impl Door {
    pub(crate) fn new(core: &Arc<Core>) -> Self {
        Self {
            core: Arc::downgrade(core),
            incarnation: core.config.incarnation,
        }
    }

    /// The life of the endpoint behind it.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// The endpoint's pool; `None` when the endpoint is gone.
    #[must_use]
    pub fn memory(&self) -> Option<Arc<dyn KvMemory>> {
        Some(Arc::clone(&self.core.upgrade()?.memory))
    }

    /// Begins a session for one connection: feed it what arrives, send what the receiver yields, drop both when
    /// the connection ends; a receiver that yields `None` means that the source is done with it. `None` when
    /// the endpoint is gone.
    #[must_use]
    pub fn accept(&self) -> Option<(Session, mpsc::Receiver<Frame>)> {
        let core = self.core.upgrade()?;
        let (outbox, frames) = mpsc::channel(QUEUED_FRAMES);
        Some((Session::new(core, outbox), frames))
    }
}

/// A destination's memory, writable only while its pull lasts.
#[derive(Clone)]
pub struct DestinationMemory {
    memory: Arc<dyn KvMemory>,
    gate: Gate,
}

impl DestinationMemory {
    pub(crate) fn new(memory: Arc<dyn KvMemory>, gate: Gate) -> Self {
        Self { memory, gate }
    }

    /// Bytes of one block.
    #[must_use]
    pub fn block_bytes(&self) -> usize {
        self.memory.block_bytes()
    }

    /// The pool, for transports that make it known to who writes there. Writing needs a pass all the same.
    #[cfg(all(feature = "nixl", target_os = "linux"))]
    pub(crate) fn memory(&self) -> &Arc<dyn KvMemory> {
        &self.memory
    }

    /// The right to write; to be held by whoever writes, until the last byte is written.
    ///
    /// # Errors
    /// [`LinkClosed`] when the pull is over.
    pub fn begin(&self) -> Result<WritePass, LinkClosed> {
        let pass = self.gate.enter().ok_or(LinkClosed)?;
        Ok(WritePass {
            memory: Arc::clone(&self.memory),
            _pass: pass,
        })
    }
}

/// The right to write into destination blocks. While one exists, the blocks are not given to anybody else.
#[must_use = "the blocks count as quiet once this is dropped"]
pub struct WritePass {
    memory: Arc<dyn KvMemory>,
    _pass: Pass,
}

impl WritePass {
    /// Overwrites a block.
    ///
    /// # Panics
    /// When `bytes` is not exactly one block.
    pub fn write(&self, block: BlockId, bytes: &[u8]) {
        self.memory.write_block(block, bytes);
    }

    /// Lets `fill` overwrite a block where it lies; it finds any bytes in it.
    pub fn fill(&self, block: BlockId, fill: &mut dyn FnMut(&mut [u8])) {
        self.memory.fill_block(block, fill);
    }
}
