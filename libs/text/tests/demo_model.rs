//! The built-in demo model's files.

#![allow(clippy::unwrap_used, reason = "test code")]

use std::sync::Arc;

use serde_json::json;
use vlinders_text::{ChatInput, ModelText, TextFiles};

fn file(name: &str) -> Vec<u8> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../services/vlinders/demo-model");
    std::fs::read(format!("{folder}/{name}")).unwrap()
}

#[test]
fn the_demo_models_text_files_work_together() {
    let files = [
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
        "config.json",
    ]
    .map(file);
    let [tokenizer_json, tokenizer_config, generation_config, config] = &files;
    let model = ModelText::load(&TextFiles {
        tokenizer_json,
        tokenizer_config: Some(tokenizer_config),
        chat_template_jinja: None,
        generation_config: Some(generation_config),
        config: Some(config),
    });
    let model = Arc::new(model.unwrap());
    let content = "Hello! What is Vlinders? – naïve 🦋";
    let input = ChatInput {
        messages: vec![json!({"role": "user", "content": content})],
        add_generation_prompt: true,
        ..ChatInput::default()
    };
    let prompt = model.render_chat(&input).unwrap();
    let ids = model.encode(&prompt, false).unwrap();
    assert!(ids.iter().all(|id| (*id as usize) < model.vocabulary_size()));
    let bos = model.bos_id().unwrap();
    assert_eq!(
        ids.iter().filter(|id| **id == bos).count(),
        1,
        "exactly one beginning in {prompt:?}"
    );
    assert!(model.decode(&ids).contains(content));
    assert!(!model.eos_ids().is_empty() && model.eos_ids().iter().all(|id| model.is_special(*id)));
}
