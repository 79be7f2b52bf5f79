"""What the file sinks write, read by the programs that it is written for.

Every character comes back, but line breaks through docker's files and a blank at the end of an INI
value: those the sinks refuse.
"""

import json
import os
import shutil
import string
import subprocess
import sys
import threading
from base64 import b64decode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from test_container import Podman
from test_systemd import Machine

from rekeyd.errors import Refused
from rekeyd.secret import AccessPair, Secret
from rekeyd.sinks import settings_class
from rekeyd.sinks.base import SinkContext

pytestmark = pytest.mark.e2e

AWS_ALPHABET = string.ascii_letters + string.digits + "+/="
CHARACTERS = [*map(chr, range(1, 128)), "\x85", "ü", "€", "\u2028", "😀"]
SECRETS = [
    AWS_ALPHABET,
    "".join(c for c in string.printable if c.isprintable()),
    "$HOME `id` $(id) ${x} ~ %s %(x)s \\n \\x41 ' \" '' \"\"",
    *(f"{c}a{c}{c}b {c}" for c in CHARACTERS),
]


def sink(kind, path, **more):
    settings = settings_class(kind).model_validate({"type": kind, "path": str(path), **more})
    return settings.open(SinkContext("backup_user", lambda *_: None))


def written(path, dialect):
    """Write every secret into one file, under names of its own; return those that were taken."""
    taken = {}
    for number, secret in enumerate(SECRETS):
        names = {"access_key_id": f"ID_{number}", "secret_access_key": f"SECRET_{number}"}
        try:
            sink("env_file", path, dialect=dialect, variables=names).put(
                AccessPair(f"AKIA{number}", Secret(secret))
            )
        except Refused:
            assert dialect == "docker", f"{dialect} can hold {secret!r}"
            assert set(secret) & set("\r\n"), f"docker can hold {secret!r}"
        else:
            taken |= {f"ID_{number}": f"AKIA{number}", f"SECRET_{number}": secret}
    return taken


def ours(environment):
    """Return the variables that the test wrote, from what `env -0` prints."""
    found = dict(entry.split("=", 1) for entry in environment.split("\0") if "=" in entry)
    return {name: value for name, value in found.items() if name.startswith(("ID_", "SECRET_"))}


def ran(*command, **more):
    done = subprocess.run(command, capture_output=True, check=False, timeout=120, **more)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_a_shell_reads_every_variable(tmp_path, shell):
    taken = written(tmp_path / "env", "shell")

    read = ran(shell, "-c", ". ./env; env -0", cwd=tmp_path, env={"PATH": os.environ["PATH"]})

    assert ours(read) == taken


class DockerApi(BaseHTTPRequestHandler):
    """As much of Docker's API as `docker create` needs: it keeps the variables that it is sent."""

    def do_HEAD(self):
        self._answer(200, {})

    do_GET = do_HEAD  # noqa: N815

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.variables = asked["Env"]
        self._answer(201, {"Id": "0" * 64, "Warnings": []})

    def _answer(self, status, content):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("API-Version", "1.41")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        """Stay silent."""


def test_docker_reads_every_variable(tmp_path):
    """Its command line program does, and hands them to the engine, for which this stands."""
    taken = written(tmp_path / "env", "docker")
    with ThreadingHTTPServer(("127.0.0.1", 0), DockerApi) as engine:
        serving = threading.Thread(target=engine.serve_forever)
        serving.start()
        host = f"tcp://127.0.0.1:{engine.server_port}"
        ran("docker", "-H", host, "create", "--env-file", tmp_path / "env", "debian")
        engine.shutdown()
        serving.join()

    assert ours("\0".join(engine.variables)) == taken


def test_podman_reads_every_variable(debian, tmp_path_factory):
    folder = tmp_path_factory.mktemp("podman")
    taken = written(folder / "env", "docker")
    podman = Podman(folder)
    try:
        podman.run("import", "--quiet", debian, "localhost/debian")
        read = podman.run(
            *("run", "--rm", "--network=none", "--env-file", folder / "env"),
            *("localhost/debian", "/usr/bin/env", "-0"),
        ).stdout
    finally:
        podman.clear()

    assert ours(read) == taken


@pytest.fixture(scope="module")
def machine(debian, tmp_path_factory):
    folder = tmp_path_factory.mktemp("machine")
    subprocess.run(["tar", "-xf", debian, "-C", folder], check=True)
    started = Machine(folder)
    yield started
    started.off()
    shutil.rmtree(folder)


def test_systemd_reads_every_variable(machine):
    taken = written(machine.path("/srv/env"), "systemd")

    read = machine.run(
        *("systemd-run", "--quiet", "--wait", "--pipe", "-p", "EnvironmentFile=/srv/env"),
        *("/bin/sh", "-c", "env -0 | base64 -w0"),
        check=True,
    ).stdout

    assert ours(b64decode(read).decode()) == taken


# awscli and boto3


def settings_for(path, folder, kind):
    """Return the environment in which the AWS tools find what a sink wrote."""
    config = folder / "config"
    config.touch()
    if kind == "credential_process":
        rekeyd = Path(sys.executable).with_name("rekeyd")
        config.write_text(f"[profile backup]\ncredential_process = {rekeyd} credentials {path}\n")
    return {
        "PATH": "/usr/bin:/bin",
        "AWS_CONFIG_FILE": str(config),
        "AWS_SHARED_CREDENTIALS_FILE": str(path if kind == "aws_credentials" else os.devnull),
        "AWS_EC2_METADATA_DISABLED": "true",
    }


ASK_BOTO3 = (
    "import boto3, json;"
    " c = boto3.Session(profile_name='backup').get_credentials().get_frozen_credentials();"
    " print(json.dumps({'AccessKeyId': c.access_key, 'SecretAccessKey': c.secret_key}))"
)
READERS = {
    "boto3": (sys.executable, "-c", ASK_BOTO3),
    "awscli": (*("aws", "configure", "export-credentials"), *("--profile", "backup")),
}
HARD = [AWS_ALPHABET, "/+=" * 13, SECRETS[1], SECRETS[2]]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", ["aws_credentials", "credential_process"])
def test_the_tools_of_aws_read_the_pair(tmp_path, kind, reader):
    path = tmp_path / "pair"
    more = {"profile": "backup"} if kind == "aws_credentials" else {}
    for secret in HARD:
        try:
            sink(kind, path, **more).put(AccessPair("AKIAIOSFODNN7EXAMPLE", Secret(secret)))
        except Refused:
            assert (kind, secret[-1]) == ("aws_credentials", " "), "INI files end a value there"
            continue

        told = json.loads(ran(*READERS[reader], env=settings_for(path, tmp_path, kind)))

        assert told["AccessKeyId"] == "AKIAIOSFODNN7EXAMPLE"
        assert told["SecretAccessKey"] == secret
