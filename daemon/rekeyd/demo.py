"""`rekeyd demo`: an embedded AWS, the real daemon, and a backup that never stops meanwhile.

moto runs as its own process on loopback, with its enforcement on; so does the daemon. The backup
client reads the credentials file before each call, as a backup tool would, and signs with it.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import click

from rekeyd.commands import event_line, table
from rekeyd.errors import Misconfigured, Transient
from rekeyd.exits import DONE, FAILED, INTERRUPTED
from rekeyd.ports import Event
from rekeyd.store import Store

IDENTITY = "backup_user"
BUCKET = "backup-bucket"

CONFIGURATION = """\
# The demo's configuration. Times are short so that there is something to see.
state: {folder}/state
seal: file:{folder}/seal.key
listen: 127.0.0.1:{port}
aws: {{region: us-east-1, endpoint_url: "{endpoint}"}}
identities:
  - user: backup_user
    group: backup_group
    policy: {{name: S3BackupPolicy, bucket: backup-bucket}}
    rotation: {{every: 6s, overlap: 2s, grace: 1s, settle: 1s}}
    sinks:
      - {{type: aws_credentials, name: credentials file, path: {folder}/credentials,
         profile: backup}}
      - {{type: env_file, name: env file, path: {folder}/backup.env, dialect: systemd}}
      - {{type: secrets_manager, name: Secrets Manager, secret_id: backup/s3}}
