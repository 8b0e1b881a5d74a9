#!/usr/bin/env python3
"""Checks the chart: called by check.sh, which says what is needed."""

import json
import pathlib
import re
import shutil
import sys
import tempfile

import kubernetes_validate
import yaml

from cluster import runs
from findings import problem, problems, run

HERE = pathlib.Path(__file__).parent
CHART = HERE / "persist-pubsub"
TESTS = HERE / "tests"
# The examples are good values too.
GOOD = sorted([*(TESTS / "good").glob("*.yaml"), HERE / "examples" / "replicas.yaml"], key=lambda path: path.name)
# The oldest that Chart.yaml allows, and the newest that there is a schema of.
KUBERNETES = ["1.27", "1.37"]
# Custom resources, of which Kubernetes has no schema.
WITHOUT_SCHEMA = {"Certificate", "PodMonitor", "PrometheusRule", "ServiceMonitor"}
# Flags that the templates pass by themselves, or that make no sense in a pod.
NO_SETTINGS = {
    "listen", "admin-listen", "addresses-file",
    "tls-cert", "tls-key", "tls-client-ca", "tls-allowed-names", "listen-plaintext",
    "admin-tls-cert", "admin-tls-key", "admin-tls-client-ca", "admin-tls-allowed-names",
    "tokens-file", "state-file",
    "backplane", "backplane-prefix", "backplane-credentials-file", "backplane-nkey-file", "backplane-user",
    "backplane-password-file", "backplane-token-file", "backplane-tls-ca", "backplane-tls-cert", "backplane-tls-key",
    "replica-name",
}  # fmt: skip
# Values whose inside only the Prometheus operator or a parent chart knows.
OPEN = {"global", "metrics.serviceMonitor.tlsConfig", "metrics.podMonitor.tlsConfig"}

# Defaults of the server that the templates reckon with.
RECKONED_WITH = {"backplane-queue-bytes": "64MiB", "backplane-join-timeout": "1s"}


def template(values, chart=CHART):
    return run("helm", "template", "release", str(chart), "-n", "pubsub", "-f", str(values))


def objects(text):
    return [found for found in yaml.safe_load_all(text) if found]


def milliseconds(text):
    units = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}
    return sum(int(n) * units[unit] for n, unit in re.findall(r"(\d+) ?(ms|s|m|h)", text))


def good(binary, served, write):
    for values in GOOD:
        lint = run("helm", "lint", "--strict", str(CHART), "-f", str(values))
        if lint.returncode:
            problem(f"helm lint -f {values.name}: {lint.stdout}{lint.stderr}")
        rendered = template(values)
        if rendered.returncode:
            problem(f"helm template -f {values.name}: {rendered.stderr}")
            continue
        as_written(values.name, rendered.stdout, write)
        for found in objects(rendered.stdout):
            where = f"{values.name}, {found['kind']} {found['metadata']['name']}"
            valid(found, where)
            if found["kind"] == "Deployment":
                pod = found["spec"]["template"]["spec"]
                restricted(pod, where)
                server(pod, where, served)
                rollout(found, objects(rendered.stdout), where)
                runs(binary, values, objects(rendered.stdout), where)
            elif found["kind"] == "Pod":
                restricted(found["spec"], where)


def as_written(name, text, write):
    """Compares with a golden file, or writes it."""
    golden = TESTS / "golden" / name
    if write:
        golden.write_text(text)
    elif not golden.exists() or golden.read_text() != text:
        problem(f"{name} is not as {golden.relative_to(HERE.parent)} has it: helm/check.sh --write, and look at the difference")


def notes(write):
    """What helm says after an installation. It shows it only to those who have
    a cluster: so it is rendered as a text within an object."""
    with tempfile.TemporaryDirectory() as folder:
        chart = pathlib.Path(folder) / "persist-pubsub"
        shutil.copytree(CHART, chart)
        file = chart / "templates" / "NOTES.txt"
        text = file.read_text()
        file.unlink()
        wrapped = f'{{{{ define "notes" }}}}{text}{{{{ end }}}}kind: Notes\ntext: {{{{ include "notes" . | quote }}}}\n'
        (chart / "templates" / "notes.yaml").write_text(wrapped)
        for values in GOOD:
            rendered = template(values, chart)
            for found in objects(rendered.stdout):
                if found["kind"] == "Notes":
                    as_written(f"{values.stem}.notes.txt", found["text"], write)
                    break
            else:
                problem(f"NOTES.txt with {values.name}: {rendered.stderr}")


