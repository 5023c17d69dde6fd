#!/usr/bin/env bash
# Brings an installation to a cluster, or a change to an installation: deploy/deploy.sh OVERLAY
#   OVERLAY: dev, small, large, gpu, rdma, aws, or a folder with a kustomization of your own
#   KUBECTL, TIMEOUT (1800s)
# In order, each step waited for: what must be there, namespaces, secrets, what holds state, workers, frontends, and all of
# it once more as one, which brings ways in, monitoring, autoscaling and policies. Can be run again at any point.
set -euo pipefail
cd "$(dirname "$0")"

overlay=${1:?usage: deploy/deploy.sh OVERLAY}
export KUBECTL=${KUBECTL:-kubectl} TIMEOUT=${TIMEOUT:-1800s}
folder=overlays/$overlay
[[ -d $folder ]] || folder=$overlay
OVERLAY=$(basename "$overlay")
export OVERLAY
say() { echo "deploy: $*"; }
built=$(mktemp)
trap 'rm -f "$built"' EXIT
"$KUBECTL" kustomize "$folder" >"$built"

say "1. what must be there"
./preflight.sh "$overlay"

# Only objects of these kinds, out of everything. `apply` of all follows at the end.
part() { # KINDS NAMES
    ./checks/part.awk -v kinds="$1" -v names="$2" "$built"
}
apply() { "$KUBECTL" apply --server-side --force-conflicts -f - ; }
ready() { # KIND/NAME NAMESPACE
    "$KUBECTL" rollout status -n "$2" "$1" --timeout "$TIMEOUT"
}
has() { [[ -n $(part "$1" "$2") ]]; }

say "2. namespaces"
part Namespace '' | apply
say "3. secrets"
./make-secrets
say "4. settings, accounts, storage"
part 'ConfigMap ServiceAccount PriorityClass ResourceQuota StorageClass PersistentVolumeClaim' '' | apply
say "5. what holds state"
part 'StatefulSet Service' 'postgres redis nats nats-peers' | apply
if has Cluster ledger; then
    # The store first: the cluster archives its log from the beginning.
    part ObjectStore ledger | apply
    part Cluster ledger | apply
    "$KUBECTL" wait -n vlinders-platform --for=condition=Ready cluster/ledger --timeout "$TIMEOUT"
else
    ready statefulset/postgres vlinders-platform
fi
ready statefulset/redis vlinders-platform
ready statefulset/nats vlinders-platform
say "6. usage, which brings the schema up to date"
part Deployment usage | apply
ready deployment/usage vlinders-platform
say "7. workers"
part 'Deployment Service' 'prefill decode' | apply
ready deployment/prefill vlinders-inference
ready deployment/decode vlinders-inference
say "8. frontends"
part 'Deployment Service' frontend | apply
ready deployment/frontend vlinders-platform
say "9. everything: ways in, monitoring, backups, autoscaling, network policies"
apply <"$built"
if has StatefulSet prometheus; then
    ready statefulset/prometheus vlinders-monitoring
fi
say "10. what can be seen from here"
./postdeploy.sh "$overlay"
say "done"
