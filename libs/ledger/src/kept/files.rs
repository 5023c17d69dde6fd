//! Files: a row for each, and its content in chunks.

use async_trait::async_trait;
use vlinders_types::TenantId;

use super::rows::{FILE_COLUMNS, IN_USE, file};
use crate::LedgerError;
use crate::selection::Value;
use crate::statements::{Statement, Statements, count, text};

const READING: &str = "files cannot be read";
const WRITING: &str = "files cannot be changed";
/// A file that has not come after so long never will. What a batch writes is begun again by whoever takes the batch on.
const ARRIVAL_MS: u64 = 3_600_000;

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilePurpose {
    /// Lines to run.
    Batch,
    /// What became of them.
    BatchOutput,
}

impl FilePurpose {
    /// Its name, for clients and in the database.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Batch => "batch",
            Self::BatchOutput => "batch_output",
        }
    }

    /// The purpose of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::Batch, Self::BatchOutput]
            .into_iter()
            .find(|purpose| purpose.name() == name)
    }
}

/// A file without its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredFile {
    /// Its id, unique. Later files have larger ones.
    pub id: String,
    /// Whose it is.
    pub tenant: TenantId,
    /// What it is for.
    pub purpose: FilePurpose,
    /// As its owner calls it.
    pub filename: String,
    /// Of its content.
    pub bytes: u64,
    /// Chunks of its content, numbered from 0.
    pub chunks: u64,
    /// Milliseconds since 1970.
    pub created_ms: u64,
    /// From then on there is none, milliseconds since 1970.
    pub expires_ms: u64,
}

/// Which files of a tenant to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilePage {
    /// Only for this.
    pub purpose: Option<FilePurpose>,
    /// Behind the one of this id.
    pub after: Option<String>,
    /// Oldest first.
    pub is_ascending: bool,
    /// So many at most.
    pub limit: u32,
}

/// What became of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It is stored.
    Stored,
    /// The tenant's files take all the room there is.
    NoRoom,
}

/// What became of the wish to delete a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// It is gone.
    Gone,
    /// There is none.
    Unknown,
    /// A batch that has not ended needs it.
    InUse,
}

/// Keeps files. A file is there for others once it is complete.
#[async_trait]
pub trait FileStore: Send + Sync + 'static {
    /// Begins a file without content. What there is of an incomplete one of this id goes.
    async fn begin_file(&self, file: &StoredFile) -> Result<(), LedgerError>;

    /// Adds the next chunk, as long as all files of its tenant have `room` bytes at most.
    async fn add_chunk(
        &self,
        file: &StoredFile,
        number: u64,
        content: Vec<u8>,
        room: u64,
    ) -> Result<Arrival, LedgerError>;

    /// The file is there, until its time is over.
    async fn complete_file(&self, file: &StoredFile) -> Result<(), LedgerError>;

    /// Drops what has come of an incomplete file.
    async fn drop_arriving(&self, id: &str) -> Result<(), LedgerError>;

    /// A tenant's complete file, unless its time is over.
    async fn file(&self, tenant: &TenantId, id: &str, now_ms: u64)
    -> Result<Option<StoredFile>, LedgerError>;

    /// Some of a tenant's files, newest first.
    async fn files(
        &self,
        tenant: &TenantId,
        page: &FilePage,
        now_ms: u64,
    ) -> Result<Vec<StoredFile>, LedgerError>;

    /// A chunk of a complete file. None: there is none, or no more.
    async fn chunk(&self, id: &str, number: u64) -> Result<Option<Vec<u8>>, LedgerError>;

    /// Deletes a tenant's file, unless a batch needs it.
    async fn delete_file(&self, tenant: &TenantId, id: &str) -> Result<Deletion, LedgerError>;

    /// Deletes files whose time is over and that no batch needs, and what never became complete.
    async fn forget_old_files(&self, now_ms: u64) -> Result<(), LedgerError>;
}

fn drop_incomplete(id: &str) -> Vec<Statement> {
    let incomplete = "SELECT 1 FROM files WHERE id = ? AND state = 'arriving'";
    vec![
        Statement::new(
            format!("DELETE FROM file_chunks WHERE file_id = ? AND EXISTS ({incomplete})"),
            [text(id), text(id)],
        ),
        Statement::new(
            "DELETE FROM files WHERE id = ? AND state = 'arriving'",
            [text(id)],
        ),
    ]
}

