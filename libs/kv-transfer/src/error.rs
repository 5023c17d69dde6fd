//! What can go wrong.

use bytes::Bytes;

/// Why a source refuses a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// Another version of the protocol.
    #[error("protocol versions differ")]
    Protocol,
    /// Meant for another life of the peer, or of another peer.
    #[error("meant for another life of the peer")]
    Incarnation,
    /// Another model, dtype or block shape.
    #[error("block layouts differ")]
    Layout,
    /// Blocks of another size.
    #[error("block sizes differ")]
    BlockBytes,
    /// Not a ticket of this endpoint, or not for this request and these blocks.
    #[error("ticket is not genuine")]
    TicketForged,
    /// A ticket whose time is over.
    #[error("ticket has expired")]
    TicketExpired,
    /// A ticket that was used before, or whose hand-off has ended.
    #[error("ticket was already used")]
    TicketSpent,
    /// Frames in an order, or with values, that make no sense.
    #[error("malformed")]
    Malformed,
}

impl Refusal {
    /// Its number in a frame.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Protocol => 1,
            Self::Incarnation => 2,
            Self::Layout => 3,
            Self::BlockBytes => 4,
            Self::TicketForged => 5,
            Self::TicketExpired => 6,
            Self::TicketSpent => 7,
            Self::Malformed => 8,
        }
    }

    /// The refusal of that number.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Protocol,
            2 => Self::Incarnation,
            3 => Self::Layout,
            4 => Self::BlockBytes,
            5 => Self::TicketForged,
            6 => Self::TicketExpired,
            7 => Self::TicketSpent,
            8 => Self::Malformed,
            _ => return None,
        })
    }
}

/// Why a hand-off cannot be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// As many hand-offs are open as may be.
    #[error("{limit} hand-offs are open, the limit")]
    Full {
        /// The limit.
        limit: usize,
    },
    /// A sequence of no blocks, or of more than the pool has.
    #[error("a hand-off of {block_count} blocks does not fit a pool of {pool_blocks}")]
    BlockCount {
        /// What was asked.
        block_count: u32,
        /// What the pool has.
        pool_blocks: u32,
    },
}

/// Why blocks cannot be announced. Each is a fault of the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadyError {
    /// Blocks out of order, more than were offered, or a last chunk that does not complete the sequence.
    #[error("{count} blocks at index {first_index} (last: {last}) do not continue {phase:?}")]
    Order {
        /// Index of the first block.
        first_index: u32,
        /// How many blocks.
        count: usize,
        /// Whether it was the last chunk.
        last: bool,
        /// Where the hand-off stands.
        phase: crate::SourcePhase,
    },
    /// A block the pool does not have.
    #[error("block {block} is not in the pool")]
    UnknownBlock {
        /// Which.
        block: u32,
    },
    /// The last state is longer than a frame may carry.
    #[error("last state of {bytes} bytes is longer than {limit_bytes}")]
    LastTooLong {
        /// Its length.
        bytes: usize,
        /// The limit.
        limit_bytes: usize,
    },
}

/// A pull that brought no usable blocks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("pull failed: {kind}")]
pub struct PullError {
    /// Why.
    #[source]
    pub kind: PullErrorKind,
    /// The destination blocks may be used for something else at once. False: await
    /// [`Endpoint::quiesced`](crate::Endpoint::quiesced) first, a read may still write to them.
    pub quiesced: bool,
    /// The source has settled the hand-off on our RELEASE, so it will not give the sequence to anybody else.
    pub settled: bool,
    /// The last state, when it had arrived.
    pub last: Option<Bytes>,
}

/// Why a pull failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum PullErrorKind {
    /// The order makes no sense: no such destination block, or blocks of another layout.
    #[error("the order is invalid")]
    InvalidOrder,
    /// As many pulls are open as may be.
    #[error("too many pulls are open")]
    Full,
    /// No transport in common, or the peer is out of reach.
    #[error("the source is out of reach")]
    Unreachable,
    /// One side found that the other does not fit, or the ticket is no good.
    #[error("refused: {0}")]
    Refused(#[source] Refusal),
    /// The source withdrew.
    #[error("the source withdrew")]
    Aborted,
    /// The source was silent for a whole lease, or the hand-off took longer than any may.
    #[error("the source stalled")]
    Stalled,
    /// The link broke.
    #[error("the link was lost")]
    LinkLost,
    /// A block's bytes differ from its checksum.
    #[error("a block has a bad checksum")]
    BadChecksum,
    /// The source sent what makes no sense here.
    #[error("the source broke the protocol")]
    Protocol,
    /// All blocks arrived, but the source had already ended the hand-off in another way.
    #[error("the source had ended the hand-off before")]
    Superseded,
    /// All blocks arrived, but it is not known whether the source took note.
    #[error("the release was not confirmed")]
    Unconfirmed,
}

impl PullErrorKind {
    /// Whether all blocks arrived and were verified, although the source has not confirmed it.
    #[must_use]
    pub fn has_all_blocks(self) -> bool {
        match self {
            Self::Superseded | Self::Unconfirmed => true,
            Self::InvalidOrder
            | Self::Full
            | Self::Unreachable
            | Self::Refused(_)
            | Self::Aborted
            | Self::Stalled
            | Self::LinkLost
            | Self::BadChecksum
            | Self::Protocol => false,
        }
    }
}

/// A transport that cannot do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The peer is not reachable by this transport.
    #[error("peer is out of reach by {transport}")]
    Unreachable {
        /// Which transport.
        transport: &'static str,
    },
    /// The operating system refused.
    #[error("{transport} failed")]
    Io {
        /// Which transport.
        transport: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}
