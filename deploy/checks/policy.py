"""checkov over built overlays: policy.py CHECKOV EXCEPTIONS FILE... Fails on findings without a reason and on reasons without
a finding."""

import fnmatch
import json
import subprocess
import sys

import yaml


def main() -> int:
    checkov, exceptions_file, *files = sys.argv[1:]
    with open(exceptions_file) as file:
        exceptions = yaml.safe_load(file)
    used, faults, passed = set(), set(), 0
    command = [checkov, "--framework", "kubernetes", "--compact", "--quiet", "--output", "json"]
    for path in files:
        command += ["--file", path]
    told = subprocess.run(command, capture_output=True, text=True)
    try:
        reports = json.loads(told.stdout)
    except json.JSONDecodeError:
        print(told.stdout[-2000:], told.stderr[-2000:])
        return 1
    for report in reports if isinstance(reports, list) else [reports]:
        passed += report["summary"]["passed"]
        if report["summary"]["parsing_errors"]:
            faults.add("checkov could not read every file")
        for finding in report["results"]["failed_checks"]:
            check, resource = finding["check_id"], finding["resource"]
            entry = exceptions.get(check, {"resources": []})
            matches = [(check, pattern) for pattern in entry["resources"] if fnmatch.fnmatch(resource, pattern)]
            used.update(matches)
            if not matches:
                faults.add(f"{check} {finding['check_name']}: {resource}")
    for check, entry in exceptions.items():
        for pattern in entry["resources"]:
            if (check, pattern) not in used:
                faults.add(f"{check}: the exception for {pattern} is not needed")
    print("\n".join(sorted(faults)) or f"{passed} checks passed, {len(exceptions)} kinds of findings stay with a reason")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
