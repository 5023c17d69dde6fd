#!/usr/bin/env bash
# What a deployment must have brought, as far as a machine can see it: deploy/postdeploy.sh OVERLAY. MODEL names a model to
# ask (default: the first of /v1/models). docs/checklists.md has the rest.
set -euo pipefail
cd "$(dirname "$0")"

overlay=${1:?usage: deploy/postdeploy.sh OVERLAY}
kubectl=${KUBECTL:-kubectl}
folder=overlays/$overlay
[[ -d $folder ]] || folder=$overlay
faults=0
seen() { printf '  ok  %s\n' "$*"; }
fault() { printf '  FAULT  %s\n' "$*"; faults=1; }
built=$("$kubectl" kustomize "$folder")
has() { grep -qE "$1" <<<"$built"; }

for namespace in vlinders-platform vlinders-inference vlinders-monitoring; do
    bad=$("$kubectl" get pods -n "$namespace" --no-headers 2>/dev/null | awk '$3 != "Running" && $3 != "Completed" { print $1, $3 }')
    if [[ -z $bad ]]; then seen "all pods of $namespace run"; else fault "$namespace: $bad"; fi
    restarts=$("$kubectl" get pods -n "$namespace" --no-headers 2>/dev/null | awk '$4 + 0 > 3 { print $1, $4 }')
    if [[ -z $restarts ]]; then seen "nothing of $namespace starts again and again"; else fault "$namespace restarts: $restarts"; fi
done

"$kubectl" port-forward -n vlinders-platform service/frontend :8000 >"${TMPDIR:-/tmp}/vlinders-forward.$$" 2>/dev/null &
forward=$!
trap 'kill $forward 2>/dev/null; rm -f "${TMPDIR:-/tmp}/vlinders-forward.$$"' EXIT
port=
for _ in $(seq 50); do
    port=$(grep -oE '127.0.0.1:[0-9]+' "${TMPDIR:-/tmp}/vlinders-forward.$$" | head -n 1 | cut -d: -f2) || true
    [[ -n $port ]] && break
    sleep 0.2
done
if [[ -z $port ]]; then
    fault "no way to a frontend: kubectl port-forward"
else
    api=http://127.0.0.1:$port
    ready=$(curl -s --max-time 10 "$api/ready" || true)
    if [[ $ready == *'"ready"'* ]]; then seen "a frontend is ready"; else fault "a frontend is not ready: $ready"; fi
    # The key that lets in without the database, unless another one is given.
    key=${API_KEY:-$("$kubectl" get secret -n vlinders-platform vlinders-secrets -o 'jsonpath={.data.API_SECRET_KEY}' | base64 -d)} || true
    # Not as an argument, which everybody on this host could read.
    login() { printf 'header = "authorization: Bearer %s"\n' "$key"; }
    model=${MODEL:-$(login | curl -s -K - --max-time 10 "$api/v1/models" | grep -oE '"id": ?"[^"]*"' | head -n 1 | cut -d'"' -f4)}
    began=$(date +%s%N)
    answer=$(login | curl -s -K - --max-time 120 "$api/v1/completions" -H 'content-type: application/json' \
        -d "{\"model\":\"$model\",\"prompt\":\"One, two,\",\"max_tokens\":8}" || true)
    if [[ $answer == *'"completion_tokens"'* ]]; then
        seen "$model answers in $((($(date +%s%N) - began) / 1000000)) ms"
    else
        fault "$model does not answer: $answer"
    fi
    status=$(curl -s --max-time 10 -o /dev/null -w '%{http_code}' "$api/v1/models" || true)
    if [[ $status == 401 ]]; then seen "nobody gets in without a key"; else fault "without a key /v1/models answers $status"; fi
    if curl -s --max-time 10 "$api/metrics" | grep -q '^vlinders_http_requests_total'; then seen "metrics are there"; else fault "no metrics"; fi
fi
if "$kubectl" logs -n vlinders-platform deployment/frontend --tail=200 2>/dev/null | grep -q '"message":"request finished"'; then
    seen "requests are in the log, as JSON"
else
    fault "no line 'request finished' in a frontend's log"
fi
if has 'nvidia.com/gpu:'; then
    if "$kubectl" get pods -n vlinders-inference -o yaml 2>/dev/null | grep -q 'nvidia.com/gpu'; then seen "workers have devices"; else fault "workers have no devices"; fi
fi
if has '^kind: CronJob$'; then
    job=postgres-backup-check-$(date +%s)
    "$kubectl" create job -n vlinders-platform "$job" --from=cronjob/postgres-backup >/dev/null
    if "$kubectl" wait -n vlinders-platform --for=condition=complete "job/$job" --timeout=600s >/dev/null 2>&1; then
        seen "a backup was made"
    else
        fault "no backup: kubectl logs -n vlinders-platform job/$job"
    fi
fi
exit "$faults"
