//! Compiled grammars by their constraint: the same few constraints come over and over.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use vlinders_types::Constraint;

use crate::Grammar;

/// Grammars kept at most.
const MOST: usize = 128;
/// Bytes of the kept constraints' texts at most; what was compiled from them is a small multiple.
const MOST_BYTES: usize = 4 << 20;

/// The grammars used last.
#[derive(Default)]
pub(crate) struct Store {
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    grammars: HashMap<Constraint, Entry>,
    bytes: usize,
    uses: u64,
}

struct Entry {
    grammar: Arc<Grammar>,
    bytes: usize,
    last_use: u64,
}

impl Store {
    pub(crate) fn find(&self, constraint: &Constraint) -> Option<Arc<Grammar>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.uses += 1;
        let now = kept.uses;
        let entry = kept.grammars.get_mut(constraint)?;
        entry.last_use = now;
        Some(Arc::clone(&entry.grammar))
    }

    pub(crate) fn keep(&self, constraint: &Constraint, grammar: &Arc<Grammar>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = text_bytes(constraint);
        kept.uses += 1;
        let entry = Entry {
            grammar: Arc::clone(grammar),
            bytes,
            last_use: kept.uses,
        };
        kept.bytes += bytes;
        if let Some(replaced) = kept.grammars.insert(constraint.clone(), entry) {
            kept.bytes -= replaced.bytes;
        }
        while kept.grammars.len() > MOST || (kept.bytes > MOST_BYTES && kept.grammars.len() > 1) {
            kept.drop_oldest();
        }
    }
}

impl Kept {
    fn drop_oldest(&mut self) {
        let oldest = self.grammars.iter().min_by_key(|(_, entry)| entry.last_use);
        let Some(constraint) = oldest.map(|(constraint, _)| constraint.clone()) else {
            return;
        };
        if let Some(entry) = self.grammars.remove(&constraint) {
            self.bytes -= entry.bytes;
        }
    }
}

fn text_bytes(constraint: &Constraint) -> usize {
    match constraint {
        Constraint::JsonObject => 0,
        Constraint::JsonSchema(text) | Constraint::Regex(text) | Constraint::Lark(text) => text.len(),
        Constraint::Choice(texts) => texts.iter().map(String::len).sum(),
    }
}
