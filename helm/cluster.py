"""What a cluster does with a release, done with the real server: Secrets are
mounted, the pods start, probes look at them, `helm test` runs, and where the
values ask for a backplane there is a NATS. Used by check.py.
"""

import contextlib
import json
import os
import pathlib
import re
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.request

import nats
import yaml

from findings import problem, run

# Seconds that a server may take to start or to stop; never waited out when all is well.
PATIENCE = 60
# In the cluster's Secrets of tokens: what `helm test` shows, and what is wanted.
TOKEN = "one-that-helm-test-shows"
IDENTITIES = f"""
[[identity]]
name = "test"
environment = "default"
rights = ["publish", "subscribe"]
tokens = ["{TOKEN}"]

[[identity]]
name = "deployed"
environment = "default"
rights = ["publish", "subscribe"]
plaintext = true
"""


def secrets(values, rendered, folder):
    """What the cluster holds: the Secrets that a value file names, with
    certificates for the names that they have to be for."""
    given = yaml.safe_load(values.read_text())
    tls, tokens, test = (given.get(part, {}) for part in ("tls", "tokens", "test"))
    named = [found for found in rendered if found["kind"] == "Certificate"]
    (host,) = {service_host(found) for found in rendered if found["kind"] == "Pod"}
    server = certificate(folder, "server", named[0]["spec"]["dnsNames"] if named else [host])
    authority = server["ca.crt"]
    held = {tls.get("existingSecret"): server, **{found["spec"]["secretName"]: server for found in named}}
    for part in (tls, tls.get("admin", {})):
        ca = part.get("clientCa", {})
        held[ca.get("secret")] = {ca.get("key", "ca.crt"): authority, "ca.key": "nobody's business"}
    held[tokens.get("existingSecret")] = {tokens.get("key", "tokens"): IDENTITIES}
    # One Secret may hold both.
    for name, files in [
        (test.get("clientCertSecret"), certificate(folder, "client", tls.get("allowedNames") or ["test"])),
        (test.get("tokenSecret"), {test.get("tokenKey", "token"): TOKEN}),
    ]:
        held[name] = {**held.get(name, {}), **files}
    # Of the Secrets that no value names.
    held.pop(None, None)
    return held


def certificate(folder, name, names):
    """One for these names, of the authority of this folder."""

    def openssl(*arguments):
        run("openssl", *arguments, check=True, cwd=folder)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc"]
    if not (folder / "ca.crt").exists():
        openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=authority", "-days", "30")
    alternatives = ",".join(("URI:" if "://" in other else "DNS:") + other for other in names)
    openssl("req", "-x509", *key, "-keyout", f"{name}.key", "-out", f"{name}.crt", "-subj", f"/CN={name}", "-days", "30",
            "-addext", f"subjectAltName={alternatives}", "-addext", "basicConstraints=critical,CA:FALSE",
            "-CA", "ca.crt", "-CAkey", "ca.key")  # fmt: skip
    return {file: (folder / path).read_text() for file, path in [("tls.crt", f"{name}.crt"), ("tls.key", f"{name}.key"), ("ca.crt", "ca.crt")]}


def mounted(pod, held, root, where):
    """Puts under `root` what a kubelet would mount into the pod's container, and
    gives the container's arguments with `root` before the paths."""
    container = pod["containers"][0]
    arguments = container["args"]
    volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
    for mount in container.get("volumeMounts", []):
        inside = root / mount["mountPath"].lstrip("/")
        inside.mkdir(parents=True)
        arguments = [argument.replace(f"={mount['mountPath']}/", f"={inside}/") for argument in arguments]
        source = volumes[mount["name"]].get("secret")
        if source is None:
            continue
        files = held.get(source["secretName"])
        if files is None:
            problem(f"{where}: mounts the Secret {source['secretName']}, which no value names")
            continue
        for item in source.get("items") or [{"key": key, "path": key} for key in files]:
            (inside / item["path"]).write_text(files[item["key"]])
    return arguments


def service_host(pod):
    """The name under which `helm test` calls the server."""
    (url,) = (argument for argument in pod["spec"]["containers"][0]["args"] if argument.startswith("--server="))
    return re.fullmatch(r"--server=https?://(.*):\d+", url)[1]


