#!/bin/sh
# Brings a model to MODEL_PATH from MODEL_SOURCE (s3://bucket/folder, or a folder) and checks every file against the
# SHA256SUMS that lies with it. Nothing is seen at MODEL_PATH before all of it is right. Several pods may do this at
# once on one volume: one copies, the others wait for it.
#   MODEL_FILES=all|texts   texts leaves out the weights: a frontend needs none
set -eu

: "${MODEL_PATH:?}" "${MODEL_SOURCE:?}" "${MODEL_FILES:=all}"
stale_s=${STALE_S:-300}
parent=$(dirname "$MODEL_PATH")
lock=$MODEL_PATH.lock
mine=$MODEL_PATH.incoming.$(uname -n).$$

say() { echo "model: $*" >&2; }

copy() { # FROM TO
    case $1 in
    s3://*)
        if [ "$MODEL_FILES" = texts ]; then
            aws s3 cp --recursive --only-show-errors --exclude '*.safetensors' "$1" "$2"
        else
            aws s3 cp --recursive --only-show-errors "$1" "$2"
        fi
        ;;
    *)
        if [ "$MODEL_FILES" = texts ]; then
            find "$1" -maxdepth 1 -type f ! -name '*.safetensors' -exec cp {} "$2/" \;
        else
            cp -R "$1/." "$2/"
        fi
        ;;
    esac
}

check() { # FOLDER
    if [ ! -s "$1/SHA256SUMS" ]; then
        say "$MODEL_SOURCE has no SHA256SUMS; make one with: cd MODEL && sha256sum -- * > SHA256SUMS"
        return 1
    fi
    if [ "$MODEL_FILES" = texts ]; then
        grep -v '\.safetensors$' "$1/SHA256SUMS" >"$1/SHA256SUMS.texts"
        (cd "$1" && sha256sum --quiet -c SHA256SUMS.texts)
    else
        (cd "$1" && sha256sum --quiet -c SHA256SUMS)
    fi
}

age_of_lock() {
    now=$(date +%s)
    then=$(stat -c %Y "$lock" 2>/dev/null || echo "$now")
    echo $((now - then))
}

mkdir -p "$parent"
while [ ! -f "$MODEL_PATH/.verified" ]; do
    if mkdir "$lock" 2>/dev/null; then
        break
    fi
    # Whoever copies touches the lock; one that is left behind by a killed pod grows old.
    if [ "$(age_of_lock)" -gt "$stale_s" ]; then
        say "taking over the lock of a copy that died"
        rmdir "$lock" 2>/dev/null || true
        continue
    fi
    sleep "${WAIT_S:-5}"
done
if [ -f "$MODEL_PATH/.verified" ]; then
    say "$MODEL_PATH is there and was checked"
    rmdir "$lock" 2>/dev/null || true
    exit 0
fi

( while sleep 30; do touch "$lock" || exit 0; done ) &
toucher=$!
trap 'kill "$toucher" 2>/dev/null || true; rm -rf "$mine"; rmdir "$lock" 2>/dev/null || true' EXIT
trap 'exit 1' TERM INT
rm -rf "$MODEL_PATH".incoming.*
mkdir "$mine"
say "copying $MODEL_SOURCE"
copy "$MODEL_SOURCE" "$mine"
check "$mine"
: >"$mine/.verified"
sync
rm -rf "$MODEL_PATH"
mv "$mine" "$MODEL_PATH"
say "$MODEL_PATH is complete"
