"""Requests drawn from /openapi.json against a running server: whatever they hold, the answer is one that the description
tells of, and never a fault of the server. VLINDERS_URL says where it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

URL = os.environ["VLINDERS_URL"]
MODEL = "vlinders-demo"
EXAMPLES = 12
CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
]


# A body that is too large is refused for that.
SETTINGS = """
[checks]
negative_data_rejection.expected-statuses = [400, 404, 405, 413, 415]
"""


def description() -> dict:
    text = urllib.request.urlopen(f"{URL}/openapi.json", timeout=60).read()
    document = json.loads(text)
    for operations in document["paths"].values():
        for operation in operations.values():
            body = operation.get("requestBody")
            if body is None:
                continue
            for content in body["content"].values():
                # The description names no models; without one nothing is tried but the refusal.
                if "model" in content["schema"]["properties"]:
                    content["schema"]["properties"]["model"] = {"enum": [MODEL]}
    return document


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "openapi.json"
        file.write_text(json.dumps(description()))
        (Path(folder) / "schemathesis.toml").write_text(SETTINGS)
        command = [
            *[sys.executable, "-m", "schemathesis.cli", "run", str(file), "--url", URL],
            *["--phases", "coverage,fuzzing", "--max-examples", str(EXAMPLES), "--checks", ",".join(CHECKS)],
            *["--seed", "1", "--no-shrink", "--suppress-health-check", "all", "--warnings", "off", "--workers", "2"],
            *["--continue-on-failure", "--request-timeout", "60", "--generation-database", "none"],
        ]
        environment = os.environ | {"SCHEMATHESIS_HOOKS": "openapi_hooks", "PYTHONPATH": str(Path(__file__).parent)}
        done = subprocess.run(command, env=environment, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        sys.stderr.buffer.write(done.stdout)
        return done.returncode


if __name__ == "__main__":
    sys.exit(main())
