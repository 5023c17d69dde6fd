//! What was measured, as it is kept and as it is read.

mod notes;
mod shape;
mod table;

pub use self::shape::Report;
pub(crate) use self::shape::{RoundReport, Settings, SettingsParts};
