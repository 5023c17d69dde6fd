//! A model's tokenizer, template and defaults, loaded from its files.

use std::sync::Arc;

use tokenizers::Tokenizer;
use vlinders_types::TokenId;

use crate::settings::{DefaultSampling, Settings};
use crate::template::ChatTemplate;
use crate::vocabulary::Vocabulary;
use crate::{ChatInput, ReasoningFormat, StreamDecoder, TextError, ToolFormat};

/// The files of a model folder that concern text.
#[derive(Clone, Copy, Debug, Default)]
pub struct TextFiles<'a> {
    /// `tokenizer.json`.
    pub tokenizer_json: &'a [u8],
    /// `tokenizer_config.json`: special tokens, and the chat template of older models.
    pub tokenizer_config: Option<&'a [u8]>,
    /// `chat_template.jinja`; goes before the one in `tokenizer_config.json`.
    pub chat_template_jinja: Option<&'a str>,
    /// `generation_config.json`: ends of sequence and default sampling.
    pub generation_config: Option<&'a [u8]>,
    /// `config.json`: ends of sequence.
    pub config: Option<&'a [u8]>,
}

/// Everything about a model that concerns text. Shared behind an [`Arc`] by all who encode, decode and render.
pub struct ModelText {
    tokenizer: Tokenizer,
    vocabulary: Vocabulary,
    template: Option<ChatTemplate>,
    settings: Settings,
}

impl ModelText {
    /// Reads the files and compiles the template.
    ///
    /// # Errors
    /// When a file is malformed, or the tokenizer's decoder cannot work token by token.
    pub fn load(files: &TextFiles<'_>) -> Result<Self, TextError> {
        let mut tokenizer = Tokenizer::from_bytes(files.tokenizer_json).map_err(|error| TextError::File {
            file: "tokenizer.json",
            reason: error.to_string(),
        })?;
        // Lengths are decided by whoever knows the context, never silently here.
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| TextError::File {
            file: "tokenizer.json",
            reason: error.to_string(),
        })?;
        let vocabulary = Vocabulary::new(&tokenizer)?;
        let settings = Settings::read(files, |token| tokenizer.token_to_id(token))?;
        let template = ChatTemplate::compile(&settings.templates, &settings.special_tokens)?;
        Ok(Self {
            tokenizer,
            vocabulary,
            template,
            settings,
        })
    }

    /// Token ids are below this. The model's own vocabulary may be padded beyond it.
    #[must_use]
    pub fn vocabulary_size(&self) -> usize {
        self.vocabulary.len()
    }

    /// Tokens that end a sequence: of `generation_config.json`, `config.json` and the tokenizer together, sorted.
    #[must_use]
    pub fn eos_ids(&self) -> &[TokenId] {
        &self.settings.eos_ids
    }

    /// The beginning-of-sequence token, if the tokenizer has one.
    #[must_use]
    pub fn bos_id(&self) -> Option<TokenId> {
        self.settings.bos_id
    }

    /// How the model's makers advise to draw tokens.
    #[must_use]
    pub fn default_sampling(&self) -> &DefaultSampling {
        &self.settings.sampling
    }

    /// Whether [`ModelText::render_chat`] can work at all.
    #[must_use]
    pub fn has_chat_template(&self) -> bool {
        self.template.is_some()
    }

    /// How the model writes calls of tools, as far as its chat template tells.
    #[must_use]
    pub fn tool_format(&self) -> Option<ToolFormat> {
        self.settings
            .templates
            .sources()
            .find_map(ToolFormat::of_template)
    }

    /// How the model marks its reasoning, as far as its chat template tells.
    #[must_use]
    pub fn reasoning_format(&self) -> Option<ReasoningFormat> {
        self.settings
            .templates
            .sources()
            .find_map(ReasoningFormat::of_template)
    }

    /// Those of the markers that are special tokens of this vocabulary, which have no text unless it is asked for.
    #[must_use]
    pub fn special_markers(&self, markers: &[&str]) -> Vec<TokenId> {
        let ids = markers.iter().filter_map(|marker| self.token_id(marker));
        ids.filter(|id| self.is_special(*id)).collect()
    }

    /// Text to tokens. `add_special` adds what the tokenizer adds to a whole text (usually its beginning-of-sequence
    /// token), unless the text already begins with that token. Rendered chats are encoded without.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<TokenId>, TextError> {
        let begins_with_bos = self
            .settings
            .bos_text()
            .is_some_and(|bos| !bos.is_empty() && text.starts_with(bos));
        let encoding = self.tokenizer.encode_fast(text, add_special && !begins_with_bos);
        let encoding = encoding.map_err(|error| TextError::Encode {
            reason: error.to_string(),
        })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Tokens to text, as a whole. Special tokens and unknown ids have no text; bytes that are no character become U+FFFD.
    #[must_use]
    pub fn decode(self: &Arc<Self>, ids: &[TokenId]) -> String {
        let mut decoder = StreamDecoder::new(self, &[]);
        let mut text: String = ids.iter().map(|id| decoder.push(*id)).collect();
        text.push_str(&decoder.finish());
        text
    }

    /// The bytes a token stands for inside a text, not always whole characters. A special token's are its name; an
    /// unknown id has none.
    #[must_use]
    pub fn token_bytes(&self, id: TokenId) -> Vec<u8> {
        self.vocabulary.bytes(id).to_vec()
    }

    /// Whether the token is special: never shown in decoded text.
    #[must_use]
    pub fn is_special(&self, id: TokenId) -> bool {
        self.vocabulary.is_special(id)
    }

    /// The id of a token by its exact spelling in the vocabulary.
    #[must_use]
    pub fn token_id(&self, token: &str) -> Option<TokenId> {
        self.tokenizer.token_to_id(token)
    }

    /// Messages to the prompt's text. Encode it with `add_special` false: the template writes special tokens itself.
    ///
    /// # Errors
    /// When the model has no template, or the template refuses the messages, fails on them or takes too long.
    pub fn render_chat(&self, input: &ChatInput) -> Result<String, TextError> {
        let template = self.template.as_ref().ok_or(TextError::NoTemplate)?;
        crate::chat::render(template, input)
    }

    pub(crate) fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// What the token stands for at the beginning of a text.
    pub(crate) fn first_piece(&self, id: TokenId) -> Option<Vec<u8>> {
        self.tokenizer
            .id_to_token(id)
            .map(|token| self.vocabulary.piece_of(&token, true))
    }
}

impl std::fmt::Debug for ModelText {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("ModelText")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
