"""Puts schemas where kubeconform finds them: schemas.py WHEEL CRD DIRECTORY

WHEEL is kubernetes-validate of PyPI, which has the schemas of Kubernetes: those of the oldest and of the newest version
that the chart is tested with go to DIRECTORY/VERSION. CRD is a definition of the Gateway API: its versions go there too,
strict as those of Kubernetes are.
"""

import json
import pathlib
import sys
import zipfile

import yaml

VERSIONS = ["1.27", "1.37"]


def strict(schema):
    """No unknown fields, which the API server would drop."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {name: strict(part) for name, part in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        schema.setdefault("additionalProperties", False)
    return schema


def main():
    wheel, definition, directory = sys.argv[1:]
    schemas = {}
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            for version in VERSIONS:
                if f"/v{version}.0-local-strict/" in name:
                    # The files refer to one another by addresses at kubernetes.io.
                    schema = json.loads(archive.read(name).replace(b'"/api/_definitions.json#', b'"_definitions.json#'))
                    schema.pop("$id", None)
                    schemas[version, name.rsplit("/", 1)[1]] = schema
    spec = yaml.safe_load(open(definition))["spec"]
    for of in spec["versions"]:
        schema = strict(of["schema"]["openAPIV3Schema"])
        # It leaves to the server what every object has.
        schema["properties"]["metadata"] = {"$ref": "_definitions.json#/$defs/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}
        group, kind = spec["group"].split(".")[0], spec["names"]["kind"].lower()
        for version in VERSIONS:
            schemas[version, f"{kind}-{group}-{of['name']}.json"] = schema
    for (version, name), schema in schemas.items():
        path = pathlib.Path(directory, version, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(schema))
    assert len(schemas) > 1000, f"{wheel} has no such schemas any more"


main()
