#!/bin/sh
# Copies backups out of the cluster: copy.sh FOLDER. Nothing to do without BACKUP_COPY (s3://bucket/folder). Standard
# storage: what takes hours to thaw restores nothing within one.
set -eu

folder=${1:?usage: copy.sh FOLDER}
if [ -z "${BACKUP_COPY:-}" ]; then
    echo "copy: BACKUP_COPY is not set: the backups are in one place only" >&2
    exit 0
fi
aws s3 sync --only-show-errors --exclude '.*' "$folder" "$BACKUP_COPY"
# What is there now is what is here: sizes are compared by a second run that must find nothing to do.
left=$(aws s3 sync --dryrun --size-only --exclude '.*' "$folder" "$BACKUP_COPY")
if [ -n "$left" ]; then
    echo "copy: FAILED: not copied: $left" >&2
    exit 1
fi
echo "copy: $BACKUP_COPY has everything" >&2
