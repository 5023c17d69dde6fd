//! What can go wrong between text and tokens.

/// A failed text operation.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// One of the model's files cannot be used.
    #[error("{file}: {reason}")]
    File {
        /// Which one.
        file: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The model came without a chat template.
    #[error("this model has no chat template; use /v1/completions with the whole prompt as text")]
    NoTemplate,
    /// The chat template refused the messages and says why. It may quote them: this is for the caller, not for a log.
    #[error("the model's chat template refused the messages: {message}")]
    Template {
        /// The template's own words.
        message: String,
    },
    /// The messages have no form the chat template can continue.
    #[error("{0}")]
    Messages(&'static str),
    /// The chat template took too long on these messages.
    #[error("the messages are too long for the model's chat template")]
    TemplateFuel,
    /// The chat template failed on these messages: they do not have the form it expects, or it has a fault.
    #[error("the model's chat template cannot render these messages")]
    TemplateFault {
        /// What it failed on, without a word of the messages; for the log.
        reason: String,
    },
    /// The tokenizer failed.
    #[error("the text cannot be tokenized")]
    Encode {
        /// Why; for the log.
        reason: String,
    },
}

impl TextError {
    /// Whether other messages could succeed: the caller is to be told, not the operator.
    #[must_use]
    pub fn is_callers_fault(&self) -> bool {
        match self {
            Self::NoTemplate
            | Self::Template { .. }
            | Self::Messages(_)
            | Self::TemplateFuel
            | Self::TemplateFault { .. } => true,
            Self::File { .. } | Self::Encode { .. } => false,
        }
    }
}
