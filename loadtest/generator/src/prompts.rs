//! What is asked: texts of about a wanted number of tokens, or lines of a file.

use std::fmt;
use std::fs;
use std::path::Path;
use std::str::FromStr;

use anyhow::Context;
use serde::Deserialize;
use serde_json::Value;

use crate::lengths::Lengths;
use crate::random::{Purpose, Random};
use crate::words::{TokensPerWord, push_words};

/// What prompts have in common. It decides what the server's prefix cache can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Every prompt is the same text, or its beginning.
    Repeated,
    /// No two prompts begin alike.
    Unique,
    /// The first so many tokens are the same, the others are not.
    SharedPrefix(u32),
}

/// One prompt, ready to stand in a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// The inside of a JSON string.
    Text(Vec<u8>),
    /// A JSON array of chat messages.
    Messages(Vec<u8>),
}

/// Prompts without end.
#[derive(Clone, Debug)]
pub enum Prompts {
    /// Made of words.
    Made(MadePrompts),
    /// Taken from a file in turn.
    Listed {
        /// At least one.
        prompts: Vec<Prompt>,
        /// The next one.
        next: usize,
    },
}

/// Prompts made of common words.
#[derive(Clone, Debug)]
pub struct MadePrompts {
    sharing: Sharing,
    lengths: Lengths,
    per_word: TokensPerWord,
    seed: u64,
    length_random: Random,
    unique_random: Random,
}

impl Prompts {
    /// Prompts of words.
    #[must_use]
    pub fn made(sharing: Sharing, lengths: Lengths, per_word: TokensPerWord, seed: u64) -> Self {
        Self::Made(MadePrompts {
            sharing,
            lengths,
            per_word,
            seed,
            length_random: Random::new(seed, Purpose::PromptLengths),
            unique_random: Random::new(seed, Purpose::UniqueWords),
        })
    }

    /// Prompts of a file: one a line, or, when its name ends in `.jsonl`, a JSON object a line with `prompt` or
    /// `messages`. Empty lines are passed over.
    ///
    /// # Errors
    /// When it cannot be read, a line is wrong, or there is none.
    pub fn listed(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(path)?;
        let is_jsonl = path.extension().is_some_and(|extension| extension == "jsonl");
        let mut prompts = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            if line.trim().is_empty() {
                continue;
            }
            let prompt = if is_jsonl {
                from_json(line).with_context(|| format!("line {number}"))?
            } else {
                Prompt::Text(escaped(line))
            };
            prompts.push(prompt);
        }
        anyhow::ensure!(!prompts.is_empty(), "it holds no prompt");
        Ok(Self::Listed { prompts, next: 0 })
    }

    /// Whether one is a list of messages, which only a chat takes.
    #[must_use]
    pub fn have_messages(&self) -> bool {
        match self {
            Self::Made(_) => false,
            Self::Listed { prompts, .. } => {
                prompts.iter().any(|prompt| matches!(prompt, Prompt::Messages(_)))
            }
        }
    }

    /// The next prompt.
    ///
    /// # Panics
    /// When a list is empty; [`Prompts::listed`] makes none.
    pub fn take(&mut self) -> Prompt {
        match self {
            Self::Made(made) => Prompt::Text(made.text()),
            Self::Listed { prompts, next } => {
                let prompt = prompts[*next % prompts.len()].clone();
                *next += 1;
                prompt
            }
        }
    }
}

impl MadePrompts {
    fn text(&mut self) -> Vec<u8> {
        let tokens = self.lengths.draw(&mut self.length_random);
        let words = self.per_word.words_for(tokens);
        let shared = match self.sharing {
            Sharing::Repeated => words,
            Sharing::Unique => 0,
            Sharing::SharedPrefix(tokens) => words.min(self.per_word.words_for(tokens)),
        };
        let mut text = Vec::with_capacity(words as usize * 7);
        push_words(
            &mut text,
            shared,
            &mut Random::new(self.seed, Purpose::SharedWords),
        );
        push_words(&mut text, words - shared, &mut self.unique_random);
        text
    }
}

impl FromStr for Sharing {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "repeated" => Ok(Self::Repeated),
            "unique" => Ok(Self::Unique),
            _ => {
                let tokens = text.strip_prefix("shared-prefix:");
                let tokens = tokens.and_then(|tokens| tokens.parse().ok());
                tokens
                    .filter(|tokens| *tokens > 0)
                    .map(Self::SharedPrefix)
                    .ok_or_else(|| "there are repeated, unique and shared-prefix:TOKENS".to_owned())
            }
        }
    }
}

impl fmt::Display for Sharing {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Repeated => write!(out, "repeated"),
            Self::Unique => write!(out, "unique"),
            Self::SharedPrefix(tokens) => write!(out, "shared-prefix:{tokens}"),
        }
    }
}

