//! The settings of all subcommands: read once, checked completely, all faults told together before a port opens.
//!
//! A flag goes before its environment variable, that before the settings file, and that before the default.

mod access;
mod bus;
mod engine;
mod file;
mod kept;
mod model;
mod operators;
mod prices;
mod process;
mod roles;
mod stores;
mod stripe;
mod tokens;
mod transports;
mod up;

pub(crate) use access::{AccessArgs, AccessSettings, Surroundings};
pub(crate) use bus::{NatsArgs, QueueArgs, QueueSettings};
pub(crate) use engine::{Backend, BackendChoice, BackendKind, EngineArgs, EngineSettings, probe_gpu};
pub(crate) use file::{layered, origins};
pub(crate) use kept::KeptArgs;
pub(crate) use model::{ModelArgs, ModelChoice};
pub(crate) use operators::{AdminArgs, AdminSettings};
pub(crate) use prices::PriceArgs;
pub(crate) use process::{LogSettings, ProcessArgs};
pub(crate) use roles::{
    FrontendArgs, FrontendSettings, REQUESTS_OF_A_KEY, RateSettings, UsageRoleArgs, UsageRoleSettings,
    WorkerArgs, WorkerSettings,
};
pub(crate) use stores::{DatabaseArgs, SpoolArgs, data_dir};
pub(crate) use stripe::{StripeArgs, StripeSettings, WebhookArgs};
pub(crate) use tokens::{TokenArgs, TokenSettings};
#[cfg(feature = "nixl")]
pub(crate) use transports::NixlUse;
pub(crate) use up::{UpArgs, UpRole, UpSettings};
