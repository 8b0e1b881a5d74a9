#!/usr/bin/env python3
"""Looks at compose.yaml and replicas.yaml as far as that can be done without
their images: every file that they mount is there, Prometheus' configuration is
valid where it is mounted, and what each file names is what the others offer."""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import yaml

HERE = pathlib.Path(__file__).parent


def load(path):
    return yaml.safe_load((HERE / path).read_text())


def mounted(services, folder):
    """Puts under `folder` what each service mounts; gives the folder of each."""
    roots = {}
    for name, service in services.items():
        roots[name] = pathlib.Path(folder) / name
        for volume in service.get("volumes", []):
            source, target, mode = volume.split(":")
            assert mode == "ro", f"{name}: {volume} can be written to"
            file = (HERE / source).resolve()
            assert file.is_file(), f"{name}: there is no {file}"
            inside = roots[name] / target.lstrip("/")
            inside.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, inside)
        for other in service.get("depends_on", []):
            assert other in services, f"{name} depends on {other}, which there is not"
        for port in service["ports"]:
            assert port.startswith("127.0.0.1:"), f"{name}: port {port} is open to everybody"
        build = service.get("build")
        assert build is None or (HERE / build["context"] / build["dockerfile"]).is_file(), build
    return roots


def replicas():
    """There are as many ports as replicas, and NATS takes its file."""
    services = load("replicas.yaml")["services"]
    server = services["persist-pubsub"]
    for port in server["ports"]:
        first, last = map(int, port.split(":")[1].split("-"))
        assert last - first + 1 == server["scale"], f"{server['scale']} replicas have {port}"
    (backplane,) = (flag for flag in server["command"] if flag.startswith("--backplane="))
    host, port = backplane.removeprefix("--backplane=nats://").split(":")
    assert services[host]["ports"] == [f"127.0.0.1:{port}:{port}"], f"{backplane} names what there is not"
    with tempfile.TemporaryDirectory() as folder:
        root = mounted(services, folder)[host]
        (config,) = (flag.removeprefix("--config=") for flag in services[host]["command"] if flag.startswith("--config="))
        nats = shutil.which("nats-server", path=f"{os.environ['PATH']}:/usr/sbin")
        assert nats, "nats-server is missing: ./compat-tests/run.sh installs it"
        flags = [flag for flag in services[host]["command"] if not flag.startswith("--config=")]
        subprocess.run([nats, "-t", "-c", str(root / config.lstrip("/")), *flags], check=True, capture_output=True)
    return len(services)


def main():
    compose = load("compose.yaml")
    services = compose["services"]
    with tempfile.TemporaryDirectory() as folder:
        roots = mounted(services, folder)

        # Its rule files are looked for beside it, as in the container.
        config = roots["prometheus"] / "etc/prometheus/prometheus.yml"
        subprocess.run(["promtool", "check", "config", str(config)], check=True)
        targets = yaml.safe_load(config.read_text())["scrape_configs"][0]["static_configs"][0]["targets"]
        published = [port.rsplit(":", 1)[1] for port in services["persist-pubsub"]["ports"]]
        for target in targets:
            host, port = target.split(":")
            assert host in services and port in published, f"Prometheus reads {target}, which there is not"

        grafana = roots["grafana"]
        (source,) = yaml.safe_load((grafana / "etc/grafana/provisioning/datasources/persist-pubsub.yaml").read_text())["datasources"]
        assert source["url"] == "http://prometheus:9090" and "prometheus" in services
        (provider,) = yaml.safe_load((grafana / "etc/grafana/provisioning/dashboards/persist-pubsub.yaml").read_text())["providers"]
        boards = list((grafana / provider["options"]["path"].lstrip("/")).glob("*.json"))
        assert boards, f"Grafana finds no dashboard in {provider['options']['path']}"
        home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
        assert (grafana / home.lstrip("/")).is_file(), f"Grafana has no {home}"

    print(f"compose: {len(services)} services, {replicas()} of replicas")


if __name__ == "__main__":
    try:
        main()
    except AssertionError as error:
        sys.exit(f"docker: {error}")
