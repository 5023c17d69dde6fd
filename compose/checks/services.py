"""What compose's own check does not see: services.py FILE, as `docker compose config` prints it."""

import os
import re
import subprocess
import sys

import yaml

ROLES = ("frontend", "prefill", "decode", "usage")


def main() -> int:
    with open(sys.argv[1]) as file:
        platform = yaml.safe_load(file)
    services, faults = platform["services"], []
    for role in ROLES:
        told = subprocess.run([os.environ["VLINDERS"], role, "--help"], capture_output=True, text=True, check=True).stdout
        known = set(re.findall(r"\[env: ([A-Z0-9_]+)", told))
        every = known | everything()
        for name in services[role]["environment"]:
            if name not in every:
                faults.append(f"{role}: no role reads {name}")
    for name, service in services.items():
        if service.get("container_name"):
            faults.append(f"{name}: a fixed name cannot be scaled")
        image = service["image"]
        if image.endswith(":latest") or ":" not in image.rsplit("/", 1)[-1]:
            faults.append(f"{name}: {image} names no version")
        for port in service.get("ports", []):
            if name != "nginx" and port.get("host_ip") != "127.0.0.1":
                faults.append(f"{name}: publishes {port['published']} to everybody")
        for variable, value in (service.get("environment") or {}).items():
            if re.search(r"PASSWORD|SECRET|TOKEN", variable) and not re.search(r"_?FILE$", variable):
                faults.append(f"{name}: {variable} is a secret in a variable")
            if value and re.search(r"://[^/@]*:[^/@]+@", str(value)):
                faults.append(f"{name}: {variable} has a password in it")
        for other, how in (service.get("depends_on") or {}).items():
            if how["condition"] != "service_healthy" or "healthcheck" not in services[other]:
                faults.append(f"{name}: waits for {other} only to have been started")
        if not service.get("read_only") or service.get("cap_drop") != ["ALL"]:
            faults.append(f"{name}: is not hardened")
    outside = [name for name, service in services.items() if "outside" in service.get("networks", {})]
    if set(outside) != {"nginx", "prometheus", "alertmanager", "grafana"}:
        faults.append(f"in the outer network: {outside}")
    print("\n".join(faults) or f"{len(services)} services fit together")
    return 1 if faults else 0


def everything() -> set[str]:
    """Variables of all roles: one anchor gives them all the same."""
    names = set()
    for role in ROLES:
        told = subprocess.run([os.environ["VLINDERS"], role, "--help"], capture_output=True, text=True, check=True).stdout
        names |= set(re.findall(r"\[env: ([A-Z0-9_]+)", told))
    return names


if __name__ == "__main__":
    sys.exit(main())
