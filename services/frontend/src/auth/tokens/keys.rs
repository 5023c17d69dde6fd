//! The public keys tokens may be signed with, by name. Two or more at one time let a signer change its key.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::{AlgorithmParameters, JwkSet, PublicKeyUse};

/// Keys at one time. More are a mistake.
const KEYS: usize = 16;
/// A file of keys is small.
const FILE_BYTES: u64 = 256 * 1024;
/// Digits of a modulus of 2048 bits in base 64, without its padding. Shorter ones can be factored.
const MODULUS_DIGITS: usize = 342;

/// Keys of tokens that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenFault {
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{}: {what}", path.display())]
    Malformed {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// Two keys have one name.
    #[error("two keys are named `{0}`")]
    NameTaken(String),
    /// There are more keys than anybody needs.
    #[error("there are more than {KEYS} keys")]
    TooMany,
    /// The secret can be guessed.
    #[error("the secret has fewer than {bytes} bytes")]
    ShortSecret {
        /// How many it must have.
        bytes: usize,
    },
}

/// Where keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// A file with a JSON Web Key Set. Each key has its name there.
    Set(PathBuf),
    /// A file with one RSA public key in PEM, and its name.
    Pem {
        /// The `kid` of tokens.
        name: String,
        /// The file.
        path: PathBuf,
    },
}

impl KeySource {
    fn path(&self) -> &Path {
        match self {
            Self::Set(path) | Self::Pem { path, .. } => path,
        }
    }
}

impl FromStr for KeySource {
    type Err = String;

    /// `NAME=FILE.pem` or `FILE.json`.
    fn from_str(text: &str) -> Result<Self, String> {
        let is_json = |path: &str| Path::new(path).extension().is_some_and(|kind| kind == "json");
        match text.trim().split_once('=') {
            Some((name, path)) if !name.is_empty() && !path.is_empty() => Ok(Self::Pem {
                name: name.to_owned(),
                path: path.into(),
            }),
            None if is_json(text.trim()) => Ok(Self::Set(text.trim().into())),
            Some(_) | None => Err(format!(
                "`{text}` is neither NAME=FILE.pem nor a file of keys.json"
            )),
        }
    }
}

/// The texts of all files, in order.
pub(super) fn read_all(sources: &[KeySource]) -> Result<Vec<(KeySource, String)>, TokenFault> {
    let read = |source: &KeySource| {
        let path = source.path();
        let fault = |source| TokenFault::File {
            path: path.to_owned(),
            source,
        };
        if std::fs::metadata(path).map_err(fault)?.len() > FILE_BYTES {
            return Err(malformed(path, "is larger than any set of keys"));
        }
        Ok((source.clone(), std::fs::read_to_string(path).map_err(fault)?))
    };
    sources.iter().map(read).collect()
}

fn malformed(path: &Path, what: impl Into<String>) -> TokenFault {
    TokenFault::Malformed {
        path: path.to_owned(),
        what: what.into(),
    }
}

/// Keys by name.
pub(super) struct PublicKeys {
    files: Vec<(KeySource, String)>,
    keys: BTreeMap<String, DecodingKey>,
}

impl PublicKeys {
    pub(super) fn parse(files: &[(KeySource, String)]) -> Result<Self, TokenFault> {
        let mut keys = BTreeMap::new();
        for (source, text) in files {
            for (name, key) in parse(source, text)? {
                if keys.insert(name.clone(), key).is_some() {
                    return Err(TokenFault::NameTaken(name));
                }
            }
        }
        if keys.len() > KEYS {
            return Err(TokenFault::TooMany);
        }
        Ok(Self {
            files: files.to_vec(),
            keys,
        })
    }

    pub(super) fn is_of(&self, files: &[(KeySource, String)]) -> bool {
        self.files == files
    }

    pub(super) fn find(&self, name: &str) -> Option<&DecodingKey> {
        self.keys.get(name)
    }

    pub(super) fn names(&self) -> String {
        let names: Vec<&str> = self.keys.keys().map(String::as_str).collect();
        names.join(", ")
    }
}

fn parse(source: &KeySource, text: &str) -> Result<Vec<(String, DecodingKey)>, TokenFault> {
    let path = source.path();
    match source {
        KeySource::Pem { name, .. } => {
            if text.contains("PRIVATE KEY") {
                return Err(malformed(
                    path,
                    "holds a private key; the public one is wanted here",
                ));
            }
            let key = DecodingKey::from_rsa_pem(text.as_bytes());
            let key = key.map_err(|_| malformed(path, "holds no RSA public key in PEM"))?;
            Ok(vec![(name.clone(), key)])
        }
        KeySource::Set(_) => {
            let set: JwkSet = serde_json::from_str(text)
                .map_err(|error| malformed(path, format!("is no set of keys: {error}")))?;
            let mut keys = Vec::new();
            for key in &set.keys {
                // Sets hold keys for other uses too.
                let AlgorithmParameters::RSA(parameters) = &key.algorithm else {
                    continue;
                };
                let is_for_signatures = key.common.public_key_use != Some(PublicKeyUse::Encryption);
                let Some(name) = key.common.key_id.clone().filter(|_| is_for_signatures) else {
                    continue;
                };
                if parameters.n.len() < MODULUS_DIGITS {
                    return Err(malformed(path, format!("key `{name}` has fewer than 2048 bits")));
                }
                let decoded = DecodingKey::from_jwk(key);
                keys.push((
                    name,
                    decoded.map_err(|_| malformed(path, "a key cannot be read"))?,
                ));
            }
            if keys.is_empty() {
                return Err(malformed(path, "holds no RSA key with a name (`kid`)"));
            }
            Ok(keys)
        }
    }
}
