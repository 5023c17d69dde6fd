#!/bin/sh
# One backup of the ledger: backup.sh FOLDER. The connection is that of libpq (PGHOST, PGUSER, PGDATABASE, ...), the
# password may come from POSTGRES_PASSWORD_FILE.
# A backup exists under its name only when pg_dump ended well, the archive can be read and names the table of usage, and
# all of it is on disk. Old ones go only after that, and never the last KEEP_AT_LEAST. Whatever fails, fails loudly.
set -eu

folder=${1:?usage: backup.sh FOLDER}
keep_days=${KEEP_DAYS:-30}
keep_at_least=${KEEP_AT_LEAST:-7}
stamp=$(date -u +%Y%m%dT%H%M%SZ)
name=vlinders-$stamp.dump
incoming=$folder/.$name.incoming

say() { echo "backup: $*" >&2; }
fail() { say "FAILED: $*"; exit 1; }

# libpq takes no password file that a group may read, which a mounted secret always is.
if [ -n "${POSTGRES_PASSWORD_FILE:-}" ]; then
    PGPASSWORD=$(cat "$POSTGRES_PASSWORD_FILE")
    export PGPASSWORD
fi
[ -d "$folder" ] || fail "$folder is no folder"
trap 'rm -f "$incoming" "$incoming.list" "$folder/.metric.incoming"' EXIT
trap 'exit 1' INT TERM

started=$(date +%s)
# No pipe: its exit status would be that of the last program.
pg_dump --format=custom --compress=6 --no-password --file="$incoming" || fail "pg_dump ended with $?"
[ -s "$incoming" ] || fail "pg_dump wrote nothing"
pg_restore --list "$incoming" >"$incoming.list" || fail "the archive cannot be read back"
grep -q 'TABLE DATA .* usage ' "$incoming.list" || fail "the archive has no table of usage: is PGDATABASE right?"
sync "$incoming"
(cd "$folder" && sha256sum ".$name.incoming" | sed "s/\.$name\.incoming/$name/") >"$folder/$name.sha256"
mv "$incoming" "$folder/$name"
sync "$folder"
bytes=$(stat -c %s "$folder/$name")
ended=$(date +%s)
say "$folder/$name: $bytes bytes in $((ended - started)) s"

# For the textfile collector of node-exporter, where there is one; in Kubernetes the CronJob's own state tells the age.
cat >"$folder/.metric.incoming" <<METRIC
# HELP postgres_backup_last_success_timestamp_seconds When the last whole backup was made.
# TYPE postgres_backup_last_success_timestamp_seconds gauge
postgres_backup_last_success_timestamp_seconds $ended
# HELP postgres_backup_last_success_bytes Its size.
# TYPE postgres_backup_last_success_bytes gauge
postgres_backup_last_success_bytes $bytes
METRIC
mv "$folder/.metric.incoming" "$folder/backup.prom"

# The newest KEEP_AT_LEAST stay, however old they are.
kept=0
for old in $(find "$folder" -maxdepth 1 -name 'vlinders-*.dump' | sort -r); do
    kept=$((kept + 1))
    if [ "$kept" -gt "$keep_at_least" ] && [ -n "$(find "$old" -mtime "+$keep_days")" ]; then
        rm -f "$old" "$old.sha256"
        say "removed $old"
    fi
done
