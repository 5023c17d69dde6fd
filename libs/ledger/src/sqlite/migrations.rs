//! The schema, and how a file comes to have it.

use rusqlite::Connection;

use super::failed;
use crate::LedgerError;

/// One per version of the schema; `user_version` counts those applied. Never changed, only added to.
const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE usage (
        request_id TEXT PRIMARY KEY,
        attempt INTEGER NOT NULL,
        tenant TEXT NOT NULL,
        key TEXT NOT NULL,
        model TEXT NOT NULL,
        writer TEXT NOT NULL,
        prompt_tokens INTEGER NOT NULL,
        cached_tokens INTEGER NOT NULL,
        completion_tokens INTEGER NOT NULL,
        finish TEXT NOT NULL,
        stream INTEGER NOT NULL,
        created_ms INTEGER NOT NULL,
        first_token_ms INTEGER,
        finished_ms INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX usage_by_time ON usage (finished_ms);
    CREATE INDEX usage_by_tenant ON usage (tenant, finished_ms);
",
    "
    CREATE TABLE api_keys (
        id TEXT PRIMARY KEY,
        hash TEXT NOT NULL UNIQUE,
        previous_hash TEXT UNIQUE,
        previous_until_ms INTEGER,
        prefix TEXT NOT NULL,
        name TEXT NOT NULL,
        tenant TEXT NOT NULL,
        scopes TEXT NOT NULL,
        models TEXT,
        is_lenient INTEGER NOT NULL,
        max_priority INTEGER,
        requests_per_minute INTEGER,
        tokens_per_minute INTEGER,
        concurrent_streams INTEGER,
        daily_tokens INTEGER,
        daily_nanos INTEGER,
        monthly_tokens INTEGER,
        monthly_nanos INTEGER,
        expires_ms INTEGER,
        created_ms INTEGER NOT NULL,
        revoked_ms INTEGER,
        last_used_ms INTEGER
    ) STRICT;
",
    "
    ALTER TABLE usage ADD COLUMN class TEXT NOT NULL DEFAULT 'standard';
",
    "
    CREATE TABLE responses (
        id TEXT PRIMARY KEY,
        tenant TEXT NOT NULL,
        items TEXT NOT NULL,
        response TEXT NOT NULL,
        created_ms INTEGER NOT NULL,
        expires_ms INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX responses_by_expiry ON responses (expires_ms);
    CREATE TABLE files (
        id TEXT PRIMARY KEY,
        tenant TEXT NOT NULL,
        purpose TEXT NOT NULL,
        filename TEXT NOT NULL,
        bytes INTEGER NOT NULL,
        chunks INTEGER NOT NULL,
        created_ms INTEGER NOT NULL,
        expires_ms INTEGER NOT NULL,
        state TEXT NOT NULL
    ) STRICT;
    CREATE INDEX files_by_tenant ON files (tenant, id);
    CREATE INDEX files_by_expiry ON files (expires_ms);
    CREATE TABLE file_chunks (
        file_id TEXT NOT NULL,
        number INTEGER NOT NULL,
        content BLOB NOT NULL,
        PRIMARY KEY (file_id, number)
    ) STRICT;
    CREATE TABLE batches (
        id TEXT PRIMARY KEY,
        tenant TEXT NOT NULL,
        key TEXT NOT NULL,
        rights TEXT NOT NULL,
        endpoint TEXT NOT NULL,
        input_file TEXT NOT NULL,
        metadata TEXT,
        output_expires_s INTEGER,
        created_ms INTEGER NOT NULL,
        expires_ms INTEGER NOT NULL,
        status TEXT NOT NULL,
        ending TEXT,
        errors TEXT,
        output_file TEXT,
        error_file TEXT,
        claims INTEGER NOT NULL,
        total INTEGER NOT NULL,
        completed INTEGER NOT NULL,
        failed INTEGER NOT NULL,
        in_progress_ms INTEGER,
        finalizing_ms INTEGER,
        completed_ms INTEGER,
        failed_ms INTEGER,
        expired_ms INTEGER,
        cancelling_ms INTEGER,
        cancelled_ms INTEGER,
        lease_holder TEXT,
        lease_until_ms INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX batches_by_tenant ON batches (tenant, id);
    CREATE INDEX batches_by_lease ON batches (status, lease_until_ms);
    CREATE TABLE batch_results (
        batch_id TEXT NOT NULL,
        line INTEGER NOT NULL,
        is_failed INTEGER NOT NULL,
        content BLOB NOT NULL,
        PRIMARY KEY (batch_id, line)
    ) STRICT;
    CREATE INDEX batch_results_by_kind ON batch_results (batch_id, is_failed);
",
    "
    CREATE TABLE tenants (
        tenant TEXT PRIMARY KEY,
        customer TEXT UNIQUE,
        halted_ms INTEGER,
        unpaid_ms INTEGER,
        noticed_s INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE notices (
        id TEXT PRIMARY KEY,
        received_ms INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE meter_events (
        batch TEXT NOT NULL,
        tenant TEXT NOT NULL,
        hour_ms INTEGER NOT NULL,
        model TEXT NOT NULL,
        class TEXT NOT NULL,
        requests INTEGER NOT NULL,
        prompt_tokens INTEGER NOT NULL,
        cached_tokens INTEGER NOT NULL,
        completion_tokens INTEGER NOT NULL,
        opened_ms INTEGER NOT NULL,
        value INTEGER,
        tries INTEGER NOT NULL DEFAULT 0,
        first_try_ms INTEGER,
        next_ms INTEGER NOT NULL DEFAULT 0,
        sent_ms INTEGER,
        parked TEXT,
        PRIMARY KEY (tenant, hour_ms, model, class, batch)
    ) STRICT;
    CREATE INDEX meter_events_due ON meter_events (next_ms) WHERE sent_ms IS NULL;
",
];

/// Brings the schema up to date; one of a newer version is refused.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), LedgerError> {
    let cannot = |error| failed("cannot be brought up to date", error);
    let transaction = connection
        .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
        .map_err(cannot)?;
    let version: u32 = transaction
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(cannot)?;
    let newest = u32::try_from(MIGRATIONS.len()).expect("there are few migrations");
    if version > newest {
        return Err(LedgerError::Foreign {
            what: "schema version",
            found: version.to_string(),
        });
    }
    for migration in &MIGRATIONS[version as usize..] {
        transaction.execute_batch(migration).map_err(cannot)?;
    }
    transaction
        .pragma_update(None, "user_version", newest)
        .map_err(cannot)?;
    transaction.commit().map_err(cannot)
}
