"""Every expression of dashboards, autoscaling and the adapter as one file of rules, so that promtool reads them all:
expressions.py OUTPUT"""

import json
import re
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]


def found():
    for path in sorted((ROOT / "components/monitoring/dashboards").glob("*.json")):
        dashboard = json.loads(path.read_text())
        for panel in dashboard["panels"]:
            assert panel["targets"], f"{path.name}: {panel['title']} shows nothing"
            for target in panel["targets"]:
                if "expr" in target:
                    yield f"{path.stem}: {panel['title']}", target["expr"]
    for document in yaml.safe_load_all((ROOT / "components/keda/scaled-objects.yaml").read_text()):
        for trigger in document["spec"]["triggers"]:
            if "query" in trigger["metadata"]:
                yield f"keda: {document['metadata']['name']}", trigger["metadata"]["query"]
    adapter = yaml.safe_load((ROOT / "components/hpa/adapter-rules.yaml").read_text())
    for rule in adapter["rules"] + adapter["externalRules"]:
        for series in re.findall(r"vlinders_\w+", rule["seriesQuery"])[:1] or ["vlinders_sequences_running"]:
            expression = rule["metricsQuery"]
            for placeholder, text in (("<<.Series>>", series), ("<<.LabelMatchers>>", 'namespace="x"'), ("<<.GroupBy>>", "pod")):
                expression = expression.replace(placeholder, text)
            yield "adapter", expression


def main() -> int:
    rules = []
    for index, (name, expression) in enumerate(found()):
        rules.append(
            {
                "record": f"checked:{index}",
                "expr": expression.replace("$__rate_interval", "5m"),
                "labels": {"of": name},
            }
        )
    Path(sys.argv[1]).write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}))
    print(f"{len(rules)} expressions")
    return 0


if __name__ == "__main__":
    sys.exit(main())
