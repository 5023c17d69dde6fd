"""What schemas cannot see in built overlays: objects.py VLINDERS FILE...

Every name that an object uses leads somewhere, every variable is one that the program reads, and the rules of this folder
hold: who owns a replica count, how long a pod may take to leave, what a namespace allows."""

import re
import subprocess
import sys

import yaml

# Made by make-secrets or by cert-manager; never in this folder.
SECRETS = {
    "vlinders-platform": {"vlinders-secrets", "nats-auth", "nats-frontend", "nats-usage", "redis-auth", "stripe", "model-source", "vlinders-tls", "postgres-owner", "nats-server-tls", "nats-client-tls",
                         "redis-server-tls", "postgres-server-tls"},
    "vlinders-inference": {"nats-worker", "model-source", "model-registry-credentials", "nats-client-tls"},
    "vlinders-monitoring": {"grafana", "inside-ca", "alertmanager", "prometheus-adapter-tls"},
    "vlinders-node-agents": {"elasticsearch"},
    "kube-system": set(),
}
ROLES = ("frontend", "usage", "prefill", "decode")
# Read by the init container, not by the program.
OTHERS_VARIABLES = {"MODEL_SOURCE", "POD_IP"}
PLAIN_NAME = re.compile(r"^[^@]+(:[\w][\w.-]*|@sha256:[0-9a-f]{64})$")


def variables_of(program: str) -> dict[str, set[str]]:
    """The variables each role reads, as its own help tells."""
    found = {}
    for role in ROLES:
        told = subprocess.run([program, role, "--help"], capture_output=True, text=True, check=True).stdout
        found[role] = set(re.findall(r"\[env: ([A-Z0-9_]+)", told))
        # Secrets are no flags.
        found[role] |= {name.removesuffix("_FILE") for name in found[role] if name.endswith("_FILE")}
    return found


