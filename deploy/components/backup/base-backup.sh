#!/bin/sh
# A physical copy of the server, from which the archived log goes on: base-backup.sh FOLDER WAL_ARCHIVE. With both, the
# ledger can be brought to any moment since: deploy/docs/runbook.md, "Restore". Log older than the oldest copy goes.
set -eu

folder=${1:?usage: base-backup.sh FOLDER WAL_ARCHIVE}
archive=${2:?usage: base-backup.sh FOLDER WAL_ARCHIVE}
keep=${KEEP_BASE_BACKUPS:-3}
name=base-$(date -u +%Y%m%dT%H%M%SZ)
incoming=$folder/.$name.incoming

say() { echo "base-backup: $*" >&2; }
fail() { say "FAILED: $*"; exit 1; }

# libpq takes no password file that a group may read, which a mounted secret always is.
if [ -n "${POSTGRES_PASSWORD_FILE:-}" ]; then
    PGPASSWORD=$(cat "$POSTGRES_PASSWORD_FILE")
    export PGPASSWORD
fi
[ -d "$folder" ] || fail "$folder is no folder"
[ -d "$archive" ] || fail "$archive is no folder"
trap 'rm -rf "$incoming"' EXIT
trap 'exit 1' INT TERM
pg_basebackup --pgdata="$incoming" --checkpoint=fast --wal-method=stream --no-password --manifest-checksums=SHA256 ||
    fail "pg_basebackup ended with $?"
pg_verifybackup --quiet "$incoming" || fail "the copy is not what its manifest says"
sync
mv "$incoming" "$folder/$name"
say "$folder/$name"

find "$folder" -maxdepth 1 -name 'base-*' | sort -r | tail -n "+$((keep + 1))" | while read -r old; do
    rm -rf "$old"
    say "removed $old"
done
# The first segment that the oldest copy needs.
oldest=$(find "$folder" -maxdepth 1 -name 'base-*' | sort | head -n 1)
first=$(sed -n 's/^START WAL LOCATION: .* (file \([0-9A-F]*\)).*/\1/p' "$oldest/backup_label")
[ -n "$first" ] || fail "$oldest/backup_label names no segment"
pg_archivecleanup "$archive" "$first"
