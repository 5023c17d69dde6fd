//! The frames two endpoints exchange. Their binary form is in [`crate::codec`].
//!
//! | frame | from | meaning |
//! |---|---|---|
//! | HELLO | both | who speaks, to whom, and how its blocks look |
//! | ATTACH | destination | redeems a ticket |
//! | REFUSE | source | the HELLO or ATTACH is not accepted |
//! | READY | source | these blocks are complete and have these checksums |
//! | HEARTBEAT | both | still here |
//! | RELEASE | destination | done with the blocks, and how it went |
//! | SETTLED | source | the answer to RELEASE: whether it was the first word |
//! | ABORT | source | withdrawn |

use bytes::Bytes;
use vlinders_types::{BlockId, RequestId, Ticket};

use crate::Refusal;

/// Blocks of one READY at most: bounds what a peer can make us allocate, and how long one chunk is read
/// before the next heartbeat.
pub const MAX_FRAME_BLOCKS: usize = 1024;
/// Bytes of the opaque state that travels with the last chunk, at most.
pub const MAX_LAST_BYTES: usize = 64 * 1024;

/// One message of the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Who speaks.
    Hello(HelloFrame),
    /// Redeems a ticket.
    Attach(Attach),
    /// HELLO or ATTACH was not accepted; the link is of no more use.
    Refuse(Refusal),
    /// A chunk may be read.
    Ready(Ready),
    /// Still here; keeps the lease alive.
    Heartbeat {
        /// Number of the hand-off.
        number: u64,
    },
    /// The destination is done with the blocks.
    Release {
        /// Which request.
        request: RequestId,
        /// Which attempt of it.
        attempt: u32,
        /// How it went.
        outcome: ReleaseOutcome,
    },
    /// The answer to RELEASE.
    Settled {
        /// Which request.
        request: RequestId,
        /// Which attempt of it.
        attempt: u32,
        /// The RELEASE decided the hand-off. False: it had already ended in another way.
        won: bool,
    },
    /// The source withdrew the hand-off.
    Abort {
        /// Number of the hand-off.
        number: u64,
    },
}

/// What must match before blocks are moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HelloFrame {
    /// Version of the protocol.
    pub protocol: u32,
    /// The speaker's life.
    pub incarnation: u64,
    /// Whom the speaker means. A restarted peer at the same address refuses.
    pub peer_incarnation: u64,
    /// Hash of model, dtype and block shape.
    pub layout_hash: u64,
    /// Bytes of one block.
    pub block_bytes: u64,
}

/// A destination's first word about one hand-off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attach {
    /// The right to read.
    pub ticket: Ticket,
    /// Which request.
    pub request: RequestId,
    /// Which attempt of it.
    pub attempt: u32,
    /// Blocks of the whole sequence; the ticket's MAC covers it.
    pub block_count: u32,
    /// Blocks before this index are not wanted.
    pub first_needed_block: u32,
}

/// A chunk that may be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// Number of the hand-off.
    pub number: u64,
    /// Counts READY frames of the hand-off from 0.
    pub chunk: u32,
    /// Index, in the sequence, of the first block.
    pub first_index: u32,
    /// The blocks, at most [`MAX_FRAME_BLOCKS`].
    pub blocks: Vec<BlockSum>,
    /// Present on the last chunk: what the destination must know beside the blocks.
    pub last: Option<Bytes>,
}

/// A block and the checksum of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockSum {
    /// Block of the source's pool.
    pub block: BlockId,
    /// xxh3, 64 bits.
    pub xxh3: u64,
}

/// How the destination fared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReleaseOutcome {
    /// Every block arrived and was verified.
    Ok,
    /// Given up.
    Abort,
    /// A block's bytes differ from its checksum.
    BadChecksum,
}
