#!/bin/sh
# Brings a backup back: restore.sh FILE DATABASE. The connection is that of libpq; its user may create databases.
# The backup is restored into a new database beside the old one and checked there; only then the names change, and the old
# database stays as DATABASE_before_TIME. Prints how long it took. Stop `vlinders usage` before (docs/runbook.md).
set -eu

file=${1:?usage: restore.sh FILE DATABASE}
database=${2:?usage: restore.sh FILE DATABASE}
stamp=$(date -u +%Y%m%d%H%M%S)
fresh=${database}_restoring_$stamp
aside=${database}_before_$stamp
started=$(date +%s)

say() { echo "restore: $*" >&2; }
fail() { say "FAILED: $*"; exit 1; }
sql() { psql --no-psqlrc --quiet --tuples-only --no-align --no-password --set=ON_ERROR_STOP=1 "$@"; }

# libpq takes no password file that a group may read, which a mounted secret always is.
if [ -n "${POSTGRES_PASSWORD_FILE:-}" ]; then
    PGPASSWORD=$(cat "$POSTGRES_PASSWORD_FILE")
    export PGPASSWORD
fi
[ -s "$file" ] || fail "$file is missing or empty"
if [ -f "$file.sha256" ]; then
    (cd "$(dirname "$file")" && sha256sum --quiet -c "$(basename "$file").sha256") || fail "$file is not what was backed up"
else
    say "no $file.sha256: the bytes are not checked"
fi
pg_restore --list "$file" >/dev/null || fail "$file is no backup that can be read"

sql --dbname=postgres --command="CREATE DATABASE \"$fresh\" TEMPLATE template0" || fail "no new database"
drop() { sql --dbname=postgres --command="DROP DATABASE IF EXISTS \"$fresh\"" || true; }
trap drop EXIT
trap 'exit 1' INT TERM
# Stops at the first fault, and leaves nothing half restored.
pg_restore --no-password --no-owner --no-privileges --exit-on-error --single-transaction --dbname="$fresh" "$file" ||
    fail "pg_restore ended with $?"

rows=$(sql --dbname="$fresh" --command='SELECT count(*) FROM usage') || fail "the table of usage is missing"
version=$(sql --dbname="$fresh" --command='SELECT max(version) FROM schema_version') || fail "the schema has no version"
newest=$(sql --dbname="$fresh" --command="SELECT coalesce(to_timestamp(max(finished_ms) / 1000.0)::text, 'none') FROM usage")
sql --dbname="$fresh" --command='ANALYZE'
if [ -n "${EXPECT_ROWS:-}" ] && [ "$rows" != "$EXPECT_ROWS" ]; then
    fail "$rows rows came back and $EXPECT_ROWS were expected"
fi
say "$rows rows of usage, the newest of $newest, schema version $version"

exists=$(sql --dbname=postgres --command="SELECT count(*) FROM pg_database WHERE datname = '$database'")
if [ "$exists" = 1 ]; then
    sql --dbname=postgres --command="SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = '$database'" >/dev/null
    sql --dbname=postgres --command="ALTER DATABASE \"$database\" RENAME TO \"$aside\"" ||
        fail "$database is in use: stop vlinders usage and try again"
    say "the old database is kept as $aside"
fi
sql --dbname=postgres --command="ALTER DATABASE \"$fresh\" RENAME TO \"$database\"" || fail "$fresh cannot be renamed"
trap - EXIT
say "$database is back after $(($(date +%s) - started)) s"
