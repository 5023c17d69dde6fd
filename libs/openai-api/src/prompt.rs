//! `prompt` of `/v1/completions`: text or token ids, alone or as a list.

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

/// All prompts of a request: one or more, none of them empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Prompts<const MAX: usize = { LIMITS.prompts }>(pub(crate) Vec<Prompt>);

impl<'de, const MAX: usize> Deserialize<'de> for Prompts<MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader<const MAX: usize>;
        impl<'de, const MAX: usize> Visitor<'de> for Reader<MAX> {
            type Value = Prompts<MAX>;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a string, a list of token ids, or a list of strings or of lists of token ids")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Prompts<MAX>, E> {
                one(Prompt::Text(text.to_owned())).map(|prompt| Prompts(vec![prompt]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Prompts<MAX>, A::Error> {
                let Some(first) = list.next_element::<Entry>()? else {
                    return Err(A::Error::custom("must not be empty"));
                };
                match first {
                    Entry::Token(first) => {
                        rest_of_tokens(first, list).map(|tokens| Prompts(vec![Prompt::Tokens(tokens)]))
                    }
                    first @ (Entry::Text(_) | Entry::Tokens(_)) => rest_of_prompts(first, list),
                }
            }
        }
        deserializer.deserialize_any(Reader::<MAX>)
    }
}

fn rest_of_prompts<'de, const MAX: usize, A: SeqAccess<'de>>(
    first: Entry,
    mut list: A,
) -> Result<Prompts<MAX>, A::Error> {
    let (mut prompts, mut next) = (Vec::new(), Some(first));
    while let Some(entry) = next {
        if prompts.len() == MAX {
            return Err(A::Error::custom(format!("more than {MAX} prompts")));
        }
        prompts.push(one(match entry {
            Entry::Text(text) => Prompt::Text(text),
            Entry::Tokens(tokens) => Prompt::Tokens(tokens),
            Entry::Token(_) => return Err(A::Error::custom("token ids and whole prompts are mixed")),
        })?);
        next = list.next_element()?;
    }
    Ok(Prompts(prompts))
}

fn one<E: Error>(prompt: Prompt) -> Result<Prompt, E> {
    let is_empty = match &prompt {
        Prompt::Text(text) => text.is_empty(),
        Prompt::Tokens(tokens) => tokens.is_empty(),
    };
    if is_empty {
        return Err(E::custom("must not be empty"));
    }
    Ok(prompt)
}

fn rest_of_tokens<'de, A: SeqAccess<'de>>(first: TokenId, mut list: A) -> Result<Vec<TokenId>, A::Error> {
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
    Ok(tokens)
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
