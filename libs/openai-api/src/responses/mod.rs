//! `/v1/responses`: items in, items out. A request becomes one for the chat endpoint, and what that answers is told in
//! items again.

mod answer;
mod input;
mod output;
mod request;

pub use answer::ResponsesWriter;
pub use request::{ResponsesRequest, parse_responses};
