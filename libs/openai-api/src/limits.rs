//! The one table of limits of the HTTP surface. Everything a client sends is held against it before it costs anything.

/// A closed range of numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NumberRange {
    /// Smallest legal value.
    pub min: f64,
    /// Largest legal value.
    pub max: f64,
}

/// A closed range of whole numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WholeRange {
    /// Smallest legal value.
    pub min: i64,
    /// Largest legal value.
    pub max: i64,
}

/// What a request may hold. There is one value of this type: [`LIMITS`].
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of a request body.
    pub body_bytes: usize,
    /// Bytes of all request headers together.
    pub header_bytes: usize,
    /// Lists and objects inside one another.
    pub json_depth: usize,
    /// Messages of one conversation.
    pub messages: usize,
    /// Parts of one message's content.
    pub content_parts: usize,
    /// Calls in one assistant message.
    pub tool_calls: usize,
    /// Functions on offer.
    pub tools: usize,
    /// Bytes of a function's name.
    pub tool_name_bytes: usize,
    /// Bytes of all functions' definitions together.
    pub tools_bytes: usize,
    /// Lists and objects inside one another in a schema.
    pub schema_depth: usize,
    /// Tokens of a prompt given as token ids; the model's context is usually far smaller.
    pub prompt_tokens: usize,
    /// Bytes of names and labels: model, message name, tool call id, user, cache salt, metadata values.
    pub name_bytes: usize,
    /// Entries of `metadata`.
    pub metadata_entries: usize,
    /// Entries of `chat_template_kwargs`.
    pub template_arguments: usize,
    /// Choices for each prompt.
    pub choices: WholeRange,
    /// Prompts of one request for completions.
    pub prompts: usize,
    /// Answers computed for one request: its prompts times the choices of each.
    pub answers: usize,
    /// Tokens to generate; the model's context bounds it further. 0 where something is told of the prompt.
    pub max_tokens: WholeRange,
    /// Tokens before which nothing ends the answer.
    pub min_tokens: WholeRange,
    /// Tokens of the prompt to keep; -1 keeps what fits.
    pub truncation: WholeRange,
    /// Stop strings.
    pub stop_strings: usize,
    /// Bytes of one stop string.
    pub stop_bytes: usize,
    /// Stop tokens.
    pub stop_token_ids: usize,
    /// Tokens that an answer may be drawn from, where they are named.
    pub allowed_token_ids: usize,
    /// Texts that may not come up in an answer.
    pub bad_words: usize,
    /// Bytes of one of them.
    pub bad_word_bytes: usize,
    /// Entries of `logit_bias`.
    pub logit_bias_entries: usize,
    /// What may be added to a logit.
    pub logit_bias: NumberRange,
    /// Rivals reported with each token.
    pub top_logprobs: WholeRange,
    /// Inputs of one request for embeddings.
    pub inputs: usize,
    /// Elements of an embedding; the model's own size bounds it further.
    pub dimensions: WholeRange,
    /// Labels to decide between; at least two.
    pub labels: usize,
    /// Tokens that the answers about prompts may name: those of all prompts, and the rivals of each.
    pub prompt_logprob_entries: usize,
    /// See the sampling parameter of this name.
    pub temperature: NumberRange,
    /// See the sampling parameter of this name.
    pub top_p: NumberRange,
    /// -1 and 0 keep all tokens.
    pub top_k: WholeRange,
    /// See the sampling parameter of this name.
    pub min_p: NumberRange,
    /// Bytes of a JSON schema, and of all texts of a choice together.
    pub schema_bytes: usize,
    /// Bytes of a regular expression.
    pub regex_bytes: usize,
    /// Bytes of a grammar.
    pub grammar_bytes: usize,
    /// Texts to choose from.
    pub choice_texts: usize,
    /// Presence and frequency penalty.
    pub penalty: NumberRange,
    /// Above 1 discourages, below 1 encourages repetition; 0 would divide by zero.
    pub repetition_penalty: NumberRange,
    /// Larger goes first.
    pub priority: WholeRange,
    /// Any 64 bits, signed or not.
    pub seed_min: i128,
    /// Any 64 bits, signed or not.
    pub seed_max: i128,
    /// Bytes of an error text; it may quote what the client sent.
    pub error_bytes: usize,
}

/// The limits in force.
pub const LIMITS: Limits = Limits {
    body_bytes: 10 * 1024 * 1024,
    header_bytes: 16 * 1024,
    json_depth: 64,
    messages: 4096,
    content_parts: 1024,
    tool_calls: 128,
    tools: 128,
    tool_name_bytes: 64,
    tools_bytes: 64 * 1024,
    schema_depth: 32,
    prompt_tokens: 1 << 20,
    name_bytes: 256,
    metadata_entries: 16,
    template_arguments: 16,
    choices: WholeRange { min: 1, max: 8 },
    prompts: 64,
    answers: 128,
    max_tokens: WholeRange { min: 1, max: 1 << 20 },
    min_tokens: WholeRange { min: 0, max: 1 << 20 },
    truncation: WholeRange {
        min: -1,
        max: 1 << 20,
    },
    stop_strings: 4,
    stop_bytes: 256,
    stop_token_ids: 64,
    allowed_token_ids: 4096,
    bad_words: 64,
    bad_word_bytes: 128,
    logit_bias_entries: 300,
    logit_bias: NumberRange {
        min: -100.0,
        max: 100.0,
    },
    top_logprobs: WholeRange { min: 0, max: 20 },
    inputs: 2048,
    dimensions: WholeRange { min: 1, max: 1 << 16 },
    labels: 64,
    prompt_logprob_entries: 1 << 19,
    temperature: NumberRange { min: 0.0, max: 2.0 },
    top_p: NumberRange { min: 0.0, max: 1.0 },
    top_k: WholeRange {
        min: -1,
        max: 1 << 31,
    },
    min_p: NumberRange { min: 0.0, max: 1.0 },
    schema_bytes: 64 * 1024,
    regex_bytes: 4 * 1024,
    grammar_bytes: 64 * 1024,
    choice_texts: 1000,
    penalty: NumberRange { min: -2.0, max: 2.0 },
    repetition_penalty: NumberRange { min: 0.01, max: 10.0 },
    priority: WholeRange {
        min: -1000,
        max: 1000,
    },
    seed_min: i64::MIN as i128,
    seed_max: u64::MAX as i128,
    error_bytes: 400,
};
