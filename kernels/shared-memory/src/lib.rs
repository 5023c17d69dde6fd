//! KV pools that other processes of the same host may read: memory behind a descriptor, writable by its owner alone.
//!
//! Linux only; elsewhere the crate is empty.
#![allow(unsafe_code, reason = "mapping memory needs it; each use names its ground")]

#[cfg(target_os = "linux")]
mod pool;
#[cfg(target_os = "linux")]
mod region;
#[cfg(target_os = "linux")]
mod view;

#[cfg(target_os = "linux")]
pub use {pool::SharedPool, region::SharedRegion, view::SharedView};
