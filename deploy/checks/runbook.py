"""The commands in deploy/docs: runbook.py BUILT... Each one is taken by kubectl as far as its words go (the server is away), and
what it names is in a built overlay: workloads, services, jobs, autoscalers, containers, labels."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import yaml

DOCS = Path(__file__).resolve().parents[1] / "docs"
NAMESPACES = {"kp": "vlinders-platform", "ki": "vlinders-inference", "km": "vlinders-monitoring"}
KINDS = {
    "deployment": "Deployment", "statefulset": "StatefulSet", "service": "Service", "cronjob": "CronJob", "hpa": "HorizontalPodAutoscaler",
}
ENDED = re.compile(r"unknown (flag|shorthand flag|command)|unknown subcommand|invalid (argument|resource)|must specify|required")
# Words that stand for something, and names of what is not ours.
PLACEHOLDERS = {"POD": "decode-0", "NODE": "node-1", "OVERLAY": "small", "NAME": "x"}
OTHERS = {"cert-manager"}


def commands() -> list[tuple[str, str]]:
    """Every command that begins with kubectl or one of its short forms, where it is written."""
    found = []
    for path in sorted(DOCS.glob("*.md")):
        text = path.read_text()
        fenced = re.findall(r"```sh\n(.*?)```", text, re.S)
        spans = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.S))
        for line in [line for block in fenced for line in block.splitlines()] + spans:
            line = line.replace("\\|", "|").split(" #")[0]
            for part in re.split(r"[;|]| & |&&", line):
                words = part.strip()
                # Cut short, it is no command.
                if re.match(r"(kp|ki|km|kubectl) [a-z-]", words) and "..." not in words:
                    found.append((path.name, words))
    return found


def main() -> int:
    objects = []
    for built in sys.argv[1:]:
        with open(built) as file:
            objects += [each for each in yaml.safe_load_all(file) if each]
    names, containers, labels = set(), set(), set()
    for each in objects:
        namespace = each["metadata"].get("namespace", "")
        names.add((each["kind"], namespace, each["metadata"]["name"]))
        template = each.get("spec", {}).get("template")
        if each["kind"] in ("Deployment", "StatefulSet") and template:
            labels |= {(namespace, f"{key}={value}") for key, value in template["metadata"]["labels"].items()}
            for container in template["spec"]["containers"] + template["spec"].get("initContainers", []):
                containers.add((namespace, each["metadata"]["name"], container["name"]))
    faults, count = [], 0
    for place, command in commands():
        count += 1
        fault = lambda text, place=place, command=command: faults.append(f"{place}: `{command}`: {text}")
        words = [PLACEHOLDERS.get(word, word) for word in shlex.split(command)]
        namespace = NAMESPACES.get(words[0]) or next((words[i + 1] for i, word in enumerate(words) if word == "-n" and i + 1 < len(words)), None)
        wanted = [word.split("=")[-1] for word in words if re.fullmatch(r"(--from=)?(deployment|statefulset|service|cronjob)/[a-z-]+", word)]
        wanted += [f"hpa/{name}" for name in re.findall(r"\bhpa ([a-z]+)", command)]
        for target in wanted:
            kind, name = target.split("/")
            if name in OTHERS:
                continue
            if not namespace:
                fault(f"{target} is in no namespace")
            elif (KINDS[kind], namespace, name) not in names:
                fault(f"there is no {target} in {namespace}")
        for name in re.findall(r"(?:-c|--target)[ =]([a-z-]+)", command):
            pod = next((word.removesuffix("-0") for word in words if re.fullmatch(r"[a-z]+-0", word)), None)
            if not any(there == namespace and container == name and pod in (None, owner, "decode") for there, owner, container in containers):
                fault(f"no pod of {namespace} has a container {name}")
        for label in re.findall(r"-l ([\w./-]+=[\w-]+)", command):
            if namespace and (namespace, label) not in labels:
                fault(f"nothing in {namespace} has the label {label}")
        if words[0] != "kubectl":
            words = ["kubectl", "-n", namespace, *words[1:]]
        asked = [words[0], "--server=http://127.0.0.1:9", "--request-timeout=1s", *words[1:]]
        told = subprocess.run(asked, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60, check=False).stderr
        if ENDED.search(told):
            fault(told.strip().splitlines()[0])
    if count < 20:
        faults.append(f"only {count} commands were found")
    print("\n".join(faults) or f"{count} commands are taken by kubectl and name what is there")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
