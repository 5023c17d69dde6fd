//! A model whose tokens are bytes.

use std::sync::Arc;

use serde_json::json;
use vlinders_frontend::{ModelFormats, ServedModel};
use vlinders_text::{ModelText, ReasoningFormat, TextFiles, ToolFormat};
use vlinders_types::ModelName;

use crate::support::{CONTEXT, VOCABULARY};

pub(crate) fn served_model() -> ServedModel {
    let tokenizer = tokenizer_json();
    let template = "{% for tool in tools or [] %}{{ tool.function.name }};{% endfor %}\
                    {% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}\
                    {% if add_generation_prompt %}>{% endif %}{% if enable_thinking %}<think>{% endif %}";
    let files = TextFiles {
        tokenizer_json: tokenizer.as_bytes(),
        tokenizer_config: None,
        chat_template_jinja: Some(template),
        generation_config: None,
        config: None,
    };
    ServedModel {
        name: ModelName::new("tiny"),
        aliases: vec!["alias".to_owned(), "org/tiny".to_owned()],
        text: Arc::new(ModelText::load(&files).expect("a valid tokenizer")),
        formats: ModelFormats {
            tools: Some(ToolFormat::Hermes),
            reasoning: Some(ReasoningFormat::Think),
        },
        max_context_tokens: CONTEXT,
        hidden: 8,
        pooling: vlinders_types::Pooling::LastToken,
        vocabulary: VOCABULARY,
    }
}

/// One token for each byte, numbered by it.
fn tokenizer_json() -> String {
    let is_shown = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut hidden = 256_u32..;
    let mut vocabulary = serde_json::Map::new();
    for byte in 0..=255_u8 {
        let code = if is_shown(byte) {
            u32::from(byte)
        } else {
            hidden.next().expect("it has no end")
        };
        let char = char::from_u32(code).expect("below the surrogates");
        vocabulary.insert(char.to_string(), byte.into());
    }
    vocabulary.insert("<end>".to_owned(), 256.into());
    let byte_level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": [{"id": 256, "content": "<end>", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true}],
        "pre_tokenizer": byte_level, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocabulary, "merges": []},
    })
    .to_string()
}