fn from_json(line: &str) -> anyhow::Result<Prompt> {
    #[derive(Deserialize)]
    struct Line {
        prompt: Option<String>,
        messages: Option<Value>,
    }
    let line: Line = serde_json::from_str(line).context("not a JSON object with prompt or messages")?;
    match (line.prompt, line.messages) {
        (Some(prompt), None) => Ok(Prompt::Text(escaped(&prompt))),
        (None, Some(messages)) => Ok(Prompt::Messages(messages.to_string().into_bytes())),
        (Some(_), Some(_)) | (None, None) => anyhow::bail!("one of prompt and messages is wanted"),
    }
}

/// As it stands between the quotes of a JSON string.
fn escaped(text: &str) -> Vec<u8> {
    let mut quoted = serde_json::to_vec(text).expect("a text is always JSON");
    quoted.pop();
    quoted.remove(0);
    quoted
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn texts(sharing: Sharing, lengths: &str, count: usize) -> Vec<String> {
        let mut prompts = Prompts::made(sharing, lengths.parse().unwrap(), TokensPerWord::ONE, 1);
        (0..count)
            .map(|_| match prompts.take() {
                Prompt::Text(text) => String::from_utf8(text).unwrap(),
                Prompt::Messages(_) => panic!("made prompts are texts"),
            })
            .collect()
    }

    #[test]
    fn repeated_prompts_are_the_same_text_or_its_beginning() {
        let texts = texts(Sharing::Repeated, "uniform:3-30", 20);
        let longest = texts.iter().max_by_key(|text| text.len()).unwrap();
        assert!(texts.iter().all(|text| longest.starts_with(text.as_str())));
    }

    #[test]
    fn unique_prompts_differ_in_their_first_words() {
        let mut beginnings: Vec<String> = texts(Sharing::Unique, "50", 2000)
            .iter()
            .map(|text| text.split(' ').take(8).collect())
            .collect();
        beginnings.sort();
        beginnings.dedup();
        assert_eq!(beginnings.len(), 2000);
    }

    #[test]
    fn a_shared_prefix_is_shared_and_the_rest_is_not() {
        let texts = texts(Sharing::SharedPrefix(10), "20", 2);
        let words: Vec<Vec<&str>> = texts.iter().map(|text| text.split(' ').collect()).collect();
        assert_eq!((words[0].len(), words[1].len()), (20, 20));
        assert_eq!(words[0][..10], words[1][..10]);
        assert_ne!(words[0][10..], words[1][10..]);
    }

    fn file(name: &str, text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        write!(fs::File::create(&path).unwrap(), "{text}").unwrap();
        (folder, path)
    }

    #[test]
    fn lines_of_a_file_are_taken_in_turn() {
        let (_folder, path) = file("prompts.txt", "say \"one\"\n\nzwö\n");
        let mut prompts = Prompts::listed(&path).unwrap();
        let taken: Vec<Prompt> = (0..3).map(|_| prompts.take()).collect();
        assert_eq!(taken[0], Prompt::Text(br#"say \"one\""#.to_vec()));
        assert_eq!(taken[1], Prompt::Text("zwö".as_bytes().to_vec()));
        assert_eq!(taken[2], taken[0]);
        assert!(!prompts.have_messages());
    }

    #[test]
    fn objects_of_a_file_are_prompts_or_messages() {
        let (_folder, path) = file(
            "p.jsonl",
            "{\"prompt\":\"a\\nb\"}\n{\"messages\":[{\"role\":\"user\",\"content\":\"c\"}],\"id\":1}\n",
        );
        let mut prompts = Prompts::listed(&path).unwrap();
        assert!(prompts.have_messages());
        assert_eq!(prompts.take(), Prompt::Text(br"a\nb".to_vec()));
        assert_eq!(
            prompts.take(),
            Prompt::Messages(br#"[{"role":"user","content":"c"}]"#.to_vec())
        );
    }

    #[test]
    fn wrong_files_are_told_with_the_line() {
        let told = |name, text| {
            let (_folder, path) = file(name, text);
            format!("{:#}", Prompts::listed(&path).unwrap_err())
        };
        assert!(told("p.jsonl", "{\"prompt\":\"a\"}\nb\n").starts_with("line 2: not a JSON object"));
        assert!(told("p.jsonl", "{}\n").contains("one of prompt and messages"));
        assert_eq!(told("p.txt", "\n\n"), "it holds no prompt");
    }

    #[test]
    fn sharing_is_read_and_written_alike() {
        for text in ["repeated", "unique", "shared-prefix:512"] {
            assert_eq!(text.parse::<Sharing>().unwrap().to_string(), text);
        }
        for wrong in ["shared-prefix", "shared-prefix:0", "same"] {
            assert!(wrong.parse::<Sharing>().is_err(), "{wrong}");
        }
    }
}