"""


@dataclass
class Backup(threading.Thread):
    """Puts, gets and deletes an object without pause, with the pair that the sink holds."""

    credentials: Path
    endpoint: str
    calls: int = 0
    refused: list[str] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        super().__init__(name="backup", daemon=True)

    def __hash__(self) -> int:
        return id(self)

    def run(self) -> None:
        import boto3  # noqa: PLC0415
        from botocore.exceptions import ClientError  # noqa: PLC0415

        session = boto3.Session()
        while not self.stopping.is_set():
            pair = self._read()
            if pair is None:
                time.sleep(0.05)
                continue
            s3 = session.client(
                "s3",
                region_name="us-east-1",
                endpoint_url=self.endpoint,
                aws_access_key_id=pair[0],
                aws_secret_access_key=pair[1],
            )
            try:
                self._back_up(s3)
            except ClientError as error:
                self.refused.append(error.response["Error"]["Code"])
            finally:
                s3.close()

    def _back_up(self, s3: Any) -> None:
        where = {"Bucket": BUCKET, "Key": "nightly.tar"}
        s3.put_object(Body=b"backup", **where)
        s3.get_object(**where)["Body"].read()
        s3.delete_object(**where)
        self.calls += 3

    def _read(self) -> tuple[str, str] | None:
        import configparser  # noqa: PLC0415

        file = configparser.ConfigParser()
        file.read(self.credentials)
        if not file.has_section("backup"):
            return None
        section = file["backup"]
        return section["aws_access_key_id"], section["aws_secret_access_key"]


def run(rotations: int, keep: bool) -> int:
    """Show a first pair and then some rotations (0: until stopped); return the exit code."""
    if find_spec("moto") is None:
        raise Misconfigured(
            "the demo's embedded AWS is not installed", "pip install 'rekeyd[demo]'"
        )
    folder = Path(tempfile.mkdtemp(prefix="rekeyd-demo-"))
    try:
        return _show(folder, rotations)
    except KeyboardInterrupt:
        click.echo("\nstopped")
        return INTERRUPTED
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def _show(folder: Path, rotations: int) -> int:
    port, listen = _free_port(), _free_port()
    endpoint = f"http://127.0.0.1:{port}"
    config = folder / "rekeyd.yaml"
    config.write_text(CONFIGURATION.format(folder=folder, port=listen, endpoint=endpoint))
    (folder / "seal.key").touch(mode=0o600)
    (folder / "seal.key").write_bytes(os.urandom(32))
    began = time.monotonic()
    with _process("embedded AWS", ["-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], {}):
        _wait_for(port)
        environment = _administrator(endpoint, folder)
        click.echo(f"{_clock()}  embedded AWS answers on {endpoint}, and enforces policies")
        _say_command("rekeyd provision")
        _command(["-c", str(config), "provision"], environment)
        _say_command("rekeyd run")
        with _process(
            "daemon", ["-m", "rekeyd", "-c", str(config), "run"], environment, folder / "daemon.log"
        ) as daemon:
            backup = Backup(folder / "credentials", endpoint)
            backup.start()
            seen = Seen(rotations)
            with suppress(KeyboardInterrupt):
                _follow(folder, daemon, backup, seen)
            daemon.send_signal(signal.SIGTERM)
            code = daemon.wait(timeout=30)
            backup.stopping.set()
            backup.join(timeout=10)
        _say_end(seen, backup, code, time.monotonic() - began)
    complete = seen.complete or rotations == 0
    return DONE if not backup.refused and code == 0 and complete else FAILED


@dataclass
class Seen:
    """What the demo saw happen."""

    wanted: int
    rotated: int = -1  # the first pair is not a rotation yet
    deleted: int = 0
    calls_at: list[int] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return self.wanted > 0 and self.rotated >= self.wanted and self.deleted >= self.wanted


def _follow(folder: Path, daemon: subprocess.Popen[bytes], backup: Backup, seen: Seen) -> None:
    last, signalled = 0, False
    store = _opened(folder / "state", daemon)
    deadline = time.monotonic() + 30 + 15 * seen.wanted
    while not seen.complete and (seen.wanted == 0 or time.monotonic() < deadline):
        if daemon.poll() is not None:
            raise Transient(
                f"the daemon ended with exit code {daemon.returncode}",
                (folder / "daemon.log").read_text()[-2000:],
            )
        for number, event in store.history(IDENTITY, after=last):
            last = number
            _say_event(event, backup, seen)
        if seen.rotated == 1 and seen.deleted == 1 and not signalled:
            signalled = True
            _say_command(f"kill -USR1 {daemon.pid}   # rotate at once")
            daemon.send_signal(signal.SIGUSR1)
        time.sleep(0.1)
    store.close()


def _say_event(event: Event, backup: Backup, seen: Seen) -> None:
    click.echo(event_line(event, named=False))
    if event.step == "delete":
        seen.deleted += 1
    if event.step != "rotated":
        return
    seen.rotated += 1
    seen.calls_at.append(backup.calls)
    title = "the first pair is in place" if seen.rotated == 0 else f"rotation {seen.rotated} done"
    click.echo(
        click.style(f"          ── {title}", bold=True)
        + f": {backup.calls} backup calls so far, {len(backup.refused)} refused"
    )


def _say_end(seen: Seen, backup: Backup, code: int, seconds: float) -> None:
    refused = f"{len(backup.refused)}" + (f" ({backup.refused[0]})" if backup.refused else "")
    signalled = ", the second by SIGUSR1" if seen.rotated > 1 else ""
    rows = [
        ("rotations", f"{max(seen.rotated, 0)}{signalled}"),
        ("old pairs deactivated, then deleted", f"{seen.deleted}"),
        ("sinks kept current", "credentials file, env file, Secrets Manager"),
        ("backup calls with the sink's pair meanwhile", f"{backup.calls}"),
        ("of them refused", click.style(refused, fg="red" if backup.refused else "green")),
        ("the daemon's exit code after SIGTERM", f"{code}"),
        ("seconds", f"{seconds:.0f}"),
    ]
    click.echo("\n" + table(("WHAT", "RESULT"), rows))


def _administrator(endpoint: str, folder: Path) -> dict[str, str]:
    """Make the caller that provisions and rotates, then switch enforcement on."""
    import boto3  # noqa: PLC0415

    anybody = {
        "endpoint_url": endpoint,
        "region_name": "us-east-1",
        "aws_access_key_id": "setup",
        "aws_secret_access_key": "setup",
    }
    aws: Any = boto3.Session()
    iam = aws.client("iam", **anybody)
    iam.create_user(UserName="operator")
    everything = {"Effect": "Allow", "Action": "*", "Resource": "*"}
    iam.put_user_policy(
        UserName="operator",
        PolicyName="everything",
        PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [everything]}),
    )
    key = iam.create_access_key(UserName="operator")["AccessKey"]
    aws.client("s3", **anybody).create_bucket(Bucket=BUCKET)
    shared = folder / "operator"
    shared.touch(mode=0o600)
    shared.write_text(
        f"[default]\naws_access_key_id = {key['AccessKeyId']}\n"
        f"aws_secret_access_key = {key['SecretAccessKey']}\n"
    )
    enforce = Request(  # noqa: S310 (loopback)
        f"{endpoint}/moto-api/reset-auth", data=b"0", headers={"Content-Type": "text/plain"}
    )
    with urlopen(enforce, timeout=10):  # noqa: S310
        pass
    return {"AWS_SHARED_CREDENTIALS_FILE": str(shared), "AWS_CONFIG_FILE": os.devnull}


@contextmanager
def _process(
    name: str, arguments: list[str], environment: dict[str, str], log: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a part of the demo, and end it whatever happens."""
    with log.open("wb") if log else open(os.devnull, "wb") as output:  # noqa: PTH123
        process = subprocess.Popen(
            [sys.executable, *arguments],
            env=_clean_environment() | environment,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C is for the demo, which then ends its parts in order
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                click.echo(f"the {name} did not end, killing it", err=True)
                process.kill()
                process.wait()


def _command(arguments: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rekeyd", *arguments],
        env=_clean_environment() | environment,
        check=False,
    )
    if done.returncode:
        raise Transient(f"`rekeyd {arguments[-1]}` ended with exit code {done.returncode}")


def _clean_environment() -> dict[str, str]:
    """Return this environment without what points at another AWS."""
    mine = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    return mine | {"AWS_EC2_METADATA_DISABLED": "true"}


def _opened(state: Path, daemon: subprocess.Popen[bytes]) -> Store:
    while not (state / "rekeyd.sqlite").exists() and daemon.poll() is None:
        time.sleep(0.05)
    return Store(state)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int) -> None:
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise Transient("the embedded AWS did not start within 30 s", "see whether moto runs here")


def _say_command(command: str) -> None:
    click.echo("\n" + click.style(f"$ {command}", bold=True))


def _clock() -> str:
    return time.strftime("%H:%M:%S")
