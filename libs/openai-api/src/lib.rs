//! The public JSON of an OpenAI-compatible server: what clients may send, checked; and what they get back.
//!
//! A body becomes a [`ChatRequest`] or a [`CompletionRequest`] in three passes: nesting, names, values. Each pass is
//! bounded by [`LIMITS`] and refuses with the [`ApiError`] to answer with. Nothing here knows a model, a
//! tokenizer or HTTP's transport.

mod batches;
mod chat;
mod chat_answer;
mod completion;
mod constraint;
mod decisions;
mod embeddings;
mod error;
mod json;
mod limits;
mod list;
mod logprobs;
mod message;
mod messages;
mod models;
mod names;
mod openapi;
mod options;
mod prompt;
mod prompt_logprobs;
mod raw;
mod response;
mod responses;
mod shape;
mod tokens;
mod told;
mod tools;
mod values;

pub use batches::{
    BATCH_ENDPOINTS, BATCH_WINDOW, BatchFault, BatchLine, BatchRequest, FileObject, expiry, parse_batch,
    parse_batch_line,
};
pub use chat::{ChatRequest, ReasoningWish, parse_chat};
pub use chat_answer::{
    AssistantMessage, CallFunction, ChatAnswer, ChatChoice, ChatChunk, ChatChunkChoice, Delta, ToolCall,
    ToolCallDelta,
};
pub use completion::{CompletionRequest, parse_completion};
pub use constraint::Wanted;
pub use decisions::{
    DecisionAnswer, DecisionContext, DecisionHead, DecisionRequest, LabelProbability, parse_decision,
};
pub use embeddings::{EmbeddingAnswer, EmbeddingRequest, VectorEncoding, parse_embeddings};
pub use error::{ApiError, ErrorBody};
pub use limits::{LIMITS, Limits, NumberRange, WholeRange};
pub use list::{ListQuery, list_page};
pub use logprobs::{ChatLogprobs, CompletionLogprobs, LogprobEntry, LogprobRival, TextOffsets, TokenNames};
pub use message::{Message, Role};
pub use messages::{MessagesRequest, MessagesUse, MessagesWriter, messages_error, parse_messages};
pub use models::{ModelList, ModelObject};
pub use names::UnknownFields;
pub use openapi::openapi;
pub use options::{Choices, Options, Truncation};
pub use prompt::Prompt;
pub use prompt_logprobs::{PromptLogprobs, PromptToken};
pub use response::{CompletionAnswer, CompletionChoice, Envelope, FinishWord, Usage};
pub use responses::{ResponsesRequest, ResponsesWriter, parse_responses};
pub use tokens::{
    DetokenizeAnswer, DetokenizeRequest, TokenizeAnswer, TokenizeRequest, TokenizedText, parse_detokenize,
    parse_tokenize,
};
pub use told::{
    Retelling, ToldAnswer, ToldCall, ToldChoice, ToldChunk, ToldCompletionDetails, ToldEnd, ToldError,
    ToldFinish, ToldFunction, ToldLogprobs, ToldMessage, ToldNews, ToldPromptDetails, ToldUsage,
    in_own_names,
};
pub use tools::{Tool, ToolChoice, Tools};