class Server:
    """The real one, with the arguments and Secrets of a Deployment, but for its
    addresses, and for that of NATS."""

    def __init__(self, binary, pod, held, folder, name, broker, environment, where):
        folder.mkdir()
        arguments = mounted(pod, held, folder / "root", where)
        arguments = [re.sub(r"^(--(?:admin-)?listen(?:-plaintext)?)=.*", r"\1=127.0.0.1:0", argument) for argument in arguments]
        arguments = [argument.replace("$(POD_NAME)", name) for argument in arguments]
        if broker:
            arguments = [re.sub(r"(nats|tls)://[^,]+", rf"\1://{broker}", a) if a.startswith("--backplane=") else a for a in arguments]
        self.addresses, self.log, self.where = folder / "addresses.json", folder / "log", where
        with self.log.open("w") as output:
            command = [binary, *arguments, f"--addresses-file={self.addresses}"]
            self.process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)

    def at(self):
        """Its addresses once it serves; None if it does not."""
        until(lambda: self.addresses.exists() or self.process.poll() is not None)
        return json.loads(self.addresses.read_text()) if self.addresses.exists() else None

    def stop(self):
        self.process.terminate()
        try:
            code = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            code = f"none: killed after {PATIENCE} s"
        if not self.addresses.exists() or code != 0:
            problem(f"{self.where}: with its arguments the server ends with {code}: {self.log.read_text()}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


def until(done):
    """Whether it is so in time."""
    deadline = time.monotonic() + PATIENCE
    while not (so := done()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return so


def runs(binary, values, rendered, where):
    """Real servers start with the arguments and Secrets of a Deployment; the
    probes find them well; what `helm test` runs passes; where a backplane is
    asked for, they find each other over a real NATS, of which they may use no
    more than the example of helm/examples allows; they stop at a SIGTERM."""
    (deployment,) = (found for found in rendered if found["kind"] == "Deployment")
    (test,) = (found for found in rendered if found["kind"] == "Pod")
    pod = deployment["spec"]["template"]["spec"]
    given = yaml.safe_load(values.read_text())
    # What this machine has set is not the pod's.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PERSIST_PUBSUB_")}
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        held, broker = secrets(values, rendered, folder), None
        if "backplane" in given:
            config, credentials = nats.wanted(given, folder, lambda *of: certificate(folder, *of))
            held.update(credentials)
            broker = stack.enter_context(nats.serving(config, folder, lambda what: problem(f"{where}: {what}")))
            if broker is None:
                return
        # The others of more than two are like the second.
        names = [f"{deployment['metadata']['name']}-{n}" for n in range(min(2, max(1, deployment["spec"]["replicas"])))]
        servers = [stack.enter_context(Server(binary, pod, held, folder / name, name, broker, environment, where)) for name in names]
        places = [server.at() for server in servers]
        if all(places):
            probed(binary, pod["containers"][0], places[0], environment, where)
            if broker:
                together(binary, places, given, environment, where)
            arguments = mounted(test["spec"], held, folder / "test", where)
            called = re.compile(rf"^--server=(https?)://{re.escape(service_host(test))}:\d+$")
            arguments = [called.sub(rf"--server=\1://{places[0]['listen']}", argument) for argument in arguments]
            tested = run(binary, *arguments, f"--tls-server-name={service_host(test)}", env=environment)
            if tested.returncode:
                problem(f"{where}: helm test fails: {tested.stdout}{tested.stderr}")
        for server in servers:
            server.stop()


def together(binary, places, given, environment, where):
    """Each is connected to NATS, knows the others, and keeps its fences in
    JetStream if there is one; what is published to the one is heard at the
    other, a fence holds at both; nobody was denied anything, or read what he
    could not."""

    def told(place):
        with urllib.request.urlopen(f"http://{place['admin_listen']}/metrics", timeout=PATIENCE) as page:
            lines = page.read().decode().splitlines()
        return dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))

    def differs(place, wanted):
        now = told(place)
        return {name: now.get(name) for name, value in wanted.items() if now.get(name) != value}

    wanted = {
        "persist_pubsub_backplane_connected": "1",
        "persist_pubsub_backplane_replicas": str(len(places) - 1),
        "persist_pubsub_fences_in_jetstream": str(int(nats.has_jetstream(given))),
    }
    for place in places:
        if not until(lambda place=place: not differs(place, wanted)):
            problem(f"{where}: one of {len(places)} replicas tells {differs(place, wanted)}, not {wanted}")
    # The load generator speaks neither TLS nor tokens.
    if len(places) > 1 and not given.get("tls") and not given.get("tokens"):
        one, other = (f"http://{place['listen']}" for place in places)
        work = ["--subscribers=2", "--shards=3", "--rate=200", "--warmup=0s", "--duration=200ms", f"--settle={PATIENCE}s"]
        heard = run(binary, "bench", f"--publish-to={one}", f"--server={other}", *work, env=environment)
        if heard.returncode:
            problem(f"{where}: what is published at one replica is not heard at the other: {heard.stdout}{heard.stderr}")
    # That it is written, and confirmed by all.
    fenced = run(binary, "fence", "--below=1", "--environment=nobody", f"--admin=http://{places[0]['admin_listen']}", env=environment)
    if fenced.returncode:
        problem(f"{where}: a fence is not agreed upon: {fenced.stdout}{fenced.stderr}")
    quiet = {f"persist_pubsub_backplane_{name}_total": "0" for name in ("denied", "bad_messages", "join_timeouts")}
    for place in places:
        if loud := differs(place, quiet):
            problem(f"{where}: a replica tells {loud}")


def probed(binary, container, at, environment, where):
    """Asks as a kubelet does: gRPC without TLS, HTTP without a look at the
    certificate, neither with a certificate or token of its own."""
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    real = {6879: at["listen"], 6880: at["admin_listen"], ports.get("grpc-plaintext"): at.get("listen_plaintext")}
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        probe = container[kind]
        for way in {"grpc", "httpGet", "tcpSocket"} & set(probe):
            asked = probe[way]
            address = real[ports.get(asked["port"], asked["port"])]
            try:
                if way == "grpc":
                    run(binary, "healthcheck", f"--server=http://{address}", f"--service={asked['service']}", f"--timeout={PATIENCE}s",
                        check=True, env=environment)  # fmt: skip
                elif way == "httpGet":
                    anybody = ssl.create_default_context()
                    anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
                    urllib.request.urlopen(f"{asked['scheme'].lower()}://{address}{asked['path']}", context=anybody, timeout=PATIENCE).close()
                else:
                    host, port = address.rsplit(":", 1)
                    socket.create_connection((host, int(port)), PATIENCE).close()
            except (OSError, subprocess.CalledProcessError) as error:
                problem(f"{where}: {kind}: {asked}: {getattr(error, 'stderr', error)}")
