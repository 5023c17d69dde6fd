//! Reads of other hosts' KV pools through NIXL: RDMA where the machines have it.
//!
//! The library is loaded at run time and never linked, so building needs nothing of it. What it may do to memory is
//! decided here: it writes into blocks of one registered pool, and nowhere else, while a read is under way. The pool
//! is kept alive meanwhile, whatever the callers do.
//!
//! Linux only; elsewhere the crate is empty.
#![allow(unsafe_code, reason = "a C library is called; each call names its ground")]

#[cfg(target_os = "linux")]
mod agent;
#[cfg(target_os = "linux")]
mod exit;
#[cfg(target_os = "linux")]
mod functions;
#[cfg(target_os = "linux")]
mod library;
#[cfg(target_os = "linux")]
mod lists;

#[cfg(target_os = "linux")]
pub use {
    agent::{Agent, AgentOptions, PeerPool, PoolRead, ReadId, ReadState},
    library::{Fault, Library, LoadError},
};
