#!/bin/sh
# archive_command of Postgres: archive-wal.sh PATH NAME. Success means that the segment is whole and on disk. Postgres
# asks again until it is, and keeps the segment so long; the alert WalArchivingFails tells when that lasts.
set -eu
archive=${WAL_ARCHIVE:-/wal-archive}
path=$1
name=$2
if [ -e "$archive/$name" ]; then
    # Archived before a crash, and asked again: the same bytes are a success, others are somebody else's segment.
    cmp -s "$path" "$archive/$name" && exit 0
    echo "archive-wal: $archive/$name is there and differs" >&2
    exit 1
fi
cp "$path" "$archive/.$name.incoming"
sync "$archive/.$name.incoming"
mv "$archive/.$name.incoming" "$archive/$name"
sync "$archive"
