//! Words of the hand-off from prefill to decode, and the beacons by which a decode worker is chosen.

use std::sync::Arc;

use crate::{Epoch, ModelName, Pool, PrefixMark, Request, TokenId, WorkerId};

/// How a peer's blocks can be reached, and whether they fit ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Version of the transfer protocol.
    pub protocol: u32,
    /// The peer.
    pub worker: WorkerId,
    /// Which life of the peer; a ticket of another life is refused.
    pub incarnation: u64,
    /// Hash of model, dtype, layers, heads and block shape: blocks are only moved between equal layouts.
    pub layout_hash: u64,
    /// Bytes of one block.
    pub block_bytes: u64,
    /// What it speaks, with an address each, best first: `("mem", "")`, `("tcp", "10.0.0.1:7000")`.
    pub transports: Vec<(String, String)>,
}

/// The right to read one sequence's blocks once. Forging one means guessing the MAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket {
    /// Number of the hand-off at its source.
    pub number: u64,
    /// When it expires, milliseconds since 1970.
    pub expires_ms: u64,
    /// Keyed BLAKE3 over number, expiry, request, attempt and block count.
    pub mac: [u8; 16],
}

/// "Take over this sequence": sent by prefill to one decode worker.
#[derive(Clone, Debug, PartialEq)]
pub struct Offer {
    /// The whole request, so that decode can go on alone.
    pub request: Request,
    /// Where its blocks are.
    pub source: Hello,
    /// The right to read them.
    pub ticket: Ticket,
    /// Blocks that hold the prompt and the emitted tokens.
    pub block_count: u32,
    /// W3C `traceparent` of prefill's span of this hand-off.
    pub trace_parent: Option<String>,
}

/// The answer to an [`Offer`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OfferReply {
    /// Blocks are reserved.
    Accepted {
        /// The life of the decode worker that accepted.
        epoch: Epoch,
        /// Blocks before this index are in decode's own prefix cache and need no transfer.
        first_needed_block: u32,
    },
    /// Try another worker.
    Refused {
        /// Why.
        reason: RefuseReason,
    },
}

/// Why an offer was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefuseReason {
    /// No free blocks now.
    NoBlocks,
    /// As many sequences as it may run.
    Full,
    /// Leaving.
    Draining,
    /// Another model, dtype or block shape.
    LayoutMismatch,
    /// The request is cancelled: the offering worker ends it.
    Cancelled,
    /// This worker answers for the request already, in this attempt or a newer one: the offering worker drops it.
    Answered,
    /// The offer is malformed or its ticket expired.
    Invalid,
}

/// What decode must know beside the blocks to go on exactly where prefill stopped. Travels with the last chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResumeState {
    /// Tokens drawn by prefill in this attempt, not in the request's `emitted_ids`: exactly token 0 today.
    pub generated: Vec<TokenId>,
    /// Prompt tokens found in prefill's prefix cache.
    pub cached_tokens: u32,
    /// When the first token was sent, milliseconds since 1970.
    pub first_token_ms: u64,
}

/// A worker's state as others see it, sent every 250–500 ms.
#[derive(Clone, Debug, PartialEq)]
pub struct Beacon {
    /// Which half of inference it does.
    pub pool: Pool,
    /// Who.
    pub worker: WorkerId,
    /// Which life.
    pub epoch: Epoch,
    /// What it serves.
    pub model: ModelName,
    /// Blocks nobody holds, cached ones included.
    pub free_blocks: u32,
    /// All its blocks.
    pub total_blocks: u32,
    /// Sequences that hold blocks.
    pub running: u32,
    /// Sequences it may run at once.
    pub max_running: u32,
    /// Prompt tokens not yet computed.
    pub queued_tokens: u32,
    /// Last `batch_seq` sent, per frontend.
    pub last_batch_seq: Vec<(crate::FrontendId, u64)>,
    /// Whether it takes work.
    pub presence: Presence,
    /// Prefixes found or left in its blocks lately, newest first; at most 128. Told by decode workers.
    pub recent_prefixes: Arc<[PrefixMark]>,
}

/// Where a worker is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Presence {
    /// It takes work.
    #[default]
    Serving,
    /// It takes no new work.
    Draining,
    /// It holds no work any more: its last word.
    Left,
}
