//! A settings file: sections with keys, in YAML.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::Value;

/// A settings file is no place for large things.
const FILE_BYTES: u64 = 1 << 20;

/// A settings file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsFileError {
    /// It cannot be read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is larger than any settings.
    #[error("{}: larger than {FILE_BYTES} bytes", path.display())]
    TooLarge {
        /// Which file.
        path: PathBuf,
    },
    /// It is not what it should be.
    #[error("{}: {reason}", path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// In one line.
        reason: String,
    },
}

/// The keys of a file, `section.key`, with their values as text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileSettings {
    values: BTreeMap<String, String>,
}

impl FileSettings {
    /// Reads a file of sections with keys.
    ///
    /// # Errors
    /// When it cannot be read, is no YAML, or holds something else than sections with plain values.
    pub fn read(path: &Path) -> Result<Self, SettingsFileError> {
        let malformed = |reason: String| SettingsFileError::Malformed {
            path: path.to_owned(),
            reason,
        };
        let whole: Value = read_yaml(path)?;
        let sections = match whole {
            Value::Null => return Ok(Self::default()),
            Value::Object(sections) => sections,
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                return Err(malformed("expected sections with settings".to_owned()));
            }
        };
        let mut values = BTreeMap::new();
        for (section, keys) in sections {
            let Value::Object(keys) = keys else {
                return Err(malformed(format!("`{section}` is no section with settings")));
            };
            for (key, value) in keys {
                let name = format!("{section}.{key}");
                let text = match value {
                    Value::String(text) => text,
                    Value::Bool(_) | Value::Number(_) => value.to_string(),
                    // Left empty: the default.
                    Value::Null => continue,
                    Value::Array(_) | Value::Object(_) => {
                        return Err(malformed(format!("`{name}` is no plain value")));
                    }
                };
                values.insert(name, text);
            }
        }
        Ok(Self { values })
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }

    /// All keys.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }
}

/// Reads a whole YAML file as one value.
///
/// # Errors
/// When it cannot be read or does not have this form.
pub fn read_yaml<T: DeserializeOwned>(path: &Path) -> Result<T, SettingsFileError> {
    let unreadable = |source| SettingsFileError::Unreadable {
        path: path.to_owned(),
        source,
    };
    if std::fs::metadata(path).map_err(unreadable)?.len() > FILE_BYTES {
        return Err(SettingsFileError::TooLarge {
            path: path.to_owned(),
        });
    }
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    let options = serde_saphyr::options! { with_snippet: false };
    serde_saphyr::from_str_with_options(&text, options).map_err(|error| SettingsFileError::Malformed {
        path: path.to_owned(),
        reason: error.to_string().split_whitespace().collect::<Vec<_>>().join(" "),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<FileSettings, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("server.yaml");
        std::fs::write(&path, text).unwrap();
        FileSettings::read(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn sections_and_keys_are_joined() {
        let settings =
            read("server:\n  host: 0.0.0.0\n  port: 8000\nlogging: {level: INFO, json: true}\n").unwrap();
        assert_eq!(settings.get("server.host"), Some("0.0.0.0"));
        assert_eq!(settings.get("server.port"), Some("8000"));
        assert_eq!(settings.get("logging.json"), Some("true"));
        assert_eq!(settings.keys().count(), 4);
        assert_eq!(read("").unwrap(), FileSettings::default());
    }

    #[test]
    fn what_is_no_settings_file_is_told_in_one_line() {
        for (text, word) in [
            ("- a\n- b\n", "sections"),
            ("server: 7\n", "`server`"),
            ("server: {port: [1, 2]}\n", "`server.port`"),
            ("server: {port: 1\n", "server.yaml: "),
            ("server: {port: 1}\nserver: {port: 2}\n", "server.yaml: "),
        ] {
            let told = read(text).unwrap_err();
            assert!(told.contains(word) && !told.contains('\n'), "{text:?}: {told}");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let told = FileSettings::read(Path::new("/nowhere/server.yaml"))
            .unwrap_err()
            .to_string();
        assert!(told.starts_with("/nowhere/server.yaml: No such file"), "{told}");
    }
}
