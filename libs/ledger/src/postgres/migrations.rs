//! The schema, and how a database comes to have it.

use deadpool_postgres::Client;
use deadpool_postgres::tokio_postgres::Error;

/// One per version of the schema. Never changed, only added to.
///
/// Times are milliseconds since 1970, as in the events and as in SQLite: they come back as they were, and
/// `to_timestamp(finished_ms / 1000.0)` shows them as dates. Names sort by their bytes, whatever the database's locale.
const MIGRATIONS: &[&str] = &[
    r#"
    CREATE TABLE usage (
        request_id text COLLATE "C" PRIMARY KEY,
        attempt bigint NOT NULL,
        tenant text COLLATE "C" NOT NULL,
        key text COLLATE "C" NOT NULL,
        model text COLLATE "C" NOT NULL,
        writer text COLLATE "C" NOT NULL,
        prompt_tokens bigint NOT NULL,
        cached_tokens bigint NOT NULL,
        completion_tokens bigint NOT NULL,
        finish text NOT NULL,
        stream boolean NOT NULL,
        created_ms bigint NOT NULL,
        first_token_ms bigint,
        finished_ms bigint NOT NULL
    );
    CREATE INDEX usage_by_time ON usage (finished_ms);
    CREATE INDEX usage_by_tenant ON usage (tenant, finished_ms);
"#,
    r#"
    CREATE TABLE api_keys (
        id text COLLATE "C" PRIMARY KEY,
        hash text NOT NULL UNIQUE,
        previous_hash text UNIQUE,
        previous_until_ms bigint,
        prefix text NOT NULL,
        name text NOT NULL,
        tenant text COLLATE "C" NOT NULL,
        scopes text NOT NULL,
        models text,
        is_lenient boolean NOT NULL,
        max_priority bigint,
        requests_per_minute bigint,
        tokens_per_minute bigint,
        concurrent_streams bigint,
        daily_tokens bigint,
        daily_nanos bigint,
        monthly_tokens bigint,
        monthly_nanos bigint,
        expires_ms bigint,
        created_ms bigint NOT NULL,
        revoked_ms bigint,
        last_used_ms bigint
    );
"#,
    r#"
    ALTER TABLE usage ADD COLUMN class text COLLATE "C" NOT NULL DEFAULT 'standard';
"#,
    r#"
    CREATE TABLE responses (
        id text COLLATE "C" PRIMARY KEY,
        tenant text COLLATE "C" NOT NULL,
        items text COLLATE "C" NOT NULL,
        response text COLLATE "C" NOT NULL,
        created_ms bigint NOT NULL,
        expires_ms bigint NOT NULL
    );
    CREATE INDEX responses_by_expiry ON responses (expires_ms);
    CREATE TABLE files (
        id text COLLATE "C" PRIMARY KEY,
        tenant text COLLATE "C" NOT NULL,
        purpose text COLLATE "C" NOT NULL,
        filename text COLLATE "C" NOT NULL,
        bytes bigint NOT NULL,
        chunks bigint NOT NULL,
        created_ms bigint NOT NULL,
        expires_ms bigint NOT NULL,
        state text COLLATE "C" NOT NULL
    );
    CREATE INDEX files_by_tenant ON files (tenant, id);
    CREATE INDEX files_by_expiry ON files (expires_ms);
    CREATE TABLE file_chunks (
        file_id text COLLATE "C" NOT NULL,
        number bigint NOT NULL,
        content bytea NOT NULL,
        PRIMARY KEY (file_id, number)
    );
    CREATE TABLE batches (
        id text COLLATE "C" PRIMARY KEY,
        tenant text COLLATE "C" NOT NULL,
        key text COLLATE "C" NOT NULL,
        rights text COLLATE "C" NOT NULL,
        endpoint text COLLATE "C" NOT NULL,
        input_file text COLLATE "C" NOT NULL,
        metadata text COLLATE "C",
        output_expires_s bigint,
        created_ms bigint NOT NULL,
        expires_ms bigint NOT NULL,
        status text COLLATE "C" NOT NULL,
        ending text COLLATE "C",
        errors text COLLATE "C",
        output_file text COLLATE "C",
        error_file text COLLATE "C",
        claims bigint NOT NULL,
        total bigint NOT NULL,
        completed bigint NOT NULL,
        failed bigint NOT NULL,
        in_progress_ms bigint,
        finalizing_ms bigint,
        completed_ms bigint,
        failed_ms bigint,
        expired_ms bigint,
        cancelling_ms bigint,
        cancelled_ms bigint,
        lease_holder text COLLATE "C",
        lease_until_ms bigint NOT NULL
    );
    CREATE INDEX batches_by_tenant ON batches (tenant, id);
    CREATE INDEX batches_by_lease ON batches (status, lease_until_ms);
    CREATE TABLE batch_results (
        batch_id text COLLATE "C" NOT NULL,
        line bigint NOT NULL,
        is_failed bigint NOT NULL,
        content bytea NOT NULL,
        PRIMARY KEY (batch_id, line)
    );
    CREATE INDEX batch_results_by_kind ON batch_results (batch_id, is_failed);
"#,
    r#"
    CREATE TABLE tenants (
        tenant text COLLATE "C" PRIMARY KEY,
        customer text COLLATE "C" UNIQUE,
        halted_ms bigint,
        unpaid_ms bigint,
        noticed_s bigint NOT NULL
    );
    CREATE TABLE notices (
        id text COLLATE "C" PRIMARY KEY,
        received_ms bigint NOT NULL
    );
    CREATE TABLE meter_events (
        batch text COLLATE "C" NOT NULL,
        tenant text COLLATE "C" NOT NULL,
        hour_ms bigint NOT NULL,
        model text COLLATE "C" NOT NULL,
        class text COLLATE "C" NOT NULL,
        requests bigint NOT NULL,
        prompt_tokens bigint NOT NULL,
        cached_tokens bigint NOT NULL,
        completion_tokens bigint NOT NULL,
        opened_ms bigint NOT NULL,
        value bigint,
        tries bigint NOT NULL DEFAULT 0,
        first_try_ms bigint,
        next_ms bigint NOT NULL DEFAULT 0,
        sent_ms bigint,
        parked text,
        PRIMARY KEY (tenant, hour_ms, model, class, batch)
    );
    CREATE INDEX meter_events_due ON meter_events (next_ms) WHERE sent_ms IS NULL;
"#,
];

