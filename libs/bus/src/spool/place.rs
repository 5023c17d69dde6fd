//! Where spool files lie: a folder, or memory that stands for one in tests.
//!
//! A file belongs to whoever holds it and is free when its holder is gone, however it went. All calls may block.

use std::io;
use std::time::Duration;

/// What it costs to call a place or a file of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallCost {
    /// It may wait for a disk, and so must not be made where other tasks wait their turn.
    Blocks,
    /// It returns at once, and seems to have taken so long.
    Seems(Duration),
}

/// Where spool files are made and found.
pub trait SpoolPlace: Send + Sync + 'static {
    /// For messages: where it is.
    fn name(&self) -> String;

    /// What a call costs.
    fn cost(&self) -> CallCost;

    /// Makes an empty file and holds it.
    ///
    /// # Errors
    /// When the place cannot be written.
    fn create(&self) -> io::Result<Box<dyn SpoolFile>>;

    /// Takes one file whose holder is gone; none when there is none. Two who ask at once never get the same.
    ///
    /// # Errors
    /// When the place cannot be read.
    fn adopt(&self) -> io::Result<Option<Box<dyn SpoolFile>>>;
}

/// Brings everything written so far to where the loss of power does not reach.
pub type SyncOrder = Box<dyn FnOnce() -> io::Result<()> + Send>;

/// A file of one's own. Dropping it sets it free with what it holds.
pub trait SpoolFile: Send {
    /// For messages: which one.
    fn name(&self) -> String;

    /// Adds bytes at the end. When it returns, the end of the process does not lose them. After an error there may be
    /// some of them.
    ///
    /// # Errors
    /// When not all of them could be written.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Leaves the first `bytes`.
    ///
    /// # Errors
    /// When the disk does not allow it.
    fn cut(&mut self, bytes: u64) -> io::Result<()>;

    /// Everything in it.
    ///
    /// # Errors
    /// When the disk does not allow it.
    fn read(&mut self) -> io::Result<Vec<u8>>;

    /// What to call to have it synced: needs the file no more, so that it can be written meanwhile.
    ///
    /// # Errors
    /// When the system has no more handles.
    fn sync_order(&self) -> io::Result<SyncOrder>;

    /// Takes it away for good.
    ///
    /// # Errors
    /// When the disk does not allow it.
    fn remove(self: Box<Self>) -> io::Result<()>;

    /// Puts it where nobody adopts it, for people to look at.
    ///
    /// # Errors
    /// When the disk does not allow it.
    fn set_aside(self: Box<Self>) -> io::Result<()>;
}
