"""What the tests of the shell share: one embedded AWS a worker, a configuration, the commands."""

import gc
import json
import os
import sys
import threading
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import settings

from processes import Daemon, EmbeddedAws, Proxy, running
from rekeyd import __main__ as program

gc.set_threshold(100_000, 20, 100)  # the proofs keep what they make: looking through it takes long

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

TIMES = {"every": "30d", "overlap": "1s", "grace": "1s", "settle": "1s"}
"""Due in a month, so that a test alone says when; retired within seconds."""


@pytest.fixture(scope="session")
def embedded_aws() -> Iterator[EmbeddedAws]:
    started = EmbeddedAws()
    yield started
    started.stop()


@pytest.fixture
def aws(embedded_aws: EmbeddedAws, monkeypatch: pytest.MonkeyPatch) -> EmbeddedAws:
    """An AWS with the backup user and its bucket, in which anybody may do anything."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "operator")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "operator")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    embedded_aws.reset()
    embedded_aws.iam.create_user(UserName="backup_user")
    embedded_aws.s3.create_bucket(Bucket="backup-bucket")
    return embedded_aws


@pytest.fixture
def proxy(aws: EmbeddedAws) -> Iterator[Proxy]:
    """A proxy before the AWS; the configuration has to name its endpoint."""
    started = Proxy(aws.port)
    yield started
    started.mend()
    started.stop()


class Configuration:
    """Writes the configuration of a test. What is called without a change is the plain one."""

    def __init__(self, folder: Path, endpoint: str) -> None:
        self.folder = folder
        self.path = folder / "rekeyd.yaml"
        self.sink = folder / "credentials"
        seal = folder / "seal.key"
        seal.touch(mode=0o600)
        seal.write_bytes(os.urandom(32))
        self.plain: dict[str, Any] = {
            "state": str(folder / "state"),
            "seal": f"file:{seal}",
            "listen": "none",
            "log": {"format": "json", "level": "info"},
            "aws": {"region": "us-east-1", "endpoint_url": endpoint},
        }
        self.identity: dict[str, Any] = {
            "user": "backup_user",
            "rotation": TIMES,
            "sinks": [{"type": "aws_credentials", "path": str(self.sink), "profile": "backup"}],
        }
        self()

    def __call__(self, *, top: dict[str, Any] | None = None, **identity: Any) -> Path:
        """Write it with other settings of the identity, and of the `top` level."""
        one = deepcopy(self.identity | identity)
        settings = self.plain | {"identities": [one]} | (top or {})
        self.path.write_text(yaml.safe_dump(settings, sort_keys=False))
        return self.path

    def through(self, proxy: Proxy, **identity: Any) -> Path:
        """Write it so that AWS is reached through a proxy, now and later."""
        self.plain["aws"]["endpoint_url"] = proxy.endpoint
        return self(**identity)

    def held(self) -> str:
        """Return the key id that the sink holds."""
        lines = self.sink.read_text().splitlines()
        return next(line.split("=")[1].strip() for line in lines if "access_key_id" in line)


@pytest.fixture
def flushed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return what is flushed from now on, in its order."""
    seen: list[Path] = []
    fsync = os.fsync

    def told(handle: int) -> None:
        seen.append(Path(f"/proc/self/fd/{handle}").readlink())
        fsync(handle)

    monkeypatch.setattr(os, "fsync", told)
    return seen


@pytest.fixture
def config(aws: EmbeddedAws, tmp_path: Path) -> Configuration:
    return Configuration(tmp_path, aws.endpoint)


@dataclass(frozen=True)
class Ran:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def rekeyd(config: Configuration, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Any:
    """Run a command in this process, from its arguments to its exit code."""
    monkeypatch.setattr("rekeyd.memory.keep_private", lambda: None)  # this process is the tests'
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)

    def run(*arguments: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["rekeyd", *arguments])
        monkeypatch.setenv("REKEYD_CONFIG", str(config.path))
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            sys.exit(program.main())
        shown = capsys.readouterr()
        assert "Traceback" not in shown.out + shown.err
        code = left.value.code
        return Ran(0 if code is None else int(code), shown.out, shown.err)

    return run


@pytest.fixture
def daemon(config: Configuration) -> Iterator[Daemon]:
    """The daemon on the configuration as it is, once it is ready."""
    with running(config.path) as started:
        started.expect("ready")
        yield started
