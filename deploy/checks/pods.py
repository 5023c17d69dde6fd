"""A built overlay as processes: pods.py SCRATCH_FOLDER BUILT

Each pod of `dev` becomes processes with the commands, variables, secrets, settings and probes of its object, at a loopback address
of its own; services lead to pods by their selectors and ports, secrets come from make-secrets. Of what Kubernetes does,
names, paths and the wildcard address are put in by this program. Postgres starts as the checks start it."""

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import yaml

from live import OPS_ENV, ROOT, VLINDERS, Postgres, World, get, wait_for

ROLES = ("usage", "prefill", "decode", "frontend")
KUBECTL = """#!/usr/bin/env bash
# Secrets as folders, and nothing else.
set -euo pipefail
case "$1 $2" in
"get secret") [[ -d SECRETS/$4/$5 ]] || exit 1
    [[ $* != *jsonpath* ]] || base64 -w 0 "SECRETS/$4/$5/$(grep -oE '\\.data\\.[A-Za-z_]+' <<<"$*" | cut -c 7-)" ;;
"create secret")
    mkdir -p "SECRETS/$5/$6"
    for word in "${@:7}"; do
        pair=${word#--from-file=}
        cp "${pair#*=}" "SECRETS/$5/$6/${pair%%=*}"
    done ;;
esac
"""


