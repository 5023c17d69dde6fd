//! `prompt` of `/v1/completions`: text or token ids, alone or as a list of one.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use vlinders_types::TokenId;

use crate::LIMITS;
use crate::values::{Bounded, Token};

/// What to complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// Text, to be tokenized.
    Text(String),
    /// Token ids as they are.
    Tokens(Vec<TokenId>),
}

const MANY: &str = "a list of several prompts is not offered yet; send one request for each";

impl<'de> Deserialize<'de> for Prompt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Prompt;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a string, a list of token ids, or a list of one of these")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Prompt, E> {
                Ok(Prompt::Text(text.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Prompt, A::Error> {
                let whole = match list.next_element::<Entry>()? {
                    None => return Err(A::Error::custom("must not be empty")),
                    Some(Entry::Token(first)) => return rest_of_tokens(first, list),
                    Some(Entry::Text(text)) => Prompt::Text(text),
                    Some(Entry::Tokens(tokens)) => Prompt::Tokens(tokens),
                };
                match list.next_element::<serde::de::IgnoredAny>()? {
                    None => Ok(whole),
                    Some(_) => Err(A::Error::custom(MANY)),
                }
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

fn rest_of_tokens<'de, A: SeqAccess<'de>>(first: TokenId, mut list: A) -> Result<Prompt, A::Error> {
    let mut tokens = vec![first];
    while let Some(Token(token)) = list.next_element()? {
        if tokens.len() == LIMITS.prompt_tokens {
            return Err(A::Error::custom(format!(
                "more than {} tokens",
                LIMITS.prompt_tokens
            )));
        }
        tokens.push(token);
    }
    Ok(Prompt::Tokens(tokens))
}

/// The first entry of the list decides what the list is.
enum Entry {
    Token(TokenId),
    Text(String),
    Tokens(Vec<TokenId>),
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Entry;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a string, a token id or a list of token ids")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Entry, E> {
                Ok(Entry::Text(text.to_owned()))
            }
            fn visit_u64<E: Error>(self, value: u64) -> Result<Entry, E> {
                let token = TokenId::try_from(value);
                token
                    .map(Entry::Token)
                    .map_err(|_| E::custom(format!("{value} is not a token id")))
            }
            fn visit_i64<E: Error>(self, value: i64) -> Result<Entry, E> {
                Err(E::custom(format!("{value} is not a token id")))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Entry, A::Error> {
                let list = serde::de::value::SeqAccessDeserializer::new(list);
                let tokens = Bounded::<Token, { LIMITS.prompt_tokens }>::deserialize(list)?;
                Ok(Entry::Tokens(tokens.0.into_iter().map(|token| token.0).collect()))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}
