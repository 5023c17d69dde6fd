"""Unit tests of promtool out of alert-tests.yaml: each alert must fire once and stay quiet once.

    alerts.py MONITORING_FOLDER OUTPUT_FOLDER   writes OUTPUT_FOLDER/alerts-test.yml and prints how many cases it has
"""

import sys
from pathlib import Path

import yaml


def main() -> int:
    monitoring, output = Path(sys.argv[1]), Path(sys.argv[2])
    rule_files = sorted((monitoring / "rules").glob("*.yml"))
    alerts = [
        rule["alert"]
        for path in rule_files
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
        if "alert" in rule
    ]
    cases = yaml.safe_load((monitoring / "alert-tests.yaml").read_text())
    faults = [f"{name} has no case in alert-tests.yaml" for name in alerts if name not in cases]
    faults += [f"alert-tests.yaml tests {name}, which is no alert" for name in cases if name not in alerts]
    faults += [f"{name} occurs twice" for name in set(alerts) if alerts.count(name) > 1]
    headings = [line[4:].strip() for line in (monitoring / "../../docs/runbook.md").read_text().splitlines() if line.startswith("### ")]
    faults += [f"{name} is not in docs/runbook.md" for name in alerts if name not in headings]
    if faults:
        print("\n".join(faults))
        return 1
    tests = []
    for name, case in cases.items():
        for kind in ("fires", "quiet"):
            if case[kind] == "never":
                continue
            wanted = [{"labels": "{}", "value": 1}] if kind == "fires" else []
            tests.append(
                {
                    "name": f"{name} {kind}",
                    "interval": "1m",
                    "input_series": [
                        {"series": series, "values": str(values)} for series, values in case[kind].items()
                    ],
                    "promql_expr_test": [
                        {
                            "expr": f'count(ALERTS{{alertname="{name}",alertstate="firing"}})',
                            "eval_time": case["at"],
                            "exp_samples": wanted,
                        }
                    ],
                }
            )
    file = {
        "rule_files": [str(path.resolve()) for path in rule_files],
        "evaluation_interval": "30s",
        "tests": tests,
    }
    output.mkdir(parents=True, exist_ok=True)
    (output / "alerts-test.yml").write_text(yaml.safe_dump(file, sort_keys=False))
    print(f"{len(alerts)} alerts, {len(tests)} cases")
    return 0


if __name__ == "__main__":
    sys.exit(main())
