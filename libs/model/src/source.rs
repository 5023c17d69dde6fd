//! Where a checkpoint's files come from.

use std::io::{self, Read};
use std::ops::Deref;
use std::path::{Path, PathBuf};

use crate::ModelError;
use crate::mapping::map_file;

/// Longest text file that is read: the largest published tokenizers have about 40 MB.
const MAX_TEXT_BYTES: u64 = 256 << 20;

/// A checkpoint's files: a folder on disk, or files built into the program.
#[derive(Clone, Debug)]
pub struct ModelSource {
    files: Files,
}

#[derive(Clone, Debug)]
enum Files {
    Folder(PathBuf),
    Embedded(&'static [(&'static str, &'static [u8])]),
}

impl ModelSource {
    /// The files in the folder at `path`. They must not change while a model is loaded from them.
    #[must_use]
    pub fn folder(path: impl Into<PathBuf>) -> Self {
        Self {
            files: Files::Folder(path.into()),
        }
    }

    /// Files that are part of the program, by name: `("config.json", include_bytes!(…))`.
    #[must_use]
    pub fn embedded(files: &'static [(&'static str, &'static [u8])]) -> Self {
        Self {
            files: Files::Embedded(files),
        }
    }

    /// For messages: the folder, or that the model is built in.
    #[must_use]
    pub fn place(&self) -> String {
        match &self.files {
            Files::Folder(path) => path.display().to_string(),
            Files::Embedded(_) => "the built-in model".to_owned(),
        }
    }

    /// The name by which messages speak of `file`.
    #[must_use]
    pub fn display_name(&self, file: &str) -> String {
        match &self.files {
            Files::Folder(path) => path.join(file).display().to_string(),
            Files::Embedded(_) => format!("built-in {file}"),
        }
    }

    /// The whole of a small file (config, tokenizer, chat template), or none when there is no such file.
    ///
    /// # Errors
    /// When it is there and cannot be read, or is unreasonably large.
    pub fn read(&self, file: &str) -> Result<Option<Vec<u8>>, ModelError> {
        let path = match &self.files {
            Files::Folder(path) => self.path_of(path, file)?,
            Files::Embedded(files) => return Ok(find(files, file).map(<[u8]>::to_vec)),
        };
        match read_at_most(&path, MAX_TEXT_BYTES) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(ModelError::Read {
                file: self.display_name(file),
                source,
            }),
        }
    }

    /// As [`ModelSource::read`], as text.
    ///
    /// # Errors
    /// As [`ModelSource::read`]; also when the file is not UTF-8.
    pub fn read_text(&self, file: &str) -> Result<Option<String>, ModelError> {
        let Some(bytes) = self.read(file)? else {
            return Ok(None);
        };
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Some(text)),
            Err(_) => Err(self.malformed(file, "is not UTF-8 text".to_owned())),
        }
    }

    /// A large file as memory, paged in as it is used; none when there is no such file.
    ///
    /// # Errors
    /// When it is there and cannot be opened or mapped.
    pub fn open(&self, file: &str) -> Result<Option<FileBytes>, ModelError> {
        let path = match &self.files {
            Files::Folder(path) => self.path_of(path, file)?,
            Files::Embedded(files) => {
                return Ok(find(files, file).map(|bytes| FileBytes(Held::Embedded(bytes))));
            }
        };
        match map_file(&path) {
            Ok(map) => Ok(Some(FileBytes(Held::Mapped(map)))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(ModelError::Read {
                file: self.display_name(file),
                source,
            }),
        }
    }

    pub(crate) fn malformed(&self, file: &str, problem: String) -> ModelError {
        ModelError::Malformed {
            file: self.display_name(file),
            problem,
        }
    }

    pub(crate) fn missing_file(&self, file: &str) -> ModelError {
        ModelError::MissingFile {
            file: file.to_owned(),
            place: self.place(),
        }
    }

    /// Names of weight files are read from an index file: one that leads out of the folder is refused.
    fn path_of(&self, folder: &Path, file: &str) -> Result<PathBuf, ModelError> {
        let plain = Path::new(file).file_name().is_some_and(|name| name == file);
        if plain {
            Ok(folder.join(file))
        } else {
            Err(self.malformed(file, "is not a plain file name".to_owned()))
        }
    }
}

fn find(files: &'static [(&'static str, &'static [u8])], file: &str) -> Option<&'static [u8]> {
    files
        .iter()
        .find(|(name, _)| *name == file)
        .map(|(_, bytes)| *bytes)
}

fn read_at_most(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path)?
        .take(limit + 1)
        .read_to_end(&mut bytes)?;
    if read as u64 > limit {
        return Err(io::Error::other(format!("larger than {limit} bytes")));
    }
    Ok(bytes)
}

/// A file's bytes, mapped from disk or part of the program.
#[derive(Debug)]
pub struct FileBytes(Held);

#[derive(Debug)]
enum Held {
    Mapped(memmap2::Mmap),
    Embedded(&'static [u8]),
}

impl Deref for FileBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Held::Mapped(map) => map,
            Held::Embedded(bytes) => bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_leads_out_of_the_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("model");
        std::fs::create_dir(&inside).unwrap();
        std::fs::write(folder.path().join("secret"), "x").unwrap();
        let source = ModelSource::folder(&inside);
        for name in ["../secret", "a/b", "/etc/passwd", "..", ".", ""] {
            assert!(
                matches!(source.open(name), Err(ModelError::Malformed { .. })),
                "{name}"
            );
            assert!(
                matches!(source.read(name), Err(ModelError::Malformed { .. })),
                "{name}"
            );
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_none_and_a_folder_in_its_place_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("config.json")).unwrap();
        let source = ModelSource::folder(folder.path());
        assert!(source.read("tokenizer.json").unwrap().is_none());
        assert!(source.open("model.safetensors").unwrap().is_none());
        assert!(matches!(source.read("config.json"), Err(ModelError::Read { .. })));
    }

    #[test]
    fn an_empty_file_is_an_empty_slice() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("model.safetensors"), "").unwrap();
        let bytes = ModelSource::folder(folder.path())
            .open("model.safetensors")
            .unwrap()
            .unwrap();
        assert!(bytes.is_empty());
    }

    #[test]
    fn built_in_files_are_found_by_name() {
        let source = ModelSource::embedded(&[("a", b"1"), ("b", b"2")]);
        assert_eq!(source.read_text("b").unwrap().as_deref(), Some("2"));
        assert_eq!(&*source.open("a").unwrap().unwrap(), b"1");
        assert!(source.read("c").unwrap().is_none());
    }
}
