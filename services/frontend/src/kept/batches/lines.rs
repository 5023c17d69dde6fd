//! The lines of a file, read chunk by chunk.

use vlinders_ledger::{KeptStore, LedgerError};
use vlinders_openai_api::LIMITS;

/// A longer one is cut, and refused for its length.
const LINE_BYTES: usize = LIMITS.body_bytes + 64 * 1024;

/// One line with its number, counted from 0. Empty lines are passed over, and counted.
pub(super) struct Line {
    pub(super) number: u32,
    pub(super) content: Vec<u8>,
}

/// Reads the lines of a file.
pub(super) struct Lines<'a> {
    store: &'a dyn KeptStore,
    file: &'a str,
    chunk: u64,
    unread: Vec<u8>,
    /// Bytes of `unread` in which no end of a line was found.
    searched: usize,
    number: u32,
    is_at_end: bool,
    /// The rest of a line that is too long is passed over.
    is_skipping: bool,
}

impl<'a> Lines<'a> {
    pub(super) fn new(store: &'a dyn KeptStore, file: &'a str) -> Self {
        Self {
            store,
            file,
            chunk: 0,
            unread: Vec::new(),
            searched: 0,
            number: 0,
            is_at_end: false,
            is_skipping: false,
        }
    }

    /// The next line; none at the end. After an error the same is tried again.
    pub(super) async fn next(&mut self) -> Result<Option<Line>, LedgerError> {
        loop {
            let end = self.unread[self.searched..]
                .iter()
                .position(|byte| *byte == b'\n');
            let line = match end {
                Some(end) => {
                    let rest = self.unread.split_off(self.searched + end + 1);
                    let mut line = std::mem::replace(&mut self.unread, rest);
                    line.pop();
                    Some(line)
                }
                None if self.is_at_end && self.unread.is_empty() => return Ok(None),
                None if self.is_at_end => Some(std::mem::take(&mut self.unread)),
                None => None,
            };
            if let Some(content) = line {
                self.searched = 0;
                let number = self.number;
                self.number += 1;
                let was_skipping = std::mem::take(&mut self.is_skipping);
                if !was_skipping && !content.trim_ascii().is_empty() {
                    return Ok(Some(Line { number, content }));
                }
                continue;
            }
            self.searched = self.unread.len();
            if self.searched > LINE_BYTES {
                let content = std::mem::take(&mut self.unread);
                self.searched = 0;
                if !std::mem::replace(&mut self.is_skipping, true) {
                    return Ok(Some(Line {
                        number: self.number,
                        content,
                    }));
                }
            }
            match self.store.chunk(self.file, self.chunk).await? {
                Some(chunk) => {
                    self.chunk += 1;
                    self.unread.extend_from_slice(&chunk);
                }
                None => self.is_at_end = true,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use vlinders_ledger::{FilePurpose, FileStore, SqliteLedger, StoredFile};
    use vlinders_types::TenantId;

    use super::*;

    async fn read(chunks: &[&[u8]]) -> Vec<(u32, Vec<u8>)> {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteLedger::open(&folder.path().join("kept.sqlite")).unwrap();
        let file = StoredFile {
            id: "file-1".to_owned(),
            tenant: TenantId::new("t"),
            purpose: FilePurpose::Batch,
            filename: "f".to_owned(),
            bytes: 0,
            chunks: 0,
            created_ms: 0,
            expires_ms: 1,
        };
        store.begin_file(&file).await.unwrap();
        for (chunk, number) in chunks.iter().zip(0..) {
            store
                .add_chunk(&file, number, chunk.to_vec(), u64::MAX / 2)
                .await
                .unwrap();
        }
        let mut lines = Lines::new(&store, "file-1");
        let mut read = Vec::new();
        while let Some(line) = lines.next().await.unwrap() {
            read.push((line.number, line.content));
        }
        read
    }

    #[tokio::test]
    async fn lines_are_the_same_however_they_are_cut() {
        let text = b"one\r\n\n  \nfour\nfive";
        let expected = vec![
            (0, b"one\r".to_vec()),
            (3, b"four".to_vec()),
            (4, b"five".to_vec()),
        ];
        assert_eq!(read(&[text]).await, expected);
        for cut in 0..text.len() {
            assert_eq!(read(&[&text[..cut], &text[cut..]]).await, expected, "{cut}");
        }
        let single = Vec::from_iter(text.chunks(1));
        assert_eq!(read(&single).await, expected);
        assert_eq!(read(&[b"one\n"]).await, [(0, b"one".to_vec())]);
        assert!(read(&[]).await.is_empty());
    }

    #[tokio::test]
    async fn a_line_without_end_is_cut_and_those_behind_it_keep_their_numbers() {
        let half = vec![b'x'; LINE_BYTES / 2 + 1];
        let read = read(&[&half, &half, &half, &half, b"\nnext\n"]).await;
        assert_eq!(Vec::from_iter(read.iter().map(|line| line.0)), [0, 1]);
        assert!(read[0].1.len() > LINE_BYTES);
        assert_eq!(read[1].1, b"next");
    }
}
