//! What a message may hold at most. Senders stay below these; receivers refuse what is above.

/// Encoded bytes of a request, step batch, offer or any other message that carries tokens.
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;
/// Encoded bytes of a message that carries none: cancel, beacon, heartbeat, resend, drain, offer reply, usage.
pub const MAX_CONTROL_BYTES: usize = 1 << 20;
/// Encoded bytes of a dead letter: the largest message and what is said about it.
pub const MAX_DEAD_LETTER_BYTES: usize = MAX_MESSAGE_BYTES + (64 << 10);

/// Tokens of a prompt, of the tokens already emitted, and of one chunk.
pub const MAX_TOKENS: usize = 1 << 20;
/// Blocks of one hand-off: a prompt and as many generated tokens, 16 tokens each.
pub const MAX_BLOCKS: u32 = 1 << 17;
/// Bytes of the name of a tenant, key, model, frontend or worker.
pub const MAX_NAME_BYTES: usize = 256;
/// Bytes of a request's cache salt.
pub const MAX_CACHE_SALT_BYTES: usize = 256;
/// Bytes of a trace parent; version 00 has 55.
pub const MAX_TRACE_PARENT_BYTES: usize = 128;

/// Bytes of a request's constraint, over all its texts.
pub const MAX_CONSTRAINT_BYTES: usize = 512 << 10;
/// Texts a constrained answer may be one of.
pub const MAX_CHOICES: usize = 4096;

/// Stop texts of a request.
pub const MAX_STOP_TEXTS: usize = 4;
/// Bytes of one stop text.
pub const MAX_STOP_TEXT_BYTES: usize = 256;
/// Stop tokens of a request.
pub const MAX_STOP_TOKEN_IDS: usize = 1024;
/// Tokens that a request's answer may be drawn from, where it names them.
pub const MAX_ALLOWED_TOKEN_IDS: usize = 4096;
/// Runs of tokens that may not come up in an answer.
pub const MAX_BAD_WORDS: usize = 128;
/// Tokens of one of them.
pub const MAX_BAD_WORD_TOKENS: usize = 256;
/// Special tokens of a request that are written out.
pub const MAX_SHOWN_SPECIAL: usize = 64;
/// Entries of a logit bias.
pub const MAX_LOGIT_BIAS: usize = 300;
/// Most likely tokens reported for each drawn one.
pub const MAX_TOP_LOGPROBS: usize = 20;

/// Elements of an embedding.
pub const MAX_EMBEDDING: usize = 1 << 16;

/// The lowest log-probability that is sent: infinities have no place in JSON.
pub const MIN_LOGPROB: f32 = -9999.0;

/// Chunks of one step batch.
pub const MAX_CHUNKS: usize = 1 << 16;
/// Bytes of a fault's message to the caller.
pub const MAX_FAULT_BYTES: usize = 4096;
/// Frontends named in one beacon.
pub const MAX_BEACON_FRONTENDS: usize = 4096;
/// Prefixes named in one beacon.
pub const MAX_BEACON_PREFIXES: usize = 128;
/// Transports of one peer.
pub const MAX_TRANSPORTS: usize = 16;
/// Bytes of a transport's address; those of RDMA agents are blobs of some kilobytes.
pub const MAX_ADDRESS_BYTES: usize = 64 << 10;
/// Bytes of the reason in a dead letter.
pub const MAX_REASON_BYTES: usize = 1024;
/// Bytes of a subject.
pub const MAX_SUBJECT_BYTES: usize = 4096;
