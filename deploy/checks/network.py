"""Who reaches whom by the network policies of a built overlay: network.py FILE

A table says what must be possible and what must not. Policies are read by the rules of Kubernetes: a pod that a policy
selects is closed in that direction but for what policies allow; entries of a list are alternatives, the parts of one
entry hold together."""

import ipaddress
import sys

import yaml

PLATFORM, INFERENCE, MONITORING = "vlinders-platform", "vlinders-inference", "vlinders-monitoring"
# Name: (namespace, its labels, labels of the pod). An address instead is somebody outside.
PODS = {
    "frontend": PLATFORM, "usage": PLATFORM, "nats": PLATFORM, "redis": PLATFORM, "postgres": PLATFORM, "postgres-backup": PLATFORM,
    "prefill": INFERENCE, "decode": INFERENCE,
    "prometheus": MONITORING, "grafana": MONITORING, "alertmanager": MONITORING, "otel-collector": MONITORING,
    "kube-state-metrics": MONITORING, "prometheus-adapter": MONITORING,
    "gateway": "gateway-system", "keda": "keda", "dns": "kube-system", "stranger": "default",
}
OUTSIDE = {"internet": "93.184.216.34", "metadata": "169.254.169.254"}
POSSIBLE = """
gateway frontend 8000
prometheus frontend 8000
prometheus usage 9100
prometheus prefill 9100
prometheus decode 9100
prometheus nats 7777
prometheus redis 9121
prometheus postgres 9187
prometheus alertmanager 9093
prometheus kube-state-metrics 8080
frontend nats 4222
frontend redis 6379
frontend postgres 5432
frontend otel-collector 4318
frontend dns 53
usage nats 4222
usage postgres 5432
usage otel-collector 4318
prefill nats 4222
prefill decode 9200
prefill otel-collector 4318
prefill dns 53
decode prefill 9200
decode nats 4222
decode otel-collector 4318
nats nats 6222
keda nats 8222
keda prometheus 9090
grafana prometheus 9090
grafana postgres 5432
gateway grafana 3000
postgres-backup postgres 5432
postgres-backup internet 443
frontend internet 443
prefill internet 443
alertmanager internet 443
prometheus-adapter prometheus 9090
"""
IMPOSSIBLE = """
stranger frontend 8000
stranger nats 4222
stranger postgres 5432
stranger redis 6379
stranger prefill 9200
stranger decode 9100
gateway prefill 9100
gateway nats 4222
gateway postgres 5432
gateway usage 9100
frontend prefill 9200
frontend decode 9200
prefill postgres 5432
prefill redis 6379
decode postgres 5432
decode redis 6379
decode frontend 8000
usage redis 6379
redis internet 443
nats internet 443
postgres internet 443
usage internet 443
frontend internet 80
frontend metadata 443
prefill metadata 443
grafana nats 4222
stranger prometheus 9090
prefill prometheus 9090
internet frontend 8000
"""


def labels_match(selector, labels):
    if selector is None:
        return False
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for rule in selector.get("matchExpressions", []):
        value = labels.get(rule["key"])
        fits = {
            "In": value in rule.get("values", []),
            "NotIn": value not in rule.get("values", []),
            "Exists": value is not None,
            "DoesNotExist": value is None,
        }[rule["operator"]]
        if not fits:
            return False
    return True


class Place:
    def __init__(self, name):
        self.name = name
        self.address = OUTSIDE.get(name)
        if self.address is None:
            self.namespace = PODS[name]
            self.namespace_labels = {"kubernetes.io/metadata.name": self.namespace}
            if name == "gateway":
                self.namespace_labels["vlinders.io/gateway"] = "true"
            self.labels = {"k8s-app": "kube-dns"} if name == "dns" else {"app.kubernetes.io/name": name}


def peer_matches(peer, place, policy_namespace):
    if "ipBlock" in peer:
        # A pod's address is in a private range of the cluster: blocks are meant for what is outside.
        address = ipaddress.ip_address(place.address or "10.0.0.1")
        block = peer["ipBlock"]
        if address.version != ipaddress.ip_network(block["cidr"]).version:
            return False
        inside = address in ipaddress.ip_network(block["cidr"])
        return inside and not any(address in ipaddress.ip_network(net) for net in block.get("except", []))
    if place.address is not None:
        return False
    if "namespaceSelector" in peer:
        if not labels_match(peer["namespaceSelector"], place.namespace_labels):
            return False
    elif place.namespace != policy_namespace:
        return False
    return "podSelector" not in peer or labels_match(peer["podSelector"], place.labels)


def allows(policies, place, direction, other, port):
    """Whether the policies that select `place` let it talk with `other`."""
    if place.address is not None:
        return True
    key, side = ("Ingress", "from") if direction == "in" else ("Egress", "to")
    chosen = [
        policy
        for policy in policies
        if policy["metadata"]["namespace"] == place.namespace
        and labels_match(policy["spec"]["podSelector"], place.labels)
        and key in policy["spec"]["policyTypes"]
    ]
    if not chosen:
        return True
    for policy in chosen:
        for rule in policy["spec"].get(key.lower(), []):
            if "ports" in rule and not any(entry.get("port") == port for entry in rule["ports"]):
                continue
            if side not in rule:
                return True
            if any(peer_matches(peer, other, policy["metadata"]["namespace"]) for peer in rule[side]):
                return True
    return False


def main() -> int:
    with open(sys.argv[1]) as file:
        policies = [each for each in yaml.safe_load_all(file) if each and each["kind"] == "NetworkPolicy"]
    faults, count = [], 0
    for table, wanted in ((POSSIBLE, True), (IMPOSSIBLE, False)):
        for line in table.strip().splitlines():
            source, target, port = line.split()
            source, target, port = Place(source), Place(target), int(port)
            is_open = allows(policies, source, "out", target, port) and allows(policies, target, "in", source, port)
            count += 1
            if is_open != wanted:
                faults.append(f"{line}: {'possible' if is_open else 'impossible'}, and should not be")
    print("\n".join(faults) or f"{count} connections are as they should be, by {len(policies)} policies")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