/// Whoever holds this advisory lock changes the schema: `vlinders` in ASCII.
const LOCK: i64 = 0x766C_696E_6465_7273;

/// The version this program works with.
pub(super) fn newest() -> i32 {
    i32::try_from(MIGRATIONS.len()).expect("there are few migrations")
}

/// Brings the schema up to date and returns its version, which is left alone where it is newer.
/// Several processes may do this at once: one works, the others wait for it.
pub(super) async fn migrate(client: &mut Client) -> Result<i32, Error> {
    // A process that may not change the schema can use one that is up to date.
    let version = installed(client).await?;
    if version >= newest() {
        return Ok(version);
    }
    let transaction = client.transaction().await?;
    // An index on a large table may take longer than any other statement.
    transaction
        .batch_execute("SET LOCAL statement_timeout = 0")
        .await?;
    transaction
        .execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK])
        .await?;
    transaction
        .batch_execute(
            "CREATE TABLE IF NOT EXISTS schema_version \
             (version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())",
        )
        .await?;
    // Somebody else may have done it while we waited for the lock.
    let sql = "SELECT coalesce(max(version), 0) FROM schema_version";
    let mut version: i32 = transaction.query_one(sql, &[]).await?.try_get(0)?;
    let done = usize::try_from(version).unwrap_or(0);
    for migration in MIGRATIONS.iter().skip(done) {
        transaction.batch_execute(migration).await?;
        version += 1;
        let sql = "INSERT INTO schema_version (version) VALUES ($1)";
        transaction.execute(sql, &[&version]).await?;
    }
    transaction.commit().await?;
    Ok(version)
}

async fn installed(client: &Client) -> Result<i32, Error> {
    let sql = "SELECT to_regclass('schema_version') IS NOT NULL";
    if !client.query_one(sql, &[]).await?.try_get::<_, bool>(0)? {
        return Ok(0);
    }
    let sql = "SELECT coalesce(max(version), 0) FROM schema_version";
    client.query_one(sql, &[]).await?.try_get(0)
}
