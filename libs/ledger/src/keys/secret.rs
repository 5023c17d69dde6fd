//! The secret of a key: made here, shown once, stored as its hash.

use std::fmt;
use std::hash::{Hash, Hasher};

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use vlinders_types::KeyId;

/// What every key of ours begins with, so that one that has leaked is recognised.
const BEGINNING: &str = "vl-";
/// Digits of a secret that may be shown: few enough to leave 224 bits unknown.
const SHOWN_DIGITS: usize = 8;
const SECRET_BYTES: usize = 32;
const ID_BYTES: usize = 10;

/// The system gives no random numbers.
#[derive(Debug, thiserror::Error)]
#[error("the system gives no random numbers: {0}")]
pub struct NoRandomness(String);

/// A new key in the clear. Its owner is shown it once.
pub struct KeySecret(String);

impl KeySecret {
    /// 256 random bits of the operating system.
    ///
    /// # Errors
    /// When it has none to give.
    pub fn generate() -> Result<Self, NoRandomness> {
        Ok(Self(format!("{BEGINNING}{}", random_digits::<SECRET_BYTES>()?)))
    }

    /// For its owner, and nobody else.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What is stored.
    #[must_use]
    pub fn digest(&self) -> KeyDigest {
        KeyDigest::of(&self.0)
    }

    /// Its beginning, by which people tell keys apart.
    #[must_use]
    pub fn prefix(&self) -> String {
        self.0[..BEGINNING.len() + SHOWN_DIGITS].to_owned()
    }
}

impl fmt::Debug for KeySecret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("KeySecret").field(&self.prefix()).finish()
    }
}

/// A key's name in bills, limits and logs.
///
/// # Errors
/// When the system has no random numbers to give.
pub fn new_key_id() -> Result<KeyId, NoRandomness> {
    Ok(KeyId::new(&format!("key_{}", random_digits::<ID_BYTES>()?)))
}

fn random_digits<const BYTES: usize>() -> Result<String, NoRandomness> {
    let mut bytes = [0_u8; BYTES];
    getrandom::fill(&mut bytes).map_err(|error| NoRandomness(error.to_string()))?;
    Ok(digits(&bytes))
}

fn digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The SHA-256 of a secret. The secrets are random and long, so a slow hash would protect nothing.
#[derive(Clone, Copy, Eq)]
pub struct KeyDigest([u8; SECRET_BYTES]);

impl KeyDigest {
    /// Of whatever somebody came with.
    #[must_use]
    pub fn of(text: &str) -> Self {
        Self(Sha256::digest(text.as_bytes()).into())
    }

    /// A number that is spread evenly over all secrets.
    #[must_use]
    pub fn spread(&self) -> usize {
        usize::from(self.0[0])
    }

    pub(crate) fn to_text(self) -> String {
        digits(&self.0)
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; SECRET_BYTES];
        if text.len() != 2 * SECRET_BYTES || !text.is_ascii() {
            return None;
        }
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok()?;
        }
        Some(Self(bytes))
    }
}

/// In the same time wherever they differ.
impl PartialEq for KeyDigest {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Hash for KeyDigest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl fmt::Debug for KeyDigest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("KeyDigest(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_long_random_and_never_shown_whole() {
        let (one, other) = (KeySecret::generate().unwrap(), KeySecret::generate().unwrap());
        assert_eq!(one.reveal().len(), 67);
        assert_ne!(one.reveal(), other.reveal());
        assert_ne!(one.digest(), other.digest());
        assert!(one.reveal().starts_with(&one.prefix()) && one.prefix().len() == 11);
        assert!(!format!("{one:?} {:?}", one.digest()).contains(&one.reveal()[3..20]));
    }

    #[test]
    fn a_digest_is_the_sha_256_and_reads_back() {
        // As `sha256sum` says of these three letters.
        let text = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let digest = KeyDigest::of("abc");
        assert_eq!(digest.to_text(), text);
        assert_eq!(KeyDigest::parse(text), Some(digest));
        assert_eq!(KeyDigest::parse("ba78"), None);
        assert_eq!(KeyDigest::parse(&"é".repeat(32)), None);
        assert_eq!(KeyDigest::parse(&"x".repeat(64)), None);
    }
}
