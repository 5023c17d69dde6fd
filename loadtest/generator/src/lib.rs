//! Load for any server that speaks the OpenAI protocol: offered on a schedule, measured from when it was due.

mod answer;
pub mod arguments;
mod client;
pub mod failure;
pub mod lengths;
pub mod objectives;
mod outcome;
pub mod plan;
mod progress;
pub mod prompts;
mod random;
mod recorder;
mod report;
pub mod request;
mod round;
mod self_test;
mod session;
mod span;
mod sse;
mod survey;
pub mod target;
mod watch;
mod words;

pub use self::client::{Connect, Connecting, Network, Stream};
pub use self::report::Report;
pub use self::round::{Alarm, Load, Round, StopSignal};
pub use self::self_test::self_test;
pub use self::session::carry_out;
