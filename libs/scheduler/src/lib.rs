//! Which sequences run in the next step, and with which blocks: continuous batching over one pool of KV blocks.
//!
//! [`Scheduler::plan`] fills a [`vlinders_types::Batch`], an engine computes it, [`Scheduler::apply`] takes the result
//! and says what became of whom. In between, sequences come ([`Scheduler::submit`], [`Scheduler::adopt`]) and go
//! ([`Scheduler::finish`]). Everything is a function of these calls: no clock, no randomness, no I/O. What tokens mean,
//! where requests come from and who computes a step is not known here.

mod apply;
mod counts;
mod error;
mod event;
mod input;
mod lifecycle;
mod phase;
pub mod placement;
mod plan;
mod prompt;
mod queue;
mod recent_prefixes;
mod scheduler;
mod sequence;
mod table;

pub use counts::SchedulerCounts;
pub use error::{AdoptError, CallError, SubmitError};
pub use event::{Adoption, Event, Finished, PlanOutcome};
pub use input::{AfterFirstToken, FailedDestination, NewSequence, PromptWish, SchedulerLimits, ScoreWish};
pub use phase::{AfterKv, IllegalStep, Phase, PhaseEvent};
pub use scheduler::Scheduler;
