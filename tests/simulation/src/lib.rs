//! Deterministic simulation of everything behind the frontend: real scheduler, worker loop, hand-off and usage service,
//! over a bus, wires, a ledger and clocks that misbehave by a seed. One thread, paused time.
//!
//! - `scenario`: what a seed does to the world
//! - `world`, `workers`, `settling`, `network`, `clock`, `ledger`: the world
//! - `frontend`, `client`, `requests`: who asks, and what they see
//! - `run`, `checks`: one run and its verdict

mod checks;
mod client;
mod clock;
mod frontend;
mod ledger;
mod network;
mod random;
mod requests;
mod run;
mod scenario;
mod settling;
mod trace;
mod workers;
mod world;

pub use checks::Tally;
pub use ledger::SimLedger;
pub use requests::byte_level_text;
pub use run::run;