#[async_trait]
impl<D: Statements + 'static> FileStore for D {
    async fn begin_file(&self, file: &StoredFile) -> Result<(), LedgerError> {
        let mut statements = drop_incomplete(&file.id);
        let sql = "INSERT INTO files (id, tenant, purpose, filename, bytes, chunks, created_ms, expires_ms, state) \
                   VALUES (?, ?, ?, ?, 0, 0, ?, ?, 'arriving')";
        let values = [
            text(&file.id),
            text(file.tenant.as_str()),
            text(file.purpose.name()),
            text(&file.filename),
            count(file.created_ms),
            count(file.expires_ms),
        ];
        statements.push(Statement::new(sql, values));
        self.write(WRITING, statements).await.map(|_| ())
    }

    async fn add_chunk(
        &self,
        file: &StoredFile,
        number: u64,
        content: Vec<u8>,
        room: u64,
    ) -> Result<Arrival, LedgerError> {
        let bytes = content.len() as u64;
        // The sum counts those that arrive side by side too.
        let grow = "UPDATE files SET bytes = bytes + ?, chunks = chunks + 1 WHERE id = ? AND state = 'arriving' \
                    AND (SELECT CAST(sum(bytes) AS BIGINT) FROM files WHERE tenant = ?) + ? <= ?";
        let values = [
            count(bytes),
            text(&file.id),
            text(file.tenant.as_str()),
            count(bytes),
            count(room),
        ];
        let insert = "INSERT INTO file_chunks (file_id, number, content) VALUES (?, ?, ?)";
        let statements = vec![
            Statement::new(grow, values).that_changes(),
            Statement::new(insert, [text(&file.id), count(number), Value::Bytes(content)]),
        ];
        let stored = self.write(WRITING, statements).await?;
        Ok(stored.map_or(Arrival::NoRoom, |_| Arrival::Stored))
    }

    async fn complete_file(&self, file: &StoredFile) -> Result<(), LedgerError> {
        let sql = "UPDATE files SET state = 'complete', expires_ms = ? WHERE id = ?";
        self.change(
            WRITING,
            Statement::new(sql, [count(file.expires_ms), text(&file.id)]),
        )
        .await
        .map(|_| ())
    }

    async fn drop_arriving(&self, id: &str) -> Result<(), LedgerError> {
        self.write(WRITING, drop_incomplete(id)).await.map(|_| ())
    }

    async fn file(
        &self,
        tenant: &TenantId,
        id: &str,
        now_ms: u64,
    ) -> Result<Option<StoredFile>, LedgerError> {
        let sql = format!(
            "SELECT {FILE_COLUMNS} FROM files WHERE id = ? AND tenant = ? AND state = 'complete' AND expires_ms > ?"
        );
        let values = [text(id), text(tenant.as_str()), count(now_ms)];
        let found = self.one(READING, Statement::new(sql, values)).await?;
        found.map(file).transpose()
    }

    async fn files(
        &self,
        tenant: &TenantId,
        page: &FilePage,
        now_ms: u64,
    ) -> Result<Vec<StoredFile>, LedgerError> {
        let mut sql = format!(
            "SELECT {FILE_COLUMNS} FROM files WHERE tenant = ? AND state = 'complete' AND expires_ms > ?"
        );
        let mut values = vec![text(tenant.as_str()), count(now_ms)];
        if let Some(purpose) = page.purpose {
            sql += " AND purpose = ?";
            values.push(text(purpose.name()));
        }
        let (beyond, order) = if page.is_ascending {
            (">", "ASC")
        } else {
            ("<", "DESC")
        };
        if let Some(after) = &page.after {
            sql += &format!(" AND id {beyond} ?");
            values.push(text(after));
        }
        sql += &format!(" ORDER BY id {order} LIMIT ?");
        values.push(count(page.limit.into()));
        let rows = self.read(READING, Statement::new(sql, values)).await?;
        rows.into_iter().map(file).collect()
    }

    async fn chunk(&self, id: &str, number: u64) -> Result<Option<Vec<u8>>, LedgerError> {
        let sql = "SELECT content FROM file_chunks WHERE file_id = ? AND number = ?";
        let found = self
            .one(READING, Statement::new(sql, [text(id), count(number)]))
            .await?;
        found.map(|mut row| row.bytes("content")).transpose()
    }

    async fn delete_file(&self, tenant: &TenantId, id: &str) -> Result<Deletion, LedgerError> {
        let delete = format!(
            "DELETE FROM files WHERE id = ? AND tenant = ? AND state = 'complete' AND id NOT IN ({IN_USE})"
        );
        let statements = vec![
            Statement::new(delete, [text(id), text(tenant.as_str())]).that_changes(),
            Statement::new("DELETE FROM file_chunks WHERE file_id = ?", [text(id)]),
        ];
        if self.write(WRITING, statements).await?.is_some() {
            return Ok(Deletion::Gone);
        }
        Ok(match self.file(tenant, id, 0).await? {
            Some(_) => Deletion::InUse,
            None => Deletion::Unknown,
        })
    }

    async fn forget_old_files(&self, now_ms: u64) -> Result<(), LedgerError> {
        let old = format!(
            "(expires_ms <= ? OR (state = 'arriving' AND purpose = 'batch' AND created_ms <= ?)) AND id NOT IN ({IN_USE})"
        );
        let values = || [count(now_ms), count(now_ms.saturating_sub(ARRIVAL_MS))];
        let statements = vec![
            Statement::new(
                format!("DELETE FROM file_chunks WHERE file_id IN (SELECT id FROM files WHERE {old})"),
                values(),
            ),
            Statement::new(format!("DELETE FROM files WHERE {old}"), values()),
        ];
        self.write(WRITING, statements).await.map(|_| ())
    }
}
