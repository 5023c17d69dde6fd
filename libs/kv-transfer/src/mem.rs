//! `mem`: both endpoints live in this process.
//!
//! Each role has its own pool, so a block is copied once, straight from one pool into the other. Moving ownership
//! instead would take the block out of the source's prefix cache.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use async_trait::async_trait;
use tokio::sync::mpsc;
use vlinders_types::Hello;

use crate::{
    BlockRead, DestinationMemory, Door, Frame, KvTransport, Link, LinkClosed, Listener, Session,
    TransportError,
};

/// Endpoints that were given the same `MemTransport` reach one another.
#[derive(Default)]
pub struct MemTransport {
    doors: Arc<Doors>,
}

/// By incarnation.
type Doors = Mutex<HashMap<u64, Door>>;

impl MemTransport {
    /// A meeting place with nobody in it.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }
}

#[async_trait]
impl KvTransport for MemTransport {
    fn name(&self) -> &'static str {
        "mem"
    }

    fn listen(&self, door: Door) -> Result<Listener, TransportError> {
        let incarnation = door.incarnation();
        self.doors
            .lock()
            .expect("nothing panics while it is held")
            .insert(incarnation, door);
        let guard = Listening {
            doors: Arc::downgrade(&self.doors),
            incarnation,
        };
        Ok(Listener {
            address: String::new(),
            guard: Box::new(guard),
        })
    }

    async fn connect(&self, peer: &Hello, _address: &str) -> Result<Box<dyn Link>, TransportError> {
        let door = self
            .doors
            .lock()
            .expect("nothing panics while it is held")
            .get(&peer.incarnation)
            .cloned();
        let accepted = door.and_then(|door| door.accept());
        let (session, frames) = accepted.ok_or(TransportError::Unreachable {
            transport: self.name(),
        })?;
        Ok(Box::new(MemLink { session, frames }))
    }
}

/// Takes its door away when dropped.
struct Listening {
    doors: Weak<Doors>,
    incarnation: u64,
}

impl Drop for Listening {
    fn drop(&mut self) {
        if let Some(doors) = self.doors.upgrade() {
            doors
                .lock()
                .expect("nothing panics while it is held")
                .remove(&self.incarnation);
        }
    }
}

/// Frames to the source are calls; frames from it come by its queue.
struct MemLink {
    session: Session,
    frames: mpsc::Receiver<Frame>,
}

#[async_trait]
impl Link for MemLink {
    fn send(&mut self, frame: Frame) -> Result<(), LinkClosed> {
        self.session.receive(frame)
    }

    async fn recv(&mut self) -> Option<Frame> {
        self.frames.recv().await
    }

    async fn read_blocks(&mut self, reads: &[BlockRead], into: &DestinationMemory) -> Result<(), LinkClosed> {
        for read in reads {
            {
                // Both passes end before the yield: a dropped future leaves no write behind.
                let source = self.session.admit(read.index, read.source)?;
                let destination = into.begin()?;
                source.with_block(&mut |bytes| destination.write(read.destination, bytes));
            }
            // A block is up to a few MiB: others on this thread get their turn after each.
            tokio::task::yield_now().await;
        }
        Ok(())
    }
}
