//! Settings from flags, environment and files, with every fault told together and each under the name it was given by.

mod files;
mod given;

pub use files::{FileSettings, SettingsFileError, read_yaml};
pub use given::{Given, SettingValue};

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// Settings that cannot work, in one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", faults.join("; "))]
pub struct SettingFaults {
    /// One text for each, which begins with the setting's name.
    pub faults: Vec<String>,
}

/// Reads settings and collects what is wrong with them, so that nobody has to start again for each fault.
#[derive(Debug, Default)]
pub struct Checks {
    /// The name each setting was given by: `--max-num-seqs`, `MAX_NUM_SEQS` or `engine.max_num_seqs in server.yaml`.
    names: BTreeMap<String, String>,
    faults: Vec<String>,
}

impl Checks {
    /// Settings named otherwise than their flags.
    #[must_use]
    pub fn new(names: BTreeMap<String, String>) -> Self {
        Self {
            names,
            faults: Vec::new(),
        }
    }

    /// The name whoever set it knows it by. `id` is the field's name: `max_num_seqs`.
    #[must_use]
    pub fn name(&self, id: &str) -> String {
        let flag = || format!("--{}", id.replace('_', "-"));
        self.names.get(id).cloned().unwrap_or_else(flag)
    }

    /// Notes what is wrong with a setting.
    pub fn fault(&mut self, id: &str, text: impl std::fmt::Display) {
        let name = self.name(id);
        self.faults.push(format!("{name}: {text}"));
    }

    /// Notes a fault that has its name in it.
    pub fn other_fault(&mut self, text: impl std::fmt::Display) {
        self.faults.push(text.to_string());
    }

    /// The value, unless it cannot be read.
    pub fn value<T: Clone>(&mut self, id: &str, given: &Given<T>) -> Option<T> {
        match given.get() {
            Ok(value) => Some(value.clone()),
            Err(text) => {
                self.fault(id, text);
                None
            }
        }
    }

    /// The value of a setting that may be left out.
    pub fn optional<T: Clone>(&mut self, id: &str, given: Option<&Given<T>>) -> Option<T> {
        given.and_then(|given| self.value(id, given))
    }

    /// A number inside its range. One that is not is noted, and the least stands for it, so that other checks go on.
    pub fn number<T>(&mut self, id: &str, given: &Given<T>, range: RangeInclusive<T>) -> T
    where
        T: Copy + PartialOrd + std::fmt::Display,
    {
        let least = *range.start();
        let Some(value) = self.value(id, given) else {
            return least;
        };
        if range.contains(&value) {
            return value;
        }
        self.fault(id, format_args!("{value} is not from {least} to {}", range.end()));
        least
    }

    /// A number inside its range, or none.
    pub fn optional_number<T>(
        &mut self,
        id: &str,
        given: Option<&Given<T>>,
        range: RangeInclusive<T>,
    ) -> Option<T>
    where
        T: Copy + PartialOrd + std::fmt::Display,
    {
        given.map(|given| self.number(id, given, range))
    }

    /// A secret, given by itself or as the name of a file that holds it alone; never both.
    pub fn secret(
        &mut self,
        id: &str,
        given: Option<&String>,
        file: Option<&std::path::PathBuf>,
    ) -> Option<String> {
        match (given, file) {
            (Some(_), Some(_)) => {
                let file = self.name(&format!("{id}_file"));
                self.fault(id, format_args!("is given beside {file}; give one of them"));
                None
            }
            (Some(secret), None) => Some(secret.clone()),
            (None, Some(path)) => {
                let id = format!("{id}_file");
                match std::fs::read_to_string(path) {
                    Ok(text) if text.trim_end().is_empty() => {
                        self.fault(&id, format_args!("{} is empty", path.display()));
                        None
                    }
                    // Editors end a file with a line break, which belongs to no secret.
                    Ok(text) => Some(text.trim_end().to_owned()),
                    Err(error) => {
                        self.fault(&id, format_args!("{}: {error}", path.display()));
                        None
                    }
                }
            }
            (None, None) => None,
        }
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// All faults.
    pub fn finish(self) -> Result<(), SettingFaults> {
        if self.faults.is_empty() {
            return Ok(());
        }
        Err(SettingFaults { faults: self.faults })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given<T: SettingValue>(text: &str) -> Given<T> {
        text.parse().unwrap()
    }

    #[test]
    fn faults_are_told_together_under_the_names_they_were_given_by() {
        let names = BTreeMap::from([("max_num_seqs".to_owned(), "MAX_NUM_SEQS".to_owned())]);
        let mut checks = Checks::new(names);
        assert_eq!(checks.number("max_num_seqs", &given::<u32>("many"), 1..=9), 1);
        assert_eq!(checks.number("threads", &given::<u32>("10"), 1..=9), 1);
        assert_eq!(checks.number("chunk", &given::<u32>("9"), 1..=9), 9);
        let line = checks.finish().unwrap_err().to_string();
        assert_eq!(
            line,
            "MAX_NUM_SEQS: `many` is no whole number; --threads: 10 is not from 1 to 9"
        );
    }

    #[test]
    fn a_secret_comes_from_one_place() {
        let folder = tempfile::tempdir().unwrap();
        let (file, empty) = (folder.path().join("secret"), folder.path().join("empty"));
        std::fs::write(&file, "hush\n").unwrap();
        std::fs::write(&empty, "\n").unwrap();
        let mut checks = Checks::default();
        assert_eq!(checks.secret("key", None, Some(&file)).as_deref(), Some("hush"));
        assert_eq!(
            checks.secret("key", Some(&"x".to_owned()), None).as_deref(),
            Some("x")
        );
        assert_eq!(checks.secret("key", Some(&"x".to_owned()), Some(&file)), None);
        assert_eq!(checks.secret("key", None, Some(&empty)), None);
        let line = checks.finish().unwrap_err().to_string();
        assert!(
            line.contains("--key: is given beside --key-file") && line.contains("--key-file: "),
            "{line}"
        );
        assert!(!line.contains("hush"), "{line}");
    }
}
