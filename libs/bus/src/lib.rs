//! Subjects, streams, acknowledgements and their limits: how bytes travel between processes. What a message means is
//! decided by those who send and receive it.
//!
//! Two implementations share one conformance suite: in-process queues here, NATS in a cluster.

#[cfg(feature = "conformance")]
pub mod conformance;
mod contract;
#[cfg(feature = "faults")]
pub mod faults;
mod in_process;
mod nats;
mod spool;
mod subjects;
mod teeth;

pub use contract::{
    Bus, BusError, Consumer, ConsumerSpec, Delivery, DeliveryControl, Enqueued, Incoming, Reply, StreamName,
    StreamRules, Subscription,
};
pub use in_process::{InProcessBus, InProcessLimits};
pub use nats::{
    ConnectError, NatsBus, NatsFatal, NatsLogin, NatsOptions, NatsStorage, NatsTls, OwnCertificate,
};
pub use spool::{
    CallCost, Confirmation, FolderSpools, MemorySpools, Spool, SpoolFile, SpoolLoad, SpoolMessage,
    SpoolOptions, SpoolPlace, SpoolSync, SpoolUntil, SpoolUnusable, SyncOrder,
};
pub use subjects::Subject;
