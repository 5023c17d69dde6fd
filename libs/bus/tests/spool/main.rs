//! What is kept reaches its stream, whatever happens to the process, the disk and the bus.

#![expect(
    clippy::unwrap_used,
    reason = "a failed step of a test ends it, here as in the test itself"
)]

mod life;
mod processes;
mod sending;
