//! Starts the real program in a scratch folder and talks to it as its users do.
//!
//! Nothing here knows a crate of the workspace: what users cannot see is not tested here.

mod background;
mod checkpoint;
mod client;
mod client_scripts;
mod cluster;
mod collector;
mod dice;
mod history;
mod load;
mod metrics;
mod places;
mod process;
mod reply;
mod server;
mod servers;
mod switch;
mod usage;
mod waiting;

pub use checkpoint::{Checkpoint, Golden, byte_tokenizer, copy_of};
pub use client::{Answer, Client, EventStream};
pub use client_scripts::{CLIENT_SCRIPTS, check_with_client};
pub use cluster::{Cluster, Plan, Role};
pub use collector::{Collector, ReceivedEvent, ReceivedSpan};
pub use dice::Dice;
pub use history::{History, Reference};
pub use load::{Answers, Heard, Load, Subject};
pub use metrics::Samples;
pub use places::{example, node, program, python, repository};
pub use process::{Ended, ProcessFacts, run_to_end, run_to_end_with};
pub use reply::Reply;
pub use server::{Server, Stopped};
pub use servers::{NatsServer, PostgresServer, RedisServer};
pub use switch::Switch;
pub use usage::{UsageRow, usage_rows};
pub use waiting::{PATIENCE, until};
