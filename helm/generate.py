#!/usr/bin/env python3
"""Writes what is made from others: the chart's values.schema.json (from
schema.yaml and Kubernetes' own schemas) and the table of values in its README
(from the comments of values.yaml). With --check it writes nothing, and fails if
something is not as it would be written.

Needs kubernetes-validate and PyYAML, as helm/check.sh installs them.
"""

import importlib.resources
import json
import pathlib
import re
import sys

import yaml

HERE = pathlib.Path(__file__).parent
CHART = HERE / "persist-pubsub"
# The newest types: what an older cluster does not know, it refuses itself.
KUBERNETES = "v1.37.0-local-strict"
BEGIN, END = "<!-- values: written by helm/generate.py -->\n", "<!-- end of values -->\n"


def kubernetes_types():
    folder = importlib.resources.files("kubernetes_validate") / "kubernetes-json-schema"
    return json.loads((folder / KUBERNETES / "_definitions.json").read_text())["$defs"]


def strict(schema, wanted):
    """Closes every object that names its properties, and leads references to
    Kubernetes' types, whose names it adds to `wanted`, into this schema."""
    if isinstance(schema, list):
        return [strict(item, wanted) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: strict(value, wanted) for key, value in schema.items()}
    if "properties" in closed:
        closed.setdefault("additionalProperties", False)
    reference = closed.get("$ref")
    if isinstance(reference, str):
        name = re.sub(r"^k8s/(\w+)\.", r"io.k8s.api.\1.", reference).removeprefix("#/$defs/")
        wanted.append(name)
        return {"$ref": f"#/definitions/{name}"}
    return closed


def without_descriptions(schema):
    """Kubernetes' descriptions would be most of the file."""
    if isinstance(schema, list):
        return [without_descriptions(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: without_descriptions(value)
        for key, value in schema.items()
        # A property may be called so; a description is a text.
        if not (key == "description" and isinstance(value, str))
    }


def values_schema():
    types, wanted, definitions = kubernetes_types(), [], {}
    schema = strict(yaml.safe_load((HERE / "schema.yaml").read_text()), wanted)
    while wanted:
        name = wanted.pop()
        if name not in definitions:
            definitions[name] = strict(without_descriptions(types[name]), wanted)
    whole = {"$schema": "http://json-schema.org/draft-07/schema#", **schema}
    whole["definitions"] = dict(sorted(definitions.items()))
    return json.dumps(whole, indent=1) + "\n"


def leaves(values, path=()):
    """What has a description of its own: everything but maps with further
    values in them, which are documented value by value, or as a whole."""
    for key, value in values.items():
        here = (*path, key)
        yield here, value
        if isinstance(value, dict):
            yield from leaves(value, here)


def described(lines):
    """The comments that begin with "--", by the path of the key under them."""
    texts, stack, pending = {}, [], None
    for line in lines:
        comment = re.match(r"\s*# -- (.*)", line)
        key = re.match(r"( *)([A-Za-z][\w-]*):", line)
        if comment:
            pending = comment[1].strip()
        elif key:
            depth = len(key[1]) // 2
            stack[depth:] = [key[2]]
            if pending:
                texts[tuple(stack)] = pending
            pending = None
    return texts


def values_table():
    text = (CHART / "values.yaml").read_text()
    texts = described(text.splitlines())
    rows = ["| value | default | what |", "|---|---|---|"]
    missing = []
    for path, value in leaves(yaml.safe_load(text)):
        if path in texts:
            default = json.dumps(value, ensure_ascii=False).replace("|", "\\|")
            rows.append(f"| `{'.'.join(path)}` | `{default}` | {texts[path].replace('|', chr(92) + '|')} |")
        elif not (isinstance(value, dict) and value) and not any(path[:n] in texts for n in range(len(path))):
            missing.append(".".join(path))
    if missing:
        sys.exit(f"values.yaml: no comment that begins with -- above {', '.join(missing)}")
    return "\n".join(rows) + "\n"


def readme():
    text = (CHART / "README.md").read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return before + BEGIN + values_table() + END + after


def main():
    stale = []
    for path, text in [(CHART / "values.schema.json", values_schema()), (CHART / "README.md", readme())]:
        if "--check" not in sys.argv[1:]:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            stale.append(str(path.relative_to(HERE.parent)))
    if stale:
        sys.exit(f"not as helm/generate.py writes them: {', '.join(stale)}; run it")


if __name__ == "__main__":
    main()
