"""Objects of a built overlay against the definitions of custom resources that a cluster has, or that an operator ships:

    kubectl get crd clusters.postgresql.cnpg.io -o yaml >cluster.yaml
    definitions.py BUILT cluster.yaml...

For kinds whose schemas no package registry has. A field that a definition does not know is a fault, as it is for the server."""

import sys

import jsonschema
import yaml


def strict(schema):
    """As the server reads it: unknown fields are refused, a number may be written as text where that is said."""
    if isinstance(schema, list):
        for each in schema:
            strict(each)
        return
    if not isinstance(schema, dict):
        return
    if schema.get("x-kubernetes-int-or-string"):
        schema.pop("anyOf", None)
        schema.pop("pattern", None)
        schema["type"] = ["integer", "string"]
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    for each in list(schema.values()):
        strict(each)


def schemas(paths):
    found = {}
    for path in paths:
        with open(path) as file:
            definition = yaml.safe_load(file)["spec"]
        for version in definition["versions"]:
            schema = version["schema"]["openAPIV3Schema"]
            strict(schema)
            schema["properties"]["metadata"] = {"type": "object"}
            found[f"{definition['group']}/{version['name']}", definition["names"]["kind"]] = schema
    return found


def main() -> int:
    built, *definitions = sys.argv[1:]
    known, faults, count = schemas(definitions), [], 0
    with open(built) as file:
        objects = [each for each in yaml.safe_load_all(file) if each]
    for each in objects:
        schema = known.get((each["apiVersion"], each["kind"]))
        if schema is None:
            continue
        count += 1
        for error in jsonschema.Draft202012Validator(schema).iter_errors(each):
            faults.append(f"{each['kind']} {each['metadata']['name']}: {'.'.join(map(str, error.path))}: {error.message[:300]}")
    if not count:
        faults.append("nothing was checked")
    print("\n".join(faults) or f"{count} objects are valid by {len(known)} definitions")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
