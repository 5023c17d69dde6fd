#!/usr/bin/env bash
# What must be there before a deployment, as far as a machine can see it: deploy/preflight.sh OVERLAY. Tells everything that
# is missing at once. docs/checklists.md has the rest.
set -euo pipefail
cd "$(dirname "$0")"

overlay=${1:?usage: deploy/preflight.sh OVERLAY}
kubectl=${KUBECTL:-kubectl}
folder=overlays/$overlay
[[ -d $folder ]] || folder=$overlay
faults=()
fault() { faults+=("$*"); }
seen() { printf '  ok  %s\n' "$*"; }
built=$("$kubectl" kustomize "$folder")
has() { grep -qE "$1" <<<"$built"; }

if version=$("$kubectl" version -o json 2>/dev/null | tr -d ' \n' | grep -oE '"serverVersion":\{[^}]*' | grep -oE '"minor":"[0-9]+' | grep -oE '[0-9]+$'); then
    # preStop.sleep and the APIs used here.
    if ((version >= 34)); then seen "Kubernetes 1.$version"; else fault "Kubernetes 1.$version: 1.34 or newer is needed"; fi
else
    fault "the cluster does not answer: is the context right?"
fi
for right in 'create namespaces' 'create deployments -n vlinders-platform' 'create clusterroles'; do
    # shellcheck disable=SC2086
    if "$kubectl" auth can-i -q $right 2>/dev/null; then seen "may $right"; else fault "you may not $right"; fi
done
kind() { # KIND CRD WHO
    if has "^kind: $1\$"; then
        if "$kubectl" get crd "$2" >/dev/null 2>&1; then seen "$3"; else fault "$3 is not installed ($2)"; fi
    fi
}
kind Gateway gateways.gateway.networking.k8s.io 'Gateway API'
kind Certificate certificates.cert-manager.io 'cert-manager'
kind ScaledObject scaledobjects.keda.sh 'KEDA'
kind VerticalPodAutoscaler verticalpodautoscalers.autoscaling.k8s.io 'the vertical pod autoscaler'
kind Cluster clusters.postgresql.cnpg.io 'CloudNativePG'
kind ObjectStore objectstores.barmancloud.cnpg.io "CloudNativePG's plugin for barman"
if has '^kind: (Gateway|Ingress)$'; then
    label='vlinders.io/gateway=true'
    if [[ -n $("$kubectl" get namespaces -l "$label" -o name 2>/dev/null) ]]; then
        seen "a namespace with $label"
    else
        fault "no namespace has the label $label: network policies would keep the gateway's pods out"
    fi
fi
while read -r class; do
    if "$kubectl" get storageclass "$class" >/dev/null 2>&1 || has "^  name: $class\$"; then
        seen "storage class $class"
    else
        fault "there is no storage class $class"
    fi
done < <(grep -oE 'storageClassName: .*' <<<"$built" | awk '{print $2}' | sort -u)
if ! has 'storageClassName:' && ! "$kubectl" get storageclass -o yaml 2>/dev/null | grep -q 'is-default-class: "true"'; then
    fault "no storage class is the default one, and the overlay names none"
fi
if has 'nvidia.com/gpu:'; then
    nodes=$("$kubectl" get nodes -l nvidia.com/gpu.present=true -o name 2>/dev/null | wc -l)
    if ((nodes > 0)); then seen "$nodes nodes with GPUs"; else fault "no node has the label nvidia.com/gpu.present=true"; fi
fi
if has 'image: registry.example.com/'; then
    fault "the image is still registry.example.com/vlinders: set yours with images: in your overlay"
fi
tagged=$(grep -oE 'image: .*' <<<"$built" | grep -vc '@sha256:') || true
if ((tagged > 0)); then
    printf '  --  %s\n' "$tagged images are named by a tag, which may move: deploy/pin-images $overlay"
fi
if has 's3://REPLACE-'; then
    fault "overlays/large/postgres-cluster.yaml still says s3://REPLACE-ledger/"
fi
if has 'fs-REPLACE'; then
    fault "overlays/aws/storage.yaml still says fs-REPLACE"
fi
if has 'operations@vlinders.ai' && [[ -z ${ISSUER_CHECKED:-} ]]; then
    fault "the certificate's account is operations@vlinders.ai: change it in your overlay, or set ISSUER_CHECKED=1"
fi
if ((${#faults[@]} > 0)); then
    printf '  MISSING  %s\n' "${faults[@]}"
    exit 1
fi
