//! Text to tokens and back: the model's tokenizer, its chat template rendered as the Python reference renders it,
//! incremental detokenization and stop texts.
//!
//! Everything is `Send + Sync` and synchronous. [`ModelText::encode`] and [`ModelText::render_chat`] take time in
//! proportion to their input: call them off the async threads.

mod chat;
mod decode;
mod error;
mod json;
mod messages;
mod methods;
mod model_text;
mod python;
mod reasoning;
mod settings;
mod stop;
mod stream;
mod template;
mod time;
mod tools;
mod vocabulary;

pub use chat::ChatInput;
pub use decode::StreamDecoder;
pub use error::TextError;
pub use model_text::{ModelText, TextFiles};
pub use reasoning::{ReasoningEvent, ReasoningFormat, ReasoningParser};
pub use settings::DefaultSampling;
pub use stop::StopMatcher;
pub use stream::{StopHit, TextStep, TextStream};
pub use tools::{OfferedTool, SpecialMarker, ToolEvent, ToolFormat, ToolParser};
