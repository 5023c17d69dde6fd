//! Rules of the house that a compiler does not check: which crate may know which, how long a file may be, where
//! `unsafe` may stand, and that the architecture page speaks of every crate.
//!
//! Every rule is a pure function from what was read to a list of faults, so each is tested with a workspace that breaks
//! it. `tests/workspace.rs` applies them to this one.

pub mod architecture;
pub mod arrows;
pub mod known;
pub mod sources;
pub mod workspace;
