//! Random tokens under the mask give documents that an independent checker calls valid.
//!
//! A run checks 1,500 documents over all kinds of constraints; `VLINDERS_GRAMMAR_DOCUMENTS=10000` checks more, and
//! `VLINDERS_GRAMMAR_SEED` checks others.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]
#![allow(unreachable_pub, reason = "modules of one test binary")]

mod bombs;
mod dice;
mod grammars;
mod masks;
mod sampling;
mod schemas;
#[path = "../../../text/tests/small/mod.rs"]
mod small;
mod texts;
mod vocabularies;
