//! Vocabularies of every kind the service knows.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use vlinders_grammar::{Budget, Compiler, TokenKind, TokenTable};
use vlinders_text::{ModelText, StreamDecoder, TextFiles};
use vlinders_types::TokenId;

use crate::small;

type Decode = Box<dyn Fn(&[TokenId]) -> String + Send + Sync>;

/// A vocabulary and its compiler.
pub struct Vocabulary {
    pub name: &'static str,
    pub compiler: Arc<Compiler>,
    pub ends: Vec<TokenId>,
    decode: Decode,
}

impl Vocabulary {
    /// The text of generated tokens, as a client would get it.
    pub fn text(&self, ids: &[TokenId]) -> String {
        (self.decode)(ids)
    }
}

/// Nothing is timed here: the machine may be busy.
const PATIENT: Budget = Budget {
    time: None,
    threads: 64,
};

pub static ALL: LazyLock<Vec<Vocabulary>> = LazyLock::new(|| {
    vec![
        of_model("byte-level", small::byte_level(), 300),
        of_model("byte-fallback", small::byte_fallback(), 289),
        of_model("demo", demo(), 0),
        pieces(),
    ]
});

fn of_model(name: &'static str, text: Arc<ModelText>, padded: usize) -> Vocabulary {
    let vocabulary = text.vocabulary_size().max(padded);
    let ends = text.eos_ids().to_vec();
    let compiler = Compiler::of_model(&text, vocabulary, PATIENT);
    // Something was said before, as in every chat.
    let prompt = text.encode("a", false).unwrap();
    let decode = move |ids: &[TokenId]| {
        let mut decoder = StreamDecoder::new(&text, &prompt);
        let mut decoded: String = ids.iter().map(|id| decoder.push(*id)).collect();
        decoded.push_str(&decoder.finish());
        decoded
    };
    Vocabulary {
        name,
        compiler,
        ends,
        decode: Box::new(decode),
    }
}

/// One that has no byte but letters and a space.
pub fn letters() -> Vocabulary {
    let config = serde_json::json!({"eos_token": "</s>"});
    of_model("letters", small::load(&small::metaspace_json(), &config), 289)
}

/// The built-in demo model's.
pub fn demo() -> Arc<ModelText> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../services/vlinders/demo-model");
    let file = |name: &str| std::fs::read(format!("{folder}/{name}")).unwrap();
    let files = [
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
        "config.json",
    ]
    .map(file);
    let [tokenizer_json, tokenizer_config, generation_config, config] = &files;
    let files = TextFiles {
        tokenizer_json,
        tokenizer_config: Some(tokenizer_config),
        chat_template_jinja: None,
        generation_config: Some(generation_config),
        config: Some(config),
    };
    Arc::new(ModelText::load(&files).unwrap())
}

/// Bytes, and pieces that cut documents and characters where it hurts. Two ends of sequence.
fn pieces() -> Vocabulary {
    let mut words: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
    let long = [
        "{\"", "\":", "\", \"", "\"}", "}}", "]}", "[[", "],[", " {", "{}", "[]", "true", "false", "null",
        "tru", "e,", "12", "-0", "0.5", "1e", "E+", "\\u00", "\\n", "\\\\", "\\\"", "abc", "aaa", "bb",
        "name", "é", "漢字", "🦋", "   ", "\n  ", ",\n", ": ", "ab\"", "a/b", ".*", "xyz", "(1", "+2", ")",
        "yes", "no", "maybe", "日本",
    ];
    words.extend(long.iter().map(|word| word.as_bytes().to_vec()));
    words.extend([
        vec![0xC3],
        vec![0xA9, b'"'],
        vec![0xF0, 0x9F],
        vec![0xA6, 0x8B, b'a'],
        vec![0xE6, 0xBC],
    ]);
    let ends: Vec<TokenId> = [words.len(), words.len() + 1]
        .map(|end| u32::try_from(end).unwrap())
        .to_vec();
    let (vocabulary, table_ends) = (words.len() + 7, ends.clone());
    let texts = words.clone();
    let source = move || {
        TokenTable::new(vocabulary, &table_ends, |id| match words.get(id as usize) {
            Some(word) => TokenKind::Text(word.clone()),
            None => TokenKind::Unused,
        })
    };
    let decode = move |ids: &[TokenId]| {
        let bytes: Vec<u8> = ids.iter().flat_map(|id| texts[*id as usize].clone()).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    Vocabulary {
        name: "pieces",
        compiler: Compiler::new(source, PATIENT),
        ends,
        decode: Box::new(decode),
    }
}

/// As the service has it.
pub fn strict(threads: usize) -> Arc<Compiler> {
    let budget = Budget {
        time: Some(Duration::from_secs(1)),
        threads,
    };
    let text = demo();
    let vocabulary = text.vocabulary_size();
    Compiler::of_model(&text, vocabulary, budget)
}
