//! What is kept for tenants beside their usage: responses they may come back to, files, and batches of requests. All of
//! it is a tenant's own, and goes when its time is over.

mod batches;
mod files;
mod responses;
mod rows;
mod status;

pub use batches::{BatchStore, LineResult, NewBatch, StoredBatch};
pub use files::{Arrival, Deletion, FilePage, FilePurpose, FileStore, StoredFile};
pub use responses::{ResponseStore, StoredResponse};
pub use status::{BatchEnding, BatchEvent, BatchStatus, IllegalBatchStep};

/// Keeps all of it.
pub trait KeptStore: ResponseStore + FileStore + BatchStore {}

impl<S: ResponseStore + FileStore + BatchStore> KeptStore for S {}
