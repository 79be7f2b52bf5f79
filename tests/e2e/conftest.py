"""What the tests with real parts share: an enforcing AWS, a cache, wheels, a Debian."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import boto3
import pytest
from stores import LOCK, install

from processes import EmbeddedAws, Proxy

ROOT = Path(__file__).parents[2]
PACKAGES = ("systemd", "systemd-sysv", "dbus", "procps", "python3", "python3-venv")
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")


@dataclass(frozen=True)
class Cloud:
    """An embedded AWS behind a proxy, with a backup user and a rotator who may do no more."""

    proxy: Proxy
    credentials: str
    """The rotator's credentials file."""

    iam: Any
    """An administrator's client."""

    def keys(self) -> dict[str, str]:
        """Return the backup user's keys and whether each is Active or Inactive."""
        listed = self.iam.list_access_keys(UserName="backup_user")["AccessKeyMetadata"]
        return {key["AccessKeyId"]: key["Status"] for key in listed}

    def configuration(self, sink: str, **top: Any) -> dict[str, Any]:
        """Return a configuration in which a rotation happens only when it is asked for."""
        return {
            "listen": "none",
            "log": {"format": "json", "level": "info"},
            "aws": {"region": "us-east-1", "endpoint_url": self.proxy.endpoint},
            "identities": [
                {
                    "user": "backup_user",
                    "verify": ["sts"],
                    "rotation": {"every": "30d", "overlap": "1s", "grace": "1s", "settle": "2s"},
                    "sinks": [{"type": "aws_credentials", "path": sink, "profile": "default"}],
                }
            ],
            **top,
        }


@pytest.fixture(scope="module")
def cloud(embedded_aws: EmbeddedAws) -> Iterator[Cloud]:
    embedded_aws.reset()
    embedded_aws.iam.create_user(UserName="backup_user")
    key = embedded_aws.operator()
    iam = _administrator(embedded_aws)
    embedded_aws.enforce()
    text = "[default]\n" + "".join(f"{name.lower()} = {value}\n" for name, value in key.items())
    proxy = Proxy(embedded_aws.port)
    yield Cloud(proxy, text, iam)
    iam.close()
    proxy.mend()
    proxy.stop()
    embedded_aws.reset()


def _administrator(aws: EmbeddedAws) -> Any:
    everything = {"Effect": "Allow", "Action": "*", "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [everything]})
    aws.iam.create_user(UserName="administrator")
    aws.iam.put_user_policy(UserName="administrator", PolicyName="all", PolicyDocument=document)
    key = aws.iam.create_access_key(UserName="administrator")["AccessKey"]
    return boto3.client(
        "iam",
        region_name="us-east-1",
        endpoint_url=aws.endpoint,
        aws_access_key_id=key["AccessKeyId"],
        aws_secret_access_key=key["SecretAccessKey"],
    )


@pytest.fixture(scope="session")
def cache() -> Path:
    """A folder that outlives the run. Emptying it costs minutes, and nothing else."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rekeyd-e2e"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def programs(cache: Path) -> Path:
    """The folder with the programs of the stores that nobody here wrote."""
    folder = cache / f"stores-{sha256(LOCK.read_bytes()).hexdigest()[:12]}"
    done = folder / "installed"
    if not done.exists():
        install(folder)
        done.touch()
    return folder / "bin"


@pytest.fixture(scope="session")
def wheels(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with rekeyd as it stands and, hash-checked, all that it needs on Debian 12."""
    lock = ROOT / "deploy/lock/runtime.txt"
    stored = cache / f"wheels-{sha256(lock.read_bytes()).hexdigest()[:12]}"
    _once(stored, lambda new: _download(lock, new))
    folder = tmp_path_factory.mktemp("wheels")
    for wheel in stored.iterdir():
        (folder / wheel.name).symlink_to(wheel)
    subprocess.run(
        [*PIP, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, ROOT], check=True
    )
    return folder


def _download(lock: Path, folder: Path) -> None:
    debian = ["--only-binary", ":all:", "--python-version", "3.11"]
    subprocess.run(
        [*PIP, "download", "--require-hashes", "-r", lock, *debian, "-d", folder], check=True
    )


@pytest.fixture(scope="session")
def debian(cache: Path) -> Path:
    """A Debian 12 with systemd and Python, as a tar."""
    stored = cache / f"debian-{sha256(' '.join(PACKAGES).encode()).hexdigest()[:12]}.tar"
    include = f"--include={','.join(PACKAGES)}"
    _once(
        stored,
        lambda new: subprocess.run(
            [
                "mmdebstrap",
                "--quiet",
                "--variant=minbase",
                "--format=tar",
                include,
                "bookworm",
                new,
            ],
            check=True,
        ),
    )
    return stored


def _once(wanted: Path, make: Callable[[Path], object]) -> None:
    """Make something in the cache, unless it is there: whole, or not at all."""
    if not wanted.exists():
        unfinished = wanted.with_name(f"{wanted.name}.{os.getpid()}")
        make(unfinished)
        unfinished.rename(wanted)
