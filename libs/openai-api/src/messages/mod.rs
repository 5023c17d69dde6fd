//! `/v1/messages` and `/v1/messages/count_tokens`: turns of content blocks. A request becomes one for the chat endpoint,
//! and what that answers is told in blocks again.

mod answer;
mod content;
mod request;

pub use answer::{MessagesWriter, messages_error};
pub use request::{MessagesRequest, MessagesUse, parse_messages};
