//! Who owns which KV block, and which blocks hold a prefix that another sequence may reuse.
//!
//! A block is free, leased, cached (nobody holds it, but its content can still be found) or quarantined (a transfer may
//! still write into it). It is in exactly one of these states: [`BlockCounts`] always sum up to the total.
//!
//! A full block whose content is final is *published* under the hash of its tokens and everything before them. Published
//! blocks are shared and never written again. What sequences are, and when they run, is not known here.

mod hash;
mod lease;
mod lru;
mod pool;

pub use hash::PrefixHasher;
pub use lease::{Lease, Quarantine};
pub use pool::{BlockCounts, BlockPool, PrefixMatch};