def valid(found, where):
    if found["kind"] in WITHOUT_SCHEMA:
        return
    for version in KUBERNETES:
        try:
            kubernetes_validate.validate(found, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            path = ".".join(str(part) for part in error.path)
            problem(f"{where} under Kubernetes {version}: {path}: {error.message}")


def restricted(pod, where):
    """The `restricted` pod security standard, as far as a pod of ours can break it."""
    for name in ["hostNetwork", "hostPID", "hostIPC"]:
        if pod.get(name):
            problem(f"{where}: {name}")
    whole = pod.get("securityContext", {})
    for container in pod["containers"]:
        own = container.get("securityContext", {})
        both = {**whole, **own}
        rules = {
            "runAsNonRoot": both.get("runAsNonRoot") is True,
            "runAsUser": both.get("runAsUser") != 0,
            "seccompProfile": both.get("seccompProfile", {}).get("type") in ("RuntimeDefault", "Localhost"),
            "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is False,
            "privileged": not own.get("privileged"),
            "capabilities": own.get("capabilities") == {"drop": ["ALL"]},
            "readOnlyRootFilesystem": own.get("readOnlyRootFilesystem") is True,
            "hostPort": not any("hostPort" in port for port in container.get("ports", [])),
        }
        for rule, kept in rules.items():
            if not kept:
                problem(f"{where}: container {container['name']} is not restricted: {rule}")
    for volume in pod.get("volumes", []):
        if not set(volume) - {"name"} <= {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}:
            problem(f"{where}: volume {volume}")
    if pod.get("automountServiceAccountToken") is not False:
        problem(f"{where}: a service account's token is mounted")


def server(pod, where, served):
    """Its arguments are the server's, and it is given the time that a drain takes."""
    arguments = dict(argument.removeprefix("--").split("=", 1) for argument in pod["containers"][0]["args"][1:])
    for flag in arguments:
        if flag not in served:
            problem(f"{where}: the server has no --{flag}")
    if len(arguments) != len(pod["containers"][0]["args"]) - 1:
        problem(f"{where}: an argument is given twice")
    # The drain, and the second in which connections close.
    if pod["terminationGracePeriodSeconds"] * 1000 <= milliseconds(arguments["drain-timeout"]) + 1000:
        problem(f"{where}: a drain of {arguments['drain-timeout']} may be cut by terminationGracePeriodSeconds {pod['terminationGracePeriodSeconds']}")


def rollout(deployment, rendered, where):
    """Of several servers one at a time goes, when the one before has gone; a
    budget is there for several alone, and never lets all of them go."""
    spec, budgets = deployment["spec"], [found for found in rendered if found["kind"] == "PodDisruptionBudget"]
    replicas, arguments = spec["replicas"], spec["template"]["spec"]["containers"][0]["args"]
    if replicas < 2:
        if budgets:
            problem(f"{where}: a PodDisruptionBudget for a single server cannot be honoured")
        return
    if not any(argument.startswith("--backplane=") for argument in arguments):
        problem(f"{where}: {replicas} servers without a backplane")
    (drain,) = (milliseconds(argument) for argument in arguments if argument.startswith("--drain-timeout="))
    if spec["minReadySeconds"] * 1000 <= drain or spec["strategy"]["rollingUpdate"] != {"maxSurge": 1, "maxUnavailable": 0}:
        problem(f"{where}: two of {replicas} servers may drain at once: {spec['minReadySeconds']}, {spec['strategy']}")
    for budget in budgets:
        if budget["spec"]["maxUnavailable"] >= replicas:
            problem(f"{where}: all {replicas} servers may be evicted at once")


def bad():
    for values in sorted((TESTS / "bad").glob("*.yaml")):
        wanted = values.read_text().splitlines()[0].removeprefix("# fails: ")
        rendered = template(values)
        if rendered.returncode == 0:
            problem(f"bad/{values.name} renders")
        elif wanted not in rendered.stderr:
            problem(f"bad/{values.name} does not say {wanted!r}, but: {rendered.stderr}")


def schema(served):
    whole = json.loads((CHART / "values.schema.json").read_text())

    def walk(node, path):
        if isinstance(node, list):
            for item in node:
                walk(item, path)
        elif isinstance(node, dict):
            kind = node.get("type")
            if (kind == "object" or "properties" in node) and "additionalProperties" not in node and path not in OPEN:
                problem(f"values.schema.json: {path or 'the whole'} takes any property")
            for name, inner in node.get("properties", {}).items():
                walk(inner, f"{path}.{name}".lstrip("."))
            for key in ("items", "anyOf", "oneOf", "allOf", "additionalProperties"):
                walk(node.get(key), f"{path}.*")

    walk(whole, "")
    settings = set(whole["properties"]["settings"]["properties"])
    for flag in sorted(served - settings - NO_SETTINGS):
        problem(f"the server has --{flag}, and settings of helm/schema.yaml has not (or the templates pass it: NO_SETTINGS)")
    for flag in sorted(settings - served):
        problem(f"settings of helm/schema.yaml has {flag}, and the server has no such flag")


def defaults(text):
    """The defaults that the chart states are the server's own, but for the log's format."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())["settings"]
    for flag, value in {**values, **RECKONED_WITH}.items():
        stated = re.search(rf"--{flag} <.*?\[default: (.*?)\]", text, re.S)
        if flag != "log-format" and (not stated or stated[1] != value):
            problem(f"settings.{flag} is {value} here, and the server's default {stated and stated[1]}")


def version():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    workspace = re.search(r'^version = "(.*)"', (HERE.parent / "Cargo.toml").read_text(), re.M)[1]
    if chart["appVersion"] != workspace:
        problem(f"Chart.yaml has appVersion {chart['appVersion']}, Cargo.toml version {workspace}")


def expressions():
    """Alerts have runbooks, and what the dashboard asks is PromQL."""
    rules = yaml.safe_load((CHART / "files" / "rules.yaml").read_text())["groups"]
    alerts = [rule for group in rules for rule in group["rules"]]
    headings = re.findall(r"^## (.*)", (CHART / "RUNBOOKS.md").read_text(), re.M)
    if headings != [alert["alert"] for alert in alerts]:
        problem(f"RUNBOOKS.md has sections {headings}, rules.yaml other alerts, or in another order")
    for alert in alerts:
        if alert["annotations"]["runbook_url"] != f"RUNBOOKS.md#{alert['alert'].lower()}":
            problem(f"{alert['alert']}: its runbook_url is another's")
        if alert["labels"]["severity"] not in ("critical", "warning"):
            problem(f"{alert['alert']}: severity {alert['labels']['severity']}")

    board = json.loads((CHART / "files" / "dashboard.json").read_text())
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    asked = [note["expr"] for note in board["annotations"]["list"]]
    for panel in panels:
        if not panel["fieldConfig"]["defaults"].get("unit"):
            problem(f"dashboard: panel {panel['title']!r} has no unit")
        asked += [target["expr"] for target in panel["targets"]]
    places = [panel["gridPos"] for panel in board["panels"]]
    for n, one in enumerate(places):
        for other in places[n + 1 :]:
            if (
                one["x"] < other["x"] + other["w"]
                and other["x"] < one["x"] + one["w"]
                and one["y"] < other["y"] + other["h"]
                and other["y"] < one["y"] + one["h"]
            ):
                problem(f"dashboard: panels lie over each other at {one} and {other}")
    if len({panel["id"] for panel in board["panels"]}) != len(board["panels"]):
        problem("dashboard: two panels have the same id")
    for name in re.findall(r"PersistPubsub\w+", json.dumps(board)):
        if name not in headings:
            problem(f"dashboard: names the alert {name}, which there is not")
    # As rules, so that promtool reads them; Grafana fills its variables in.
    filled = [expr.replace("$__rate_interval", "1m") for expr in asked]
    group = {"name": "dashboard", "rules": [{"record": f"dashboard:{n}", "expr": expr} for n, expr in enumerate(filled)]}
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump({"groups": [group]}, file)
        file.flush()
        checked = run("promtool", "check", "rules", file.name)
    if checked.returncode:
        problem(f"dashboard: {checked.stderr}")
    # And the rules as the chart renders them.
    for golden in sorted((TESTS / "golden").glob("*.yaml")):
        for found in objects(golden.read_text()):
            if found["kind"] != "PrometheusRule":
                continue
            with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
                yaml.safe_dump(found["spec"], file)
                file.flush()
                checked = run("promtool", "check", "rules", file.name)
            if checked.returncode:
                problem(f"{golden.name}, PrometheusRule: {checked.stderr}")


def main():
    binary, write = sys.argv[1], "--write" in sys.argv[2:]
    text = run(binary, "serve", "--help", check=True).stdout
    served = set(re.findall(r"^ +--([a-z0-9-]+) <", text, re.M))
    generated = run(sys.executable, str(HERE / "generate.py"), *([] if write else ["--check"]))
    if generated.returncode:
        problem(generated.stderr.strip())
    version()
    schema(served)
    defaults(text)
    good(binary, served, write)
    notes(write)
    bad()
    expressions()
    if problems:
        sys.exit(f"{len(problems)} problems with the chart")
    count = len(GOOD), len(list((TESTS / "bad").glob("*.yaml")))
    print(f"chart: {count[0]} good and {count[1]} bad value files, Kubernetes {' and '.join(KUBERNETES)}")


if __name__ == "__main__":
    main()
