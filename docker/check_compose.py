#!/usr/bin/env python3
"""Looks at compose.yaml as far as that can be done without its images: every
file that it mounts is there, Prometheus' configuration is valid where it is
mounted, and what each file names is what the others offer."""

import pathlib
import shutil
import subprocess
import sys
import tempfile

import yaml

HERE = pathlib.Path(__file__).parent


def load(path):
    return yaml.safe_load((HERE / path).read_text())


def main():
    compose = load("compose.yaml")
    services = compose["services"]
    with tempfile.TemporaryDirectory() as folder:
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

    build = services["persist-pubsub"]["build"]
    assert (HERE / build["context"] / build["dockerfile"]).is_file(), build
    print(f"compose: {len(services)} services")


if __name__ == "__main__":
    try:
        main()
    except AssertionError as error:
        sys.exit(f"docker/compose.yaml: {error}")
