//! Moves KV blocks from the worker that computed them (the source) to the worker that goes on (the destination).
//!
//! The destination pulls: it attaches with a one-use [`Ticket`](vlinders_types::Ticket), reads each chunk of
//! blocks when the source says READY, checks every block's xxh3 on its own bytes, and sends one RELEASE. The
//! source keeps its blocks until that RELEASE, or until the lease has run out and nobody can read them any more.
//!
//! The protocol is two pure state machines ([`SourcePhase`], [`DestinationPhase`]) and a few fixed frames
//! ([`Frame`]). [`Source`] and [`Endpoint::pull`] drive them; a [`KvTransport`] carries frames and bytes and
//! decides nothing. Nothing here starts a task: all work happens inside the futures that callers await.
//!
//! This crate knows blocks and bytes, never models, tokens or sequences.

mod acceptor;
mod codec;
mod config;
mod control;
mod counts;
mod destination_phase;
mod endpoint;
mod error;
mod frames;
mod gate;
mod hand_off;
mod link_key;
mod mem;
#[cfg(all(feature = "nixl", target_os = "linux"))]
mod nixl;
mod pull;
mod puller;
mod quarantine;
#[cfg(target_os = "linux")]
mod readable;
mod session;
#[cfg(target_os = "linux")]
mod shm;
mod source;
mod source_phase;
mod tcp;
mod teeth;
mod ticket;
mod transport;

#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(test)]
mod phases_agree;

pub use codec::{FrameError, MAX_FRAME_BYTES, decode_frame, encode_frame};
pub use config::{Clock, EndpointConfig};
pub use counts::TransferCounts;
pub use destination_phase::{
    DestinationEvent, DestinationPhase, IllegalDestinationStep, Progress, Settlement,
};
pub use endpoint::{Endpoint, OpenHandOffs};
pub use error::{OpenError, PullError, PullErrorKind, ReadyError, Refusal, TransportError};
pub use frames::{
    Attach, BlockSum, Frame, HelloFrame, MAX_FRAME_BLOCKS, MAX_LAST_BYTES, Ready, ReleaseOutcome,
};
pub use gate::{Gate, Pass};
pub use mem::MemTransport;
#[cfg(all(feature = "nixl", target_os = "linux"))]
pub use nixl::{NixlLanes, NixlOptions, NixlTransport};
pub use pull::{PullOrder, PullReport};
pub use session::{ReadPass, Session};
#[cfg(target_os = "linux")]
pub use shm::{ShmOptions, ShmTransport};
pub use source::{Outcome, Source};
pub use source_phase::{Filled, IllegalSourceStep, SourceEnd, SourceEvent, SourcePhase};
pub use tcp::{TcpOptions, TcpTransport};
pub use transport::{BlockRead, DestinationMemory, Door, KvTransport, Link, LinkClosed, Listener, WritePass};

/// Version of the protocol. Peers of different versions refuse one another.
pub const PROTOCOL: u32 = 1;
