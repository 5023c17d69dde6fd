//! Spool files in a folder of a local disk. An exclusive lock says that a file's holder lives: the system drops it with
//! the process, however that ends.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::place::{CallCost, SpoolFile, SpoolPlace, SyncOrder};

/// What files of spools end in.
const ENDING: &str = "spool";
/// And those that people should look at.
const ASIDE_ENDING: &str = "damaged";

/// A folder of spool files, for all processes of one installation on one host. Not on a network file system: its locks
/// may outlive their holders.
#[derive(Debug)]
pub struct FolderSpools {
    folder: PathBuf,
}

impl FolderSpools {
    /// This folder; it is made with the first file.
    #[must_use]
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Numbers of the spool files there are, smallest first.
    fn numbers(&self) -> io::Result<Vec<u64>> {
        let mut numbers = Vec::new();
        for entry in self.folder.read_dir()? {
            let path = PathBuf::from(entry?.file_name());
            if path.extension().is_some_and(|ending| ending == ENDING)
                && let Some(number) = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok())
            {
                numbers.push(number);
            }
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn path(&self, number: u64) -> PathBuf {
        self.folder.join(format!("{number:010}.{ENDING}"))
    }

    /// Holds the file, unless somebody else does or has just taken it away.
    fn hold(&self, file: File, path: PathBuf) -> io::Result<Option<Box<dyn SpoolFile>>> {
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        if !is_at(&file, &path)? {
            return Ok(None);
        }
        Ok(Some(Box::new(FolderFile {
            file,
            path,
            folder: self.folder.clone(),
        })))
    }
}

impl SpoolPlace for FolderSpools {
    fn name(&self) -> String {
        self.folder.display().to_string()
    }

    fn cost(&self) -> CallCost {
        CallCost::Blocks
    }

    fn create(&self) -> io::Result<Box<dyn SpoolFile>> {
        // What is kept may tell who asked for how much: only its owner may read it.
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.folder)?;
        let mut number = self.numbers()?.last().map_or(1, |last| last + 1);
        loop {
            let path = self.path(number);
            let mut options = OpenOptions::new();
            options.read(true).append(true).create_new(true).mode(0o600);
            let held = match options.open(&path) {
                Ok(file) => self.hold(file, path)?,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => None,
                Err(error) => return Err(error),
            };
            // Somebody else was quicker: took the number, or took the empty file for one that is free.
            let Some(file) = held else {
                number += 1;
                continue;
            };
            sync_folder(&self.folder)?;
            return Ok(file);
        }
    }

    fn adopt(&self) -> io::Result<Option<Box<dyn SpoolFile>>> {
        for number in self.numbers()? {
            let path = self.path(number);
            let file = match OpenOptions::new().read(true).append(true).open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            if let Some(held) = self.hold(file, path)? {
                return Ok(Some(held));
            }
        }
        Ok(None)
    }
}

/// Whether the path still leads to this file.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let own = file.metadata()?;
    match path.metadata() {
        Ok(there) => Ok((own.dev(), own.ino()) == (there.dev(), there.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The folder itself must be synced for a new file to be found after a loss of power.
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

struct FolderFile {
    /// Locked.
    file: File,
    path: PathBuf,
    folder: PathBuf,
}

impl SpoolFile for FolderFile {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    fn cut(&mut self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }

    fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.file.seek(SeekFrom::Start(0))?;
        self.file.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn sync_order(&self) -> io::Result<SyncOrder> {
        let file = self.file.try_clone()?;
        Ok(Box::new(move || file.sync_data()))
    }

    fn remove(self: Box<Self>) -> io::Result<()> {
        std::fs::remove_file(&self.path)
    }

    fn set_aside(self: Box<Self>) -> io::Result<()> {
        std::fs::rename(&self.path, self.path.with_extension(ASIDE_ENDING))?;
        sync_folder(&self.folder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let name = |entry: io::Result<std::fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        let mut names: Vec<_> = folder.read_dir().unwrap().map(name).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_free_when_its_holder_is_gone_and_not_before() {
        let folder = tempfile::tempdir().unwrap();
        let spools = FolderSpools::new(folder.path().join("deep/er"));
        let mut own = spools.create().unwrap();
        own.append(b"abc").unwrap();
        assert!(spools.adopt().unwrap().is_none(), "its holder lives");
        drop(own);
        let mut adopted = spools.adopt().unwrap().unwrap();
        assert_eq!(adopted.read().unwrap(), b"abc");
        assert!(spools.adopt().unwrap().is_none(), "the first of two has it");
        adopted.cut(1).unwrap();
        adopted.append(b"z").unwrap();
        assert_eq!(adopted.read().unwrap(), b"az");
        adopted.sync_order().unwrap()().unwrap();
        adopted.remove().unwrap();
        assert!(spools.adopt().unwrap().is_none());
    }

    #[test]
    fn a_file_set_aside_keeps_what_it_holds_and_is_nobodys() {
        let folder = tempfile::tempdir().unwrap();
        let spools = FolderSpools::new(folder.path().to_owned());
        let mut own = spools.create().unwrap();
        own.append(b"abc").unwrap();
        own.set_aside().unwrap();
        assert!(spools.adopt().unwrap().is_none());
        assert_eq!(names(folder.path()), ["0000000001.damaged"]);
        assert_eq!(
            std::fs::read(folder.path().join("0000000001.damaged")).unwrap(),
            b"abc"
        );
    }

    #[test]
    fn new_files_never_take_the_place_of_others() {
        let folder = tempfile::tempdir().unwrap();
        let spools = FolderSpools::new(folder.path().to_owned());
        std::fs::write(folder.path().join("notes.txt"), "theirs").unwrap();
        let (_first, _second) = (spools.create().unwrap(), spools.create().unwrap());
        assert_eq!(
            names(folder.path()),
            ["0000000001.spool", "0000000002.spool", "notes.txt"]
        );
    }

    #[test]
    fn a_file_that_was_taken_away_before_it_was_locked_is_not_held() {
        let folder = tempfile::tempdir().unwrap();
        let spools = FolderSpools::new(folder.path().to_owned());
        let own = spools.create().unwrap();
        // An adopter has it open when its holder takes it away.
        let path = spools.path(1);
        let seen = OpenOptions::new().read(true).append(true).open(&path).unwrap();
        own.remove().unwrap();
        assert!(spools.hold(seen, path).unwrap().is_none());
    }
}
