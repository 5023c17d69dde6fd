//! The messages between processes: their bytes, their checks and the subjects they travel on.
//!
//! The `.proto` files under `proto/vlinders/v1` define the bytes; the generated code stays private, so nobody outside
//! sees a message that was not checked. Encoding cannot fail. Decoding checks the size before it allocates, then every
//! field: fields of a newer peer are ignored, unknown enum values and values out of range are errors that name the
//! message and the field, never what was in it.

mod check;
mod constraint;
mod control;
mod error;
mod events;
// Laid out by its generator; formatting it would make it differ from what the test generates.
#[rustfmt::skip]
#[expect(unreachable_pub, clippy::all, clippy::doc_markdown, reason = "generated code, compared byte for byte by a test")]
mod generated;
mod handoff;
pub mod limits;
mod request;
mod scores;
pub mod subjects;
mod task;
mod tokens;
mod usage;

pub use control::{
    DeadLetter, Drain, Resend, decode_beacon, decode_dead_letter, decode_drain, decode_heartbeat,
    decode_resend, encode_beacon, encode_dead_letter, encode_drain, encode_heartbeat, encode_resend,
};
pub use error::{Fault, WireError};
pub use events::{TenantTokens, decode_tenant_tokens, encode_tenant_tokens};
pub use handoff::{
    decode_offer, decode_offer_reply, decode_resume_state, encode_offer, encode_offer_reply,
    encode_resume_state,
};
pub use request::{decode_cancel, decode_request, encode_cancel, encode_request};
pub use tokens::{decode_step_batch, encode_step_batch};
pub use usage::{decode_usage_event, encode_usage_event};
