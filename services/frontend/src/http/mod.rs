//! Routes, and what all of them have in common.

mod access;
mod body;
pub(crate) mod envelope;
pub(crate) mod health;
mod models;
mod reply;
mod request_record;
mod router;

pub(crate) use access::refused;
pub(crate) use body::{HeldBody, read_json};
pub(crate) use envelope::{InnerCall, RequestContext};
pub(crate) use health::obstacle;
pub(crate) use reply::{Refusal, error_response, json_response, rate_headers};
pub(crate) use request_record::RequestRecord;
pub(crate) use router::{inner_router, router, routes};
