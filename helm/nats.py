"""A real nats-server, as the values of a release want one to be there: what
their Secrets hold, and who may do what. Used by check.py.
"""

import base64
import binascii
import contextlib
import copy
import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import time

import yaml

HERE = pathlib.Path(__file__).parent
# What operators of the official chart are told to allow.
EXAMPLE = HERE / "examples" / "nats.yaml"
# Of the example's Secret, and of every other.
PASSWORD = "p-that-the-secret-holds"
# Seconds until it serves; never waited out when all is well.
PATIENCE = 60


def program():
    """nats-server; Debian keeps it where not everybody looks."""
    return shutil.which("nats-server", path=f"{os.environ['PATH']}:/usr/sbin")


class Key:
    """An nkey: ed25519, with its kind in the text."""

    KINDS = {"operator": 14 << 3, "account": 0, "user": 20 << 3}
    SEED = 18 << 3

    def __init__(self, kind):
        openssl = ["openssl", "genpkey", "-algorithm", "ed25519"]
        self.pem = subprocess.run(openssl, capture_output=True, check=True).stdout
        first = self.KINDS[kind]
        public = self._der("-pubout")
        self.public = self._text(bytes([first]) + public)
        self.seed = self._text(bytes([self.SEED | first >> 5, (first & 31) << 3]) + self._der())

    def _der(self, *flags):
        openssl = ["openssl", "pkey", "-outform", "DER", *flags]
        # Either half comes last.
        return subprocess.run(openssl, input=self.pem, capture_output=True, check=True).stdout[-32:]

    @staticmethod
    def _text(raw):
        checked = raw + binascii.crc_hqx(raw, 0).to_bytes(2, "little")
        return base64.b32encode(checked).decode().rstrip("=")

    def sign(self, claims):
        """A JWT of these claims, issued by this key."""

        def part(data):
            return base64.urlsafe_b64encode(data).rstrip(b"=")

        claims = {"jti": "of-a-test", "iat": int(time.time()), "iss": self.public, **claims}
        header = {"typ": "JWT", "alg": "ed25519-nkey"}
        body = b".".join(part(json.dumps(whole).encode()) for whole in (header, claims))
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            (folder / "key").write_bytes(self.pem)
            (folder / "body").write_bytes(body)
            openssl = ["openssl", "pkeyutl", "-sign", "-rawin", "-inkey", "key", "-in", "body"]
            signature = subprocess.run(openssl, cwd=folder, capture_output=True, check=True).stdout
        return (body + b"." + part(signature)).decode()


def example():
    """What the official chart would make of `config.merge` of the example, as
    nats-server reads it: text in << >> is not quoted there, and the variable is
    of the Secret."""
    merge = copy.deepcopy(yaml.safe_load(EXAMPLE.read_text())["config"]["merge"])
    (user,) = merge["accounts"]["PUBSUB"]["users"]
    assert user["password"] == "<< $PERSIST_PUBSUB_PASSWORD >>", user
    user["password"] = PASSWORD
    return merge, user


def has_jetstream(values):
    """Whether `wanted` gives these values one."""
    return "credentials" not in values["backplane"]


def wanted(values, folder, certificate):
    """nats-server's configuration, and the Secrets to connect with."""
    backplane = values["backplane"]
    config, user = example()
    prefix = backplane.get("prefix", "persist-pubsub")
    allowed = {
        kind: [subject.replace("persist-pubsub", prefix) for subject in subjects]
        for kind, subjects in user["permissions"].items()
    }
    user["permissions"] = allowed
    held = {}

    def give(way, default, text):
        secret = backplane[way]
        held[secret["existingSecret"]] = {secret.get("key", default): text}

    config["jetstream"] = {"store_dir": str(folder / "jetstream")}
    if "credentials" in backplane:
        # Other people's NATS: no JetStream there.
        operator, account, person = Key("operator"), Key("account"), Key("user")
        no_limits = {"subs": -1, "data": -1, "payload": -1}
        limits = {**no_limits, "imports": -1, "exports": -1, "wildcards": True, "conn": -1, "leaf": -1}
        of_operator = operator.sign({"name": "o", "sub": operator.public, "nats": {"type": "operator", "version": 2}})
        of_account = operator.sign({"name": "a", "sub": account.public, "nats": {"type": "account", "version": 2, "limits": limits}})
        rights = {"pub": {"allow": allowed["publish"]}, "sub": {"allow": allowed["subscribe"]}, **no_limits}
        of_person = account.sign({"name": "u", "sub": person.public, "nats": {"type": "user", "version": 2, **rights}})
        config = {
            "max_payload": config["max_payload"],
            "operator": of_operator,
            "resolver": "MEMORY",
            "resolver_preload": {account.public: of_account},
        }
        dashes = "-----"
        give("credentials", "nats.creds", "\n".join([
            f"{dashes}BEGIN NATS USER JWT{dashes}", of_person, f"{dashes}-END NATS USER JWT-{dashes}", "",
            f"{dashes}BEGIN USER NKEY SEED{dashes}", person.seed, f"{dashes}-END USER NKEY SEED-{dashes}", "",
        ]))  # fmt: skip
    elif "nkey" in backplane:
        key = Key("user")
        del user["user"], user["password"]
        user["nkey"] = key.public
        give("nkey", "nkey", key.seed)
    elif "user" in backplane:
        user["user"] = backplane["user"]["name"]
        give("user", "password", PASSWORD)
    elif "token" in backplane:
        del config["accounts"]
        config["authorization"] = {"token": PASSWORD}
        give("token", "token", PASSWORD)
    else:
        del config["accounts"]
    tls = backplane.get("tls", {})
    if tls:
        files = certificate("nats", ["localhost"])
        for name in ("tls.crt", "tls.key", "ca.crt"):
            (folder / f"nats-{name}").write_text(files[name])
        config["tls"] = {
            "cert_file": str(folder / "nats-tls.crt"),
            "key_file": str(folder / "nats-tls.key"),
            "ca_file": str(folder / "nats-ca.crt"),
            "verify": "clientCertSecret" in tls,
        }
        ca = tls["ca"]
        held[ca["secret"]] = {ca.get("key", "ca.crt"): files["ca.crt"], "ca.key": "nobody's business"}
        if "clientCertSecret" in tls:
            mine = certificate("to-nats", ["pubsub"])
            held[tls["clientCertSecret"]] = {name: mine[name] for name in ("tls.crt", "tls.key")}
    return config, held


@contextlib.contextmanager
def serving(config, folder, problem):
    """Its host and port while it runs; None if it does not."""
    file, ports = folder / "nats.json", folder / "ports"
    file.write_text(json.dumps(config))
    ports.mkdir()
    log = (folder / "nats.log").open("w")
    command = [program(), "-c", str(file), "-a", "127.0.0.1", "-p", "-1", "--ports_file_dir", str(ports)]
    server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        written = ports / f"nats-server_{server.pid}.ports"
        deadline = time.monotonic() + PATIENCE
        address = None
        while address is None and server.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError, ValueError):
                address = re.sub(r"^\w+://127\.0\.0\.1", "localhost", json.loads(written.read_text())["nats"][0])
            time.sleep(0.02)
        if address is None:
            problem(f"nats-server does not serve: {(folder / 'nats.log').read_text()}")
        yield address
    finally:
        server.kill()
        server.wait()
        log.close()
