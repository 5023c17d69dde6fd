//! API keys: who may come in, what for and how much. What is stored can be shown to nobody who would come in with it.

mod contract;
mod limits;
mod rows;
mod rules;
mod scopes;
mod secret;
mod statements;

pub use contract::KeyStore;
pub use limits::{Budget, KeyLimits};
pub(crate) use rows::{KeyRow, key_row};
pub use rules::{ApiKey, KeyRules, NewKey, NewSecret, StoredKey};
pub use scopes::{Scope, Scopes, UnknownScope};
pub use secret::{KeyDigest, KeySecret, NoRandomness, new_key_id};
pub(crate) use statements::{change, find, insert, list, one, revoke, rotate, used};
