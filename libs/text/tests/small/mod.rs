//! Small tokenizers, built in the test.

#![allow(dead_code, reason = "every test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "test code")]

use std::sync::Arc;

use serde_json::{Map, Value, json};
use vlinders_text::{ModelText, TextFiles};

/// A special token of [`byte_level`].
pub(crate) const END: u32 = 262;
/// A token of [`byte_level`] that was added but is not special.
pub(crate) const TOOL: u32 = 263;
/// The beginning-of-sequence token of [`byte_fallback`].
pub(crate) const BOS: u32 = 1;

/// The characters that stand for bytes 0 to 255.
fn byte_alphabet() -> Vec<char> {
    let mut next = 0x100;
    (0..=u8::MAX)
        .map(|byte| match byte {
            b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => char::from(byte),
            _ => {
                next += 1;
                char::from_u32(next - 1).unwrap()
            }
        })
        .collect()
}

/// Ids 0 to 255 are the bytes; a few merges follow, also inside characters.
pub(crate) fn byte_level_json() -> Value {
    let mut vocabulary: Map<String, Value> = byte_alphabet()
        .iter()
        .enumerate()
        .map(|(byte, char)| (char.to_string(), json!(byte)))
        .collect();
    // "he", "ll", "llo", " w", "é", and the first two bytes of many emoji.
    let merges = [
        ("h", "e"),
        ("l", "l"),
        ("ll", "o"),
        ("Ġ", "w"),
        ("Ã", "©"),
        ("ð", "Ł"),
    ];
    for (index, (left, right)) in merges.iter().enumerate() {
        vocabulary.insert(format!("{left}{right}"), json!(256 + index));
    }
    let added = |id: u32, content: &str, special: bool| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": special})
    };
    json!({
        "version": "1.0", "truncation": {"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
        "padding": null, "normalizer": null,
        "added_tokens": [added(END, "<|end|>", true), added(TOOL, "<|tool|>", false)],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocabulary, "merges": merges.map(|(left, right)| json!([left, right]))}
    })
}

/// Letters with a marker for spaces, and byte tokens for everything else.
pub(crate) fn byte_fallback_json() -> Value {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).to_vec();
    tokens.extend((0..=u8::MAX).map(|byte| format!("<0x{byte:02X}>")));
    tokens.push("▁".to_owned());
    tokens.extend(('a'..='z').map(String::from));
    let merges = [("▁", "h"), ("▁h", "e"), ("l", "l")];
    tokens.extend(merges.map(|(left, right)| format!("{left}{right}")));
    let vocabulary: Map<String, Value> = tokens
        .iter()
        .enumerate()
        .map(|(id, token)| (token.clone(), json!(id)))
        .collect();
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": null,
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocabulary, "merges": merges.map(|(left, right)| json!([left, right]))}
    })
}

/// [`byte_fallback_json`] with the decoder of older conversions.
pub(crate) fn metaspace_json() -> Value {
    let mut json = byte_fallback_json();
    json["decoder"] =
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true});
    json
}

/// Loads a tokenizer with a `tokenizer_config.json`.
pub(crate) fn load(tokenizer: &Value, config: &Value) -> Arc<ModelText> {
    let (tokenizer, config) = (tokenizer.to_string(), config.to_string());
    let files = TextFiles {
        tokenizer_json: tokenizer.as_bytes(),
        tokenizer_config: Some(config.as_bytes()),
        ..TextFiles::default()
    };
    Arc::new(ModelText::load(&files).unwrap())
}

/// The byte-level model.
pub(crate) fn byte_level() -> Arc<ModelText> {
    load(&byte_level_json(), &json!({"eos_token": "<|end|>"}))
}

/// The byte-fallback model.
pub(crate) fn byte_fallback() -> Arc<ModelText> {
    load(
        &byte_fallback_json(),
        &json!({"bos_token": "<s>", "eos_token": {"content": "</s>"}}),
    )
}