class Pods:
    def __init__(self, world: World, built: str):
        self.world = world
        with open(built) as file:
            self.objects = [each for each in yaml.safe_load_all(file) if each]
        kubectl = world.folder / "kubectl"
        self.secrets = world.folder / "secrets"
        kubectl.write_text(KUBECTL.replace("SECRETS", str(self.secrets)))
        kubectl.chmod(0o755)
        make = {**os.environ, "KUBECTL": str(kubectl), "OVERLAY": "dev"}
        for _ in range(2):
            # A second time it keeps what is there.
            subprocess.run([ROOT / "deploy/make-secrets"], env=make, check=True, capture_output=True)
        self.addresses, self.processes, self.templates = {}, {}, {}
        # Not started from its object.
        self.postgres = Postgres(world, "postgres-server", ())
        for each in self.objects:
            if each["kind"] in ("Deployment", "StatefulSet") and each["metadata"]["namespace"] != "vlinders-monitoring":
                name = each["metadata"]["name"]
                self.templates[name] = (each["metadata"]["namespace"], each["spec"]["template"])
                self.addresses[name] = f"127.0.53.{len(self.addresses) + 1}"

    def find(self, kind, namespace, name):
        found = [o for o in self.objects if (o["kind"], o["metadata"].get("namespace"), o["metadata"]["name"]) == (kind, namespace, name)]
        assert len(found) == 1, f"{kind} {namespace}/{name} is there {len(found)} times"
        return found[0]

    def service(self, name: str, namespace: str, port: int) -> str:
        """Where a service leads: the address and the port of the container that it selects."""
        spec = self.find("Service", namespace, name)["spec"]
        wanted = [entry["targetPort"] for entry in spec["ports"] if entry["port"] == port]
        assert wanted, f"the service {name} has no port {port}"
        for pod, (place, template) in self.templates.items():
            if pod == "postgres" == name:
                assert self.port(template, wanted[0]) == 5432
                return f"127.0.0.1:{self.postgres.port}"
            if place == namespace and spec["selector"].items() <= template["metadata"]["labels"].items():
                return f"{self.addresses[pod]}:{self.port(template, wanted[0])}"
        raise AssertionError(f"the service {name} leads nowhere")

    @staticmethod
    def port(template, name) -> int:
        for container in template["spec"]["containers"]:
            for entry in container.get("ports", []):
                if name in (entry["name"], entry["containerPort"]):
                    return entry["containerPort"]
        raise AssertionError(f"no container has the port {name}")

    def volumes(self, pod: str, container: dict) -> dict[str, Path]:
        """Where each mounted path is here."""
        namespace, template = self.templates[pod]
        volumes = {volume["name"]: volume for volume in template["spec"].get("volumes", [])}
        paths = {}
        for mount in container.get("volumeMounts", []):
            volume = volumes.get(mount["name"], {"emptyDir": {}})
            folder = self.world.folder / pod / mount["name"]
            if "secret" in volume:
                folder = self.secrets / namespace / volume["secret"]["secretName"]
                assert folder.is_dir(), f"make-secrets makes no {namespace}/{volume['secret']['secretName']}"
            else:
                folder.mkdir(parents=True, exist_ok=True)
            if "configMap" in volume:
                for key, text in self.find("ConfigMap", namespace, volume["configMap"]["name"])["data"].items():
                    (folder / key).write_text(text)
            paths[mount["mountPath"]] = folder / mount["subPath"] if "subPath" in mount else folder
        return paths

    def said_here(self, text: str, pod: str, paths: dict[str, Path]) -> str:
        """A text of the object, with what Kubernetes would make true put in."""
        address = self.addresses[pod]
        text = text.replace("$(POD_IP)", address).replace("0.0.0.0:", f"{address}:").replace("127.0.0.1:", f"{address}:")
        text = re.sub(r"([a-z-]+)\.(vlinders-[a-z]+)\.svc:(\d+)", lambda m: self.service(m[1], m[2], int(m[3])), text)
        mounted = "|".join(re.escape(path) for path in sorted(paths, key=len, reverse=True))
        return re.sub(rf"(?<![\w/.-])({mounted})(?=[/\"\s]|$)", lambda m: str(paths[m[1]]), text) if mounted else text

    def variables(self, pod: str, container: dict, paths: dict[str, Path]) -> dict[str, str]:
        namespace, _ = self.templates[pod]
        found = {}
        for source in container.get("envFrom", []):
            found |= self.find("ConfigMap", namespace, source["configMapRef"]["name"])["data"]
        for variable in container.get("env", []):
            field = variable.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
            found[variable["name"]] = {"status.podIP": self.addresses[pod], "metadata.name": f"{pod}-0"}.get(field, variable.get("value", ""))
        return {name: self.said_here(value, pod, paths) for name, value in found.items()}

    def start(self, pod: str, program: list[str]) -> None:
        _, template = self.templates[pod]
        container = template["spec"]["containers"][0]
        paths = self.volumes(pod, container)
        for folder in paths.values():
            # Settings that include each other by their places in the pod.
            if folder.is_file() or (folder.is_dir() and any(folder.glob("*.conf"))):
                for file in [folder] if folder.is_file() else folder.glob("*.conf"):
                    text = self.said_here(file.read_text(), pod, paths)
                    (self.world.folder / pod / file.name).write_text(text.replace("bind * -::*", f"bind {self.addresses[pod]}"))
        if "/etc/nats/auth" in paths:
            # Included by its place beside the settings.
            (self.world.folder / pod / "auth").symlink_to(paths["/etc/nats/auth"])
        words = [*container.get("command", [])[1:], *container.get("args", [])]
        words = [str(self.world.folder / pod / Path(word).name) if word.endswith(".conf") else self.said_here(word, pod, paths) for word in words]
        clean = {name: os.environ[name] for name in ("PATH",)}
        env = clean | self.variables(pod, container, paths)
        # Only what the object says.
        self.processes[pod] = self.world.start(pod, ["env", "-i", *(f"{name}={value}" for name, value in env.items()), *program, *words])

    def probe(self, pod: str, kind: str) -> tuple[int, str]:
        _, template = self.templates[pod]
        asked = template["spec"]["containers"][0][kind]["httpGet"]
        return get(f"http://{self.addresses[pod]}:{self.port(template, asked['port'])}{asked['path']}")

    def memory_mib(self, pod: str) -> float:
        status = Path(f"/proc/{self.processes[pod].child.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1024


def bytes_of(text: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(Mi|Gi)", text).groups()
    return int(number) * {"Mi": 1 << 20, "Gi": 1 << 30}[unit]


def ask(pods: Pods, body: dict) -> http.client.HTTPResponse:
    host, port = pods.service("frontend", "vlinders-platform", 8000).split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    key = (pods.secrets / "vlinders-platform/vlinders-secrets/API_SECRET_KEY").read_text()
    headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
    connection.request("POST", "/v1/completions", json.dumps(body), headers)
    return connection.getresponse()


def operators(pods: Pods) -> str:
    """What the overlay sets for them: the port with its token, and prices."""
    where = f"http://{pods.addresses['frontend']}:8001/openapi.json"
    assert get(where)[0] == 401, "the operators' port lets in without a credential"
    secrets = pods.secrets / "vlinders-platform/vlinders-secrets"
    asked = urllib.request.Request(where, headers={"authorization": f"Bearer {(secrets / 'ADMIN_TOKEN').read_text()}"})
    with urllib.request.urlopen(asked, timeout=10) as answer:
        assert answer.status == 200 and "paths" in json.load(answer)
    host = pods.service("frontend", "vlinders-platform", 8000)
    headers = {"authorization": f"Bearer {(secrets / 'API_SECRET_KEY').read_text()}"}
    asked = urllib.request.Request(f"http://{host}/v1/usage?start=2026-01-01&bucket=day", headers=headers)
    with contextlib.suppress(urllib.error.HTTPError), urllib.request.urlopen(asked, timeout=10) as answer:
        text = answer.read().decode()
        assert "EUR" in text, text
        return "operators come in with their token alone; usage tells its cost"
    return "operators come in with their token alone"


def ends_in_order(pods: Pods) -> str:
    """SIGTERM while a stream runs, as after preStop: the stream ends well, and every process within its pod's grace."""
    body = {"model": "vlinders-demo", "prompt": "What is Vlinders?", "max_tokens": 200, "stream": True, "ignore_eos": True}
    answer = ask(pods, body)
    assert answer.status == 200, answer.read()
    first = answer.readline()
    assert first.startswith(b"data: "), first
    rest = []
    reading = threading.Thread(target=lambda: rest.append(answer.read().decode()), daemon=True)
    reading.start()
    for pod in ("frontend", "prefill", "decode", "usage"):
        namespace, template = pods.templates[pod]
        container, grace = template["spec"]["containers"][0], template["spec"]["terminationGracePeriodSeconds"]
        child, began = pods.processes[pod].child, time.monotonic()
        child.send_signal(signal.SIGTERM)
        code = child.wait(grace - container["lifecycle"]["preStop"]["sleep"]["seconds"])
        assert code == 0, f"{pod} ended with {code} after {time.monotonic() - began:.1f} s: {pods.processes[pod].said()}"
        if pod == "frontend":
            reading.join(10)
            assert rest and "[DONE]" in rest[0] and '"error"' not in rest[0], rest
    return "on SIGTERM a running stream ended well and every process with 0 within its pod's grace"


def main() -> int:
    folder, built = sys.argv[1:]
    with World(Path(folder)) as world:
        pods = Pods(world, built)
        # As the image leaves it after its first start.
        postgres = pods.postgres
        postgres.start()
        postgres.sql("CREATE DATABASE vlinders", database="postgres")
        postgres.end()
        # Processes wait for their servers: these come last.
        for role in ROLES:
            pods.start(role, [VLINDERS])
        time.sleep(0.5)
        for role in ROLES:
            assert pods.processes[role].child.poll() is None, pods.processes[role].said()
        postgres.start()
        pods.start("nats", [str(OPS_ENV / "python/bin/nats-server")])
        pods.start("redis", ["redis-server"])
        for role in ROLES:
            for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
                wait_for(f"{kind} of {role}", lambda: pods.probe(role, kind)[0] == 200)
        print(f"  {len(pods.processes)} pods of dev as processes, begun in the wrong order: all three probes of {', '.join(ROLES)} pass")
        answer = ask(pods, {"model": "vlinders-demo", "prompt": "Hi", "max_tokens": 8})
        text = answer.read().decode()
        assert answer.status == 200, text
        wait_for("the bill", lambda: postgres.sql("SELECT count(*) FROM usage") == "1")
        for service, port in (("prefill", 9200), ("decode", 9200), ("prefill", 9100), ("decode", 9100)):
            host, there = pods.service(service, "vlinders-inference", port).split(":")
            with contextlib.closing(http.client.HTTPConnection(host, int(there), timeout=5)) as connection:
                connection.connect()
        print(f"  {operators(pods)}")
        used = []
        for role in ROLES:
            limit = bytes_of(pods.templates[role][1]["spec"]["containers"][0]["resources"]["limits"]["memory"])
            assert pods.memory_mib(role) * (1 << 20) < limit, f"{role} takes {pods.memory_mib(role):.0f} MiB"
            used.append(f"{role} {pods.memory_mib(role):.0f} of {limit >> 20}")
        print(f"  a request through the service, its bill in Postgres, blocks by 9200; memory in MiB: {', '.join(used)}")
        print(f"  {ends_in_order(pods)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
