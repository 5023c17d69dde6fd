//! The files of a batch that begins no more lines: one with answers, one with failures, both in the order of its lines.

use std::collections::VecDeque;

use serde_json::json;
use vlinders_ledger::{
    Arrival, BatchEnding, FilePurpose, KeptStore, LedgerError, LineResult, StoredBatch, StoredFile,
};
use vlinders_openai_api::{ApiError, parse_batch_line};

use super::answering::line_id;
use super::lines::Lines;
use crate::kept::files::CHUNK_BYTES;

/// Results read at one time.
const PAGE: u32 = 64;
/// Answers are never refused for lack of room.
const ROOM: u64 = u64::MAX / 2;

/// When the files are made, and how long they are kept, in milliseconds.
#[derive(Clone, Copy)]
pub(super) struct Times {
    pub(super) now_ms: u64,
    pub(super) expires_ms: u64,
}

/// Writes both files, each if it has a line. How many lines they have.
pub(super) async fn write(
    store: &dyn KeptStore,
    batch: &StoredBatch,
    times: Times,
) -> Result<[u64; 2], LedgerError> {
    let name = |name: &Option<String>| name.clone().unwrap_or_default();
    let mut answers = Writer::new(store, batch, (name(&batch.output_file), "output"), times);
    let mut failures = Writer::new(store, batch, (name(&batch.error_file), "error"), times);
    let mut results = Results {
        store,
        id: &batch.asked.id,
        page: VecDeque::new(),
        from: 0,
        is_at_end: false,
    };
    // Lines that were never looked at may be anything.
    if batch.in_progress_ms.is_some() {
        let mut lines = Lines::new(store, &batch.asked.input_file);
        while let Some(line) = lines.next().await? {
            match results.of(line.number).await? {
                Some(result) if result.is_failed => failures.line(&result.content).await?,
                Some(result) => answers.line(&result.content).await?,
                None => {
                    let told = unanswered(batch, line.number, &line.content);
                    failures.line(told.as_bytes()).await?;
                }
            }
        }
    }
    Ok([answers.finish().await?, failures.finish().await?])
}

/// What is told of a line without an answer.
fn unanswered(batch: &StoredBatch, number: u32, line: &[u8]) -> String {
    let custom_id = parse_batch_line(line, &batch.asked.endpoint).ok();
    let custom_id = custom_id.map(|line| line.custom_id);
    let failed = |code: &str, text: &str| (json!(null), json!({"code": code, "message": text}));
    let (response, error) = match batch.ending {
        Some(BatchEnding::Refused) => {
            let text = "the API key that the batch was made with is not valid any more, or not for this";
            let error = ApiError::new(401, "invalid_api_key", text);
            let body = json!(error.body());
            (
                json!({"status_code": 401, "request_id": null, "body": body}),
                json!(null),
            )
        }
        Some(BatchEnding::Expired) => failed(
            "batch_expired",
            "this line was not answered before the batch's time was over",
        ),
        Some(BatchEnding::Cancelled) => failed(
            "batch_cancelled",
            "the batch was cancelled before this line was begun",
        ),
        Some(BatchEnding::Answered) | None => failed("internal_error", "something went wrong on our side"),
    };
    let told =
        json!({"id": line_id(batch, number), "custom_id": custom_id, "response": response, "error": error});
    told.to_string()
}

/// Results in the order of their lines.
struct Results<'a> {
    store: &'a dyn KeptStore,
    id: &'a str,
    page: VecDeque<LineResult>,
    from: u32,
    is_at_end: bool,
}

impl Results<'_> {
    /// The result of a line. Lines are asked for in their order.
    async fn of(&mut self, line: u32) -> Result<Option<LineResult>, LedgerError> {
        loop {
            match self.page.front() {
                Some(result) if result.line < line => {
                    self.page.pop_front();
                }
                Some(result) if result.line == line => return Ok(self.page.pop_front()),
                Some(_) => return Ok(None),
                None if self.is_at_end => return Ok(None),
                None => {
                    self.page = self.store.lines(self.id, self.from, PAGE).await?.into();
                    match self.page.back() {
                        Some(last) => self.from = last.line + 1,
                        None => self.is_at_end = true,
                    }
                }
            }
        }
    }
}

/// A file that begins with its first line.
struct Writer<'a> {
    store: &'a dyn KeptStore,
    file: StoredFile,
    lines: u64,
    chunk: Vec<u8>,
}

impl<'a> Writer<'a> {
    fn new(store: &'a dyn KeptStore, batch: &StoredBatch, (id, kind): (String, &str), times: Times) -> Self {
        let file = StoredFile {
            id,
            tenant: batch.asked.tenant.clone(),
            purpose: FilePurpose::BatchOutput,
            filename: format!("{}_{kind}.jsonl", batch.asked.id),
            bytes: 0,
            chunks: 0,
            created_ms: times.now_ms,
            expires_ms: times.expires_ms,
        };
        Self {
            store,
            file,
            lines: 0,
            chunk: Vec::new(),
        }
    }

    async fn line(&mut self, content: &[u8]) -> Result<(), LedgerError> {
        if self.lines == 0 {
            // Somebody may have begun it before and not come to its end.
            self.store.begin_file(&self.file).await?;
        }
        self.lines += 1;
        self.chunk.extend_from_slice(content);
        self.chunk.push(b'\n');
        while self.chunk.len() >= CHUNK_BYTES {
            let rest = self.chunk.split_off(CHUNK_BYTES);
            let full = std::mem::replace(&mut self.chunk, rest);
            self.store(full).await?;
        }
        Ok(())
    }

    async fn store(&mut self, chunk: Vec<u8>) -> Result<(), LedgerError> {
        let stored = self
            .store
            .add_chunk(&self.file, self.file.chunks, chunk, ROOM)
            .await?;
        self.file.chunks += 1;
        match stored {
            Arrival::Stored => Ok(()),
            // Somebody else has begun it again: this one has lost the batch.
            Arrival::NoRoom => Err(LedgerError::Closed),
        }
    }

    async fn finish(mut self) -> Result<u64, LedgerError> {
        if !self.chunk.is_empty() {
            let last = std::mem::take(&mut self.chunk);
            self.store(last).await?;
        }
        Ok(self.lines)
    }
}
