//! Files and batches as they lie in tables.

use vlinders_types::{KeyId, TenantId};

use super::{BatchEnding, BatchStatus, FilePurpose, NewBatch, StoredBatch, StoredFile};
use crate::LedgerError;
use crate::rows::foreign;
use crate::statements::Cells;

/// The columns of `files`, in the order in which [`file`] reads them.
pub(super) const FILE_COLUMNS: &str = "id, tenant, purpose, filename, bytes, chunks, created_ms, expires_ms";

/// Files that batches need which have not ended.
pub(super) const IN_USE: &str = "SELECT input_file FROM batches WHERE status IN \
                                 ('validating', 'in_progress', 'finalizing', 'cancelling')";

/// The columns of `batches`, in the order in which [`batch`] reads them. Lines that are answered are counted where they
/// are kept, and in the batch once they are in its files.
pub(super) const BATCH_COLUMNS: &str = "id, tenant, key, rights, endpoint, input_file, metadata, output_expires_s, \
    created_ms, expires_ms, status, ending, errors, output_file, error_file, claims, total, \
    completed + (SELECT count(*) FROM batch_results WHERE batch_id = batches.id AND is_failed = 0), \
    failed + (SELECT count(*) FROM batch_results WHERE batch_id = batches.id AND is_failed = 1), \
    in_progress_ms, finalizing_ms, completed_ms, failed_ms, expired_ms, cancelling_ms, cancelled_ms";

pub(super) fn file(mut row: Cells) -> Result<StoredFile, LedgerError> {
    Ok(StoredFile {
        id: row.text("id")?,
        tenant: TenantId::new(&row.text("tenant")?),
        purpose: {
            let name = row.text("purpose")?;
            FilePurpose::named(&name).ok_or_else(|| foreign("purpose", name))?
        },
        filename: row.text("filename")?,
        bytes: row.number("bytes")?,
        chunks: row.number("chunks")?,
        created_ms: row.number("created_ms")?,
        expires_ms: row.number("expires_ms")?,
    })
}

pub(super) fn batch(mut row: Cells) -> Result<StoredBatch, LedgerError> {
    let asked = NewBatch {
        id: row.text("id")?,
        tenant: TenantId::new(&row.text("tenant")?),
        key: KeyId::new(&row.text("key")?),
        rights: row.text("rights")?,
        endpoint: row.text("endpoint")?,
        input_file: row.text("input_file")?,
        metadata: row.maybe_text("metadata")?,
        output_expires_s: row.maybe_number("output_expires_s")?,
        created_ms: row.number("created_ms")?,
        expires_ms: row.number("expires_ms")?,
    };
    let status = row.text("status")?;
    let ending = row.maybe_text("ending")?;
    Ok(StoredBatch {
        asked,
        status: BatchStatus::named(&status).ok_or_else(|| foreign("status", status))?,
        ending: match ending {
            None => None,
            Some(name) => Some(BatchEnding::named(&name).ok_or_else(|| foreign("ending", name))?),
        },
        errors: row.maybe_text("errors")?,
        output_file: row.maybe_text("output_file")?,
        error_file: row.maybe_text("error_file")?,
        claims: row.number("claims")?,
        total: row.number("total")?,
        completed: row.number("completed")?,
        failed: row.number("failed")?,
        in_progress_ms: row.maybe_number("in_progress_ms")?,
        finalizing_ms: row.maybe_number("finalizing_ms")?,
        completed_ms: row.maybe_number("completed_ms")?,
        failed_ms: row.maybe_number("failed_ms")?,
        expired_ms: row.maybe_number("expired_ms")?,
        cancelling_ms: row.maybe_number("cancelling_ms")?,
        cancelled_ms: row.maybe_number("cancelled_ms")?,
    })
}
