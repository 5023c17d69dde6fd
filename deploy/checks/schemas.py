"""Schemas of Kubernetes over built overlays: schemas.py VALIDATOR FILE... Kinds that Kubernetes does not have are allowed
only if they are listed here, with who checks them."""

import re
import subprocess
import sys

# Checked by checks/custom-resources.mjs, except where it says so.
CUSTOM = {
    "Certificate", "ClusterIssuer", "Issuer", "Gateway", "HTTPRoute", "ScaledObject", "VerticalPodAutoscaler",
    # No schema can be had through a package registry; checks/definitions.py checks them by the operator's own files.
    "Cluster", "ScheduledBackup", "ObjectStore",
}


def main() -> int:
    validator, *files = sys.argv[1:]
    told = subprocess.run([validator, "-k", "1.37", "--strict", *files], capture_output=True, text=True)
    lines = (told.stdout + told.stderr).splitlines()
    passed, faults = 0, []
    for line in lines:
        unknown = re.search(r"find schema for kind (\S+)", line)
        if " passed for resource" in line:
            passed += 1
        elif unknown and unknown.group(1) in CUSTOM:
            continue
        elif line.strip():
            faults.append(line)
    if not passed:
        faults.append("nothing was checked")
    print("\n".join(faults) or f"{passed} objects are valid for Kubernetes 1.37")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
