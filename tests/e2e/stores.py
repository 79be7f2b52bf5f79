"""Servers that speak IAM and S3 and that nobody here wrote, each as a process of its own."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from processes import EmbeddedAws

BUCKET = "backup-bucket"
ONCE = Config(retries={"total_max_attempts": 1}, read_timeout=20)
PATIENCE = 60.0
LOCK = Path(__file__).parent / "stores.txt"


def install(folder: Path) -> None:
    """Install the servers, hash-checked, into an environment of their own."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [folder / "bin/python", "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--require-hashes", "-r", LOCK], check=True)


class Store:
    """A store with an administrator, a bucket, and the credentials that rekeyd shall have."""

    settings: dict[str, str]
    """The `aws` settings with which rekeyd works there."""

    lacks: tuple[str, ...] = ()
    """What `rekeyd check` says of it once there is a key."""

    admin: dict[str, str]
    rotator: dict[str, str]

    def client(self, service: str, pair: tuple[str, str] | None = None) -> Any:
        """Make a client that signs with a pair, or as the administrator, and never tries again."""
        key_id, secret = pair or tuple(self.admin.values())
        return boto3.client(
            service,
            region_name="us-east-1",
            endpoint_url=self.settings["endpoint_url"],
            aws_access_key_id=key_id,
            aws_secret_access_key=secret,
            config=ONCE,
        )

    def keys(self, user: str = "backup_user") -> dict[str, str]:
        """Return the user's keys and whether each is Active or Inactive."""
        listed = self.iam.list_access_keys(UserName=user)["AccessKeyMetadata"]
        return {key["AccessKeyId"]: key["Status"] for key in listed}

    def open(self) -> None:
        self.iam, self.s3 = self.client("iam"), self.client("s3")
        self._until(lambda: self.s3.create_bucket(Bucket=BUCKET))

    def make_rotator(self, document: Any) -> None:
        """Make the caller as whom rekeyd shall work, with this policy where there can be one."""

    def stop(self) -> None:
        self.iam.close()
        self.s3.close()

    def _until(self, call: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                call()
            except (BotoCoreError, ClientError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
            else:
                return


class Moto(Store):
    """moto with its checks on. It judges IAM's calls on `*` only, and accepts Inactive keys."""

    def __init__(self) -> None:
        self._server = EmbeddedAws()
        self.settings = {"region": "us-east-1", "endpoint_url": self._server.endpoint}
        everything = {"Effect": "Allow", "Action": "*", "Resource": "*"}
        document = json.dumps({"Version": "2012-10-17", "Statement": [everything]})
        self._server.iam.create_user(UserName="administrator")
        self._server.iam.put_user_policy(
            UserName="administrator", PolicyName="all", PolicyDocument=document
        )
        key = self._server.iam.create_access_key(UserName="administrator")["AccessKey"]
        self.admin = environment(key["AccessKeyId"], key["SecretAccessKey"])
        self.rotator = self._server.operator()
        self._server.enforce()
        self.open()

    def stop(self) -> None:
        super().stop()
        self._server.stop()


class Process(Store):
    """A server that is a program with a log."""

    def run(self, command: list[Any], log: Path, **environment: str) -> None:
        clean = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command, env=clean | environment, stdout=output, stderr=output, cwd=log.parent
            )
        self.open()

    def stop(self) -> None:
        super().stop()
        self._process.send_signal(signal.SIGKILL)  # SeaweedFS would take its time
        self._process.wait(timeout=10)


class Ministack(Process):
    """ministack, which judges every call; it knows no limit of two keys."""

    def __init__(self, programs: Path, folder: Path) -> None:
        [port] = free_ports(1)
        self.settings = {"region": "us-east-1", "endpoint_url": f"http://127.0.0.1:{port}"}
        self.admin = environment("000000000000", "000000000000")
        places = {"GATEWAY_PORT": str(port), "BIND_HOST": "127.0.0.1"}
        self.run([programs / "ministack"], folder / "ministack.log", AUTH="true", **places)

    def make_rotator(self, document: Any) -> None:
        """It judges GetAccessKeyLastUsed on everything, where AWS judges it on the user."""
        last_use = {"Effect": "Allow", "Action": "iam:GetAccessKeyLastUsed", "Resource": "*"}
        document = document | {"Statement": [*document["Statement"], last_use]}
        self.iam.create_user(UserName="rotator")
        self.iam.put_user_policy(
            UserName="rotator", PolicyName="rotator", PolicyDocument=json.dumps(document)
        )
        key = self.iam.create_access_key(UserName="rotator")["AccessKey"]
        self.rotator = environment(key["AccessKeyId"], key["SecretAccessKey"])


class SeaweedFS(Process):
    """SeaweedFS: IAM is part of its S3 server, and only its administrators may use all of it."""

    lacks = (
        "this store has no STS",
        "this store gives users no ids",
        "this store does not say when a key was made",
        "this store does not say when a key was last used",
    )

    def __init__(self, programs: Path, folder: Path) -> None:
        master, volume, filer, s3 = free_ports(4)
        self.settings = {
            "region": "us-east-1",
            "endpoint_url": f"http://127.0.0.1:{s3}",
            "endpoint_url_sts": "none",
        }
        self.admin = self.rotator = environment("administrator000", "a secret of the administrator")
        key_id, secret = self.admin.values()
        one = {"name": "admin", "credentials": [{"accessKey": key_id, "secretKey": secret}]}
        identities = folder / "s3.json"
        identities.write_text(json.dumps({"identities": [{**one, "actions": ["Admin"]}]}))
        data = folder / "data"
        data.mkdir()
        self.run(
            [
                *(programs / "weed", "server", f"-dir={data}"),
                *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false"),
                *(f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}"),
                *("-master.volumeSizeLimitMB=64", "-volume.max=100"),
                *("-s3", f"-s3.port={s3}", "-s3.port.iceberg=0", "-s3.port.lance=0"),
                *(f"-s3.config={identities}", "-s3.iam.readOnly=false"),
            ],
            folder / "seaweedfs.log",
        )


def environment(key_id: str, secret: str) -> dict[str, str]:
    return {"AWS_ACCESS_KEY_ID": key_id, "AWS_SECRET_ACCESS_KEY": secret}


def free_ports(count: int) -> list[int]:
    """Find ports that are free together with the one 10000 above, where SeaweedFS speaks gRPC."""
    held: list[socket.socket] = []
    found: list[int] = []
    while len(found) < count:
        try:
            first = socket.create_server(("127.0.0.1", 0))
            held.append(first)
            port = first.getsockname()[1]
            held.append(socket.create_server(("127.0.0.1", port - 10_000)))
            found.append(port - 10_000)
        except OSError:
            continue
    for one in held:
        one.close()
    return found
