//! The tiny checkpoints of `tests/goldens`, copied to be served or spoilt.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde_json::{Map, Value, json};

use crate::repository;

/// Ids of the tiny checkpoints.
const VOCABULARY: usize = 320;
/// The tokens that are neither text nor ends of it.
const SPECIAL: [&str; 3] = ["<unk>", "<s>", "</s>"];

/// A copy of `tests/goldens/<name>` (such as `llama/f32`) with a tokenizer, in this folder.
///
/// # Errors
/// When it cannot be read or written.
pub fn copy_of(name: &str, folder: &Path) -> anyhow::Result<PathBuf> {
    let source = repository().join("tests/goldens").join(name);
    let copy = folder.join("model");
    std::fs::create_dir_all(&copy)?;
    for entry in std::fs::read_dir(&source).with_context(|| source.display().to_string())? {
        let entry = entry?;
        std::fs::copy(entry.path(), copy.join(entry.file_name()))?;
    }
    std::fs::write(
        copy.join("tokenizer.json"),
        serde_json::to_vec(&byte_tokenizer())?,
    )?;
    Ok(copy)
}

/// A byte-level BPE tokenizer of exactly the right size: three special tokens, every byte, and pairs of letters.
#[must_use]
pub fn byte_tokenizer() -> Value {
    let pairs = VOCABULARY - SPECIAL.len() - 256;
    let letters = || (b'a'..=b'z').map(char::from);
    let merges: Vec<[String; 2]> = letters()
        .flat_map(|left| letters().map(move |right| [left.to_string(), right.to_string()]))
        .take(pairs)
        .collect();
    let bytes = (0..=255_u8).map(|byte| shown_as(byte).to_string());
    let words = SPECIAL.iter().map(ToString::to_string);
    let words = words.chain(bytes).chain(merges.iter().map(|pair| pair.concat()));
    let vocabulary: Map<String, Value> = words.zip((0_u32..).map(Value::from)).collect();
    let special = SPECIAL.iter().zip(0_u32..).map(|(content, id)| {
        json!({
            "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        })
    });
    let byte_level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": special.collect::<Vec<_>>(),
        "normalizer": null, "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocabulary, "merges": merges,
        },
    })
}

/// The character that stands for a byte in a byte-level vocabulary: itself when it can be seen, else one above 255.
fn shown_as(byte: u8) -> char {
    let is_shown = |byte: u8| matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
    if is_shown(byte) {
        return char::from(byte);
    }
    let hidden_before = (0..byte).filter(|other| !is_shown(*other)).count();
    u32::try_from(256 + hidden_before)
        .ok()
        .and_then(char::from_u32)
        .expect("68 bytes are not shown, so this is at most 323")
}

/// A safetensors file in memory: what its header says, and the bytes behind it.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Names to `dtype`, `shape` and `data_offsets`.
    pub header: Map<String, Value>,
    /// All tensors.
    pub bytes: Vec<u8>,
}

impl Checkpoint {
    /// Reads a file.
    ///
    /// # Errors
    /// When it is no safetensors file.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let file = std::fs::read(path).with_context(|| path.display().to_string())?;
        let (length, rest) = file.split_first_chunk::<8>().context("shorter than 8 bytes")?;
        let length = usize::try_from(u64::from_le_bytes(*length))?;
        ensure!(length <= rest.len(), "the header is longer than the file");
        let (header, bytes) = rest.split_at(length);
        Ok(Self {
            header: serde_json::from_slice(header)?,
            bytes: bytes.to_vec(),
        })
    }

    /// Writes it as a file.
    ///
    /// # Errors
    /// When that fails.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        let header = serde_json::to_vec(&self.header)?;
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header);
        file.extend(&self.bytes);
        Ok(std::fs::write(path, file)?)
    }

    fn tensor(&self, name: &str) -> anyhow::Result<&[u8]> {
        let place = &self.header[name]["data_offsets"];
        let edge = |index: usize| place[index].as_u64().and_then(|edge| usize::try_from(edge).ok());
        let (from, to) = edge(0)
            .zip(edge(1))
            .with_context(|| format!("no tensor {name}"))?;
        self.bytes
            .get(from..to)
            .with_context(|| format!("{name} lies outside the file"))
    }
}

/// What Hugging Face transformers computes from a family's f32 checkpoint.
#[derive(Clone, Debug)]
pub struct Golden {
    /// Token ids.
    pub prompt: Vec<u32>,
    /// Their greedy continuation.
    pub greedy: Vec<u32>,
}

impl Golden {
    /// Reads `tests/goldens/<family>/golden.safetensors`.
    ///
    /// # Errors
    /// When it is not as its README says.
    pub fn read(family: &str) -> anyhow::Result<Self> {
        let path = repository()
            .join("tests/goldens")
            .join(family)
            .join("golden.safetensors");
        let file = Checkpoint::read(&path)?;
        let ids = |name| -> anyhow::Result<Vec<u32>> {
            let numbers = file.tensor(name)?.as_chunks::<4>().0;
            Ok(numbers.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect())
        };
        Ok(Self {
            prompt: ids("prompt")?,
            greedy: ids("greedy")?,
        })
    }

    /// How each id of [`byte_tokenizer`] is written among log-probabilities.
    #[must_use]
    pub fn token_texts() -> BTreeMap<String, u32> {
        let ids = 0_u32..;
        let special = SPECIAL.iter().map(ToString::to_string);
        let bytes = (0..=255_u8).map(|byte| match byte {
            0..=0x7F => char::from(byte).to_string(),
            0x80.. => format!("bytes:\\x{byte:02x}"),
        });
        let pairs = (b'a'..=b'z').flat_map(|left| (b'a'..=b'z').map(move |right| [left, right]));
        let pairs = pairs.map(|pair| pair.map(char::from).iter().collect::<String>());
        let texts = special
            .chain(bytes)
            .chain(pairs.take(VOCABULARY - SPECIAL.len() - 256));
        texts.zip(ids).collect()
    }
}