class Overlay:
    def __init__(self, path: str, variables: dict[str, set[str]]):
        self.path, self.variables, self.faults = path, variables, []
        with open(path) as file:
            self.objects = [each for each in yaml.safe_load_all(file) if each]
        self.by_name = {}
        for each in self.objects:
            key = (each["kind"], each["metadata"].get("namespace", ""), each["metadata"]["name"])
            if key in self.by_name:
                self.fault(each, "occurs twice")
            self.by_name[key] = each

    def fault(self, one, text):
        self.faults.append(f"{self.path}: {one['kind']} {one['metadata'].get('namespace', '')}/{one['metadata']['name']}: {text}")

    def has(self, kind, namespace, name):
        return (kind, namespace, name) in self.by_name

    def all(self, *kinds):
        return [each for each in self.objects if each["kind"] in kinds]

    def check(self):
        self.namespaces()
        for each in self.all("Deployment", "StatefulSet", "DaemonSet", "CronJob"):
            self.workload(each)
        self.services()
        self.scaling()
        return self.faults

    def namespaces(self):
        levels = {"vlinders-platform": "restricted", "vlinders-monitoring": "restricted"}
        for each in self.all("Namespace"):
            labels = each["metadata"].get("labels", {})
            level = labels.get("pod-security.kubernetes.io/enforce")
            if not level:
                self.fault(each, "has no Pod Security level")
            wanted = levels.get(each["metadata"]["name"])
            if wanted and level != wanted:
                self.fault(each, f"is {level}, not {wanted}")
        known = {each["metadata"]["name"] for each in self.all("Namespace")} | {"kube-system", "cert-manager", ""}
        for each in self.objects:
            if each["metadata"].get("namespace", "") not in known:
                self.fault(each, "is in a namespace nobody makes")
        for name in ("vlinders-platform", "vlinders-inference", "vlinders-monitoring"):
            if not self.has("NetworkPolicy", name, "default-deny"):
                self.faults.append(f"{self.path}: {name} is open to the network")

    def workload(self, each):
        namespace = each["metadata"]["namespace"]
        spec = each["spec"]["jobTemplate"]["spec"] if each["kind"] == "CronJob" else each["spec"]
        pod, labels = spec["template"]["spec"], spec["template"]["metadata"].get("labels", {})
        selector = spec.get("selector", {}).get("matchLabels", {})
        if any(labels.get(key) != value for key, value in selector.items()):
            self.fault(each, "selects pods that are not its own")
        if not self.has("ServiceAccount", namespace, pod.get("serviceAccountName", "")):
            self.fault(each, f"has no service account {pod.get('serviceAccountName')}")
        priority = pod.get("priorityClassName")
        if priority and not priority.startswith("system-") and not self.has("PriorityClass", "", priority):
            self.fault(each, f"there is no priority {priority}")
        claims = {claim["metadata"]["name"] for claim in each["spec"].get("volumeClaimTemplates", [])}
        volumes = set(claims)
        for volume in pod.get("volumes", []):
            volumes.add(volume["name"])
            self.volume(each, namespace, volume)
        for container in pod.get("initContainers", []) + pod["containers"]:
            self.container(each, namespace, container, volumes)
        if each["metadata"]["name"] in ROLES:
            self.role(each, pod)

    def volume(self, each, namespace, volume):
        if "configMap" in volume and not self.has("ConfigMap", namespace, volume["configMap"]["name"]):
            self.fault(each, f"there is no ConfigMap {volume['configMap']['name']}")
        if "secret" in volume and volume["secret"]["secretName"] not in SECRETS.get(namespace, set()):
            self.fault(each, f"nobody makes the Secret {volume['secret']['secretName']}")
        if "persistentVolumeClaim" in volume:
            name = volume["persistentVolumeClaim"]["claimName"]
            if not self.has("PersistentVolumeClaim", namespace, name):
                self.fault(each, f"there is no claim {name}")

    def container(self, each, namespace, container, volumes):
        where = container["name"]
        if not PLAIN_NAME.match(container["image"]) or container["image"].endswith(":latest"):
            self.fault(each, f"{where}: the image {container['image']} names no version")
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in volumes:
                self.fault(each, f"{where}: there is no volume {mount['name']}")
        for source in container.get("envFrom", []):
            if "configMapRef" in source and not self.has("ConfigMap", namespace, source["configMapRef"]["name"]):
                self.fault(each, f"{where}: there is no ConfigMap {source['configMapRef']['name']}")
            if "secretRef" in source and source["secretRef"]["name"] not in SECRETS.get(namespace, set()):
                self.fault(each, f"{where}: nobody makes the Secret {source['secretRef']['name']}")
        for variable in container.get("env", []):
            if "secretKeyRef" in variable.get("valueFrom", {}):
                self.fault(each, f"{where}: {variable['name']} is a secret in a variable; mount it as a file")

    def role(self, each, pod):
        role, container = each["metadata"]["name"], pod["containers"][0]
        own = {variable["name"]: variable.get("value", "") for variable in container["env"]}
        config = {}
        for source in container.get("envFrom", []):
            found = self.by_name.get(("ConfigMap", each["metadata"]["namespace"], source["configMapRef"]["name"]))
            config |= found["data"] if found else {}
        for name in own:
            if name not in self.variables[role] | OTHERS_VARIABLES:
                self.fault(each, f"vlinders {role} does not read {name}")
        everything = set().union(*self.variables.values()) | OTHERS_VARIABLES
        for name in config:
            if name not in everything:
                self.fault(each, f"no role reads {name}")
        for name, value in (config | own).items():
            if re.search(r"://[^/@]*:[^/@]+@", value):
                self.fault(each, f"{name} has a password in it")
        drain = int(own.get("DRAIN_S", 0))
        stop = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
        if pod["terminationGracePeriodSeconds"] < drain + stop + 30:
            self.fault(each, "is killed before it has drained")
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            if probe not in container:
                self.fault(each, f"has no {probe}")
        if role in ("prefill", "decode"):
            rolling = each["spec"]["strategy"]["rollingUpdate"]
            if rolling != {"maxSurge": 0, "maxUnavailable": 1}:
                self.fault(each, "wants room for one worker more than the nodes may have")
            if container["resources"]["requests"] != container["resources"]["limits"]:
                self.fault(each, "requests are not its limits")
        if not self.has("PodDisruptionBudget", each["metadata"]["namespace"], role):
            self.fault(each, "has no PodDisruptionBudget")
        if not pod.get("topologySpreadConstraints"):
            self.fault(each, "is not spread")

    def services(self):
        pods = []
        for each in self.all("Deployment", "StatefulSet", "DaemonSet"):
            template = each["spec"]["template"]
            ports = {port["name"] for container in template["spec"]["containers"] for port in container.get("ports", [])}
            pods.append((each["metadata"]["namespace"], template["metadata"]["labels"], ports))
        for service in self.all("Service"):
            selector = service["spec"]["selector"]
            if "cnpg.io/cluster" in selector:
                if not self.has("Cluster", service["metadata"]["namespace"], selector["cnpg.io/cluster"]):
                    self.fault(service, "selects a cluster of Postgres that is not there")
                continue
            found = [
                ports
                for namespace, labels, ports in pods
                if namespace == service["metadata"]["namespace"] and selector.items() <= labels.items()
            ]
            if not found:
                self.fault(service, "selects nothing")
            for port in service["spec"]["ports"]:
                if found and isinstance(port["targetPort"], str) and port["targetPort"] not in found[0]:
                    self.fault(service, f"its pods have no port {port['targetPort']}")
            if service["spec"].get("sessionAffinity"):
                self.fault(service, "sends everybody behind one address to one pod")

    def scaling(self):
        owners = {}
        for each in self.all("HorizontalPodAutoscaler", "ScaledObject"):
            target = each["spec"]["scaleTargetRef"]
            key = (target.get("kind", "Deployment"), each["metadata"]["namespace"], target["name"])
            if key in owners:
                self.fault(each, f"{target['name']} is scaled by {owners[key]} too")
            owners[key] = f"{each['kind']} {each['metadata']['name']}"
            if key not in self.by_name:
                self.fault(each, f"there is no {target['name']}")
            elif "replicas" in self.by_name[key]["spec"]:
                self.fault(each, f"{target['name']} has a replica count of its own")
        for each in self.all("VerticalPodAutoscaler"):
            if each["spec"]["updatePolicy"]["updateMode"] != "Off":
                self.fault(each, "would evict pods")
            target = each["spec"]["targetRef"]
            if not self.has(target["kind"], each["metadata"]["namespace"], target["name"]):
                self.fault(each, f"there is no {target['name']}")


def main() -> int:
    program, *files = sys.argv[1:]
    variables = variables_of(program)
    faults, count = [], 0
    for path in files:
        overlay = Overlay(path, variables)
        faults += overlay.check()
        count += len(overlay.objects)
    print("\n".join(faults) or f"{count} objects in {len(files)} overlays fit together")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
