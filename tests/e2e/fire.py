"""What the tests under fire share: identities whose sinks are in use, and a bad network."""

import os
import random
import signal
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from configparser import ConfigParser
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socket import SO_LINGER, SOL_SOCKET
from typing import Any
from urllib.parse import parse_qs

import boto3
import yaml
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from fronts import Fronts
from processes import LONG_ENOUGH, Daemon, EmbeddedAws, Proxy

QUICK = {"every": "6s", "overlap": "3s", "grace": "1s", "settle": "1s"}
REST = QUICK | {"every": "30d"}
"""Times under fire, and those in which everything comes to rest afterwards."""

CHANGES = {"CreateAccessKey", "UpdateAccessKey", "DeleteAccessKey"}

PAUSE = 0.2
"""Seconds between two rounds of a backup: without, they take a core from the daemon."""

SETTLED = 90.0
"""Seconds in which all identities have come to rest when nothing disturbs them any more."""


class Backup(threading.Thread):
    """Puts, gets and deletes with the pair that a sink holds, again and again."""

    def __init__(self, sink: Path, bucket: str, endpoint: str) -> None:
        super().__init__(daemon=True)
        self.calls = 0
        self.refused: list[str] = []
        self.keys: set[str] = set()
        self._sink, self._bucket, self._endpoint = sink, bucket, endpoint
        self._stopping = threading.Event()

    def run(self) -> None:
        session = boto3.Session(region_name="us-east-1")
        once = Config(retries={"total_max_attempts": 1})
        while not self._stopping.wait(PAUSE):
            file = ConfigParser()
            file.read(self._sink)
            if not file.has_section("backup"):
                continue
            pair = dict(file["backup"])
            s3 = session.client("s3", endpoint_url=self._endpoint, config=once, **pair)
            self.keys.add(pair["aws_access_key_id"])
            self._use(s3, pair["aws_access_key_id"])
            s3.close()

    def _use(self, s3: Any, key_id: str) -> None:
        where = {"Bucket": self._bucket, "Key": "backup"}
        calls = (
            lambda: s3.put_object(**where, Body=b"backup"),
            lambda: s3.get_object(**where)["Body"].read(),  # noqa: PLW0108 (asks when called)
            lambda: s3.delete_object(**where),
        )
        for call in calls:
            self.calls += 1
            try:
                call()
            except (BotoCoreError, ClientError) as error:
                self.refused.append(f"{time.time():.3f} {key_id}: {error}")

    def stop(self) -> None:
        self._stopping.set()
        self.join()


class Household:
    """Some identities of one daemon behind fronts that tell late, and the backups that use them."""

    def __init__(self, aws: EmbeddedAws, folder: Path, names: Sequence[str], seed: int) -> None:
        self.folder = folder
        self.names = names
        self.path = folder / "rekeyd.yaml"
        self.state = folder / "state"
        self.fronts = Fronts(aws.port, delay=0.5, seed=seed)
        self.endpoint = self.fronts.endpoint
        self.logs: list[str] = []
        self._aws = aws
        seal = folder / "seal.key"
        seal.touch(mode=0o600)
        seal.write_bytes(random.Random(seed).randbytes(32))
        for name in names:
            aws.iam.create_user(UserName=name)
            aws.s3.create_bucket(Bucket=self._bucket(name))
        self.backups = [Backup(self.sink(n), self._bucket(n), self.endpoint) for n in names]

    @staticmethod
    def _bucket(name: str) -> str:
        return f"bucket-of-{name}"

    def sink(self, name: str) -> Path:
        return self.folder / f"{name}.credentials"

    def configure(self, times: dict[str, str]) -> None:
        identities = [
            {
                "user": name,
                "policy": {"name": "S3BackupPolicy", "bucket": self._bucket(name)},
                "rotation": times,
                "sinks": [
                    {"type": "aws_credentials", "path": str(self.sink(name)), "profile": "backup"}
                ],
            }
            for name in self.names
        ]
        settings = {
            "state": str(self.state),
            "seal": f"file:{self.folder}/seal.key",
            "listen": "none",
            "log": {"format": "json", "level": "info"},
            "aws": {"region": "us-east-1", "endpoint_url": self.endpoint},
            "identities": identities,
        }
        self.path.write_text(yaml.safe_dump(settings))

    @contextmanager
    def daemon(self, environment: dict[str, str] | None = None) -> Iterator[Daemon]:
        """Run the daemon, and end it without mercy; what it logged is kept."""
        daemon = Daemon(self.path, environment)
        try:
            yield daemon
        finally:
            daemon.kill()
            self.logs.append(daemon.log)

    @contextmanager
    def lived_in(self) -> Iterator[None]:
        """Let every identity have its first pair, and its backups use it meanwhile."""
        self.configure(QUICK)
        with self.daemon() as daemon:
            for _ in self.names:
                daemon.expect("rotated")
        for backup in self.backups:
            backup.start()
        try:
            yield
        finally:
            for backup in self.backups:
                backup.stop()
            self.fronts.mend()
            self.fronts.stop()

    def changes(self, within: float) -> None:
        """Wait for the next call that changes a key."""
        until, seen = time.monotonic() + within, len(self.fronts.calls)
        while time.monotonic() < until and CHANGES.isdisjoint(self.fronts.calls[seen:]):
            time.sleep(0.002)

    def settles(self, daemon: Daemon | None = None) -> None:
        """Prove that all comes to rest: one key each, Active, and the sink holds it."""
        self.configure(REST)
        if daemon:
            daemon.signal(signal.SIGHUP)
            self._rests(daemon)
        else:
            with self.daemon() as another:
                self._rests(another)

    def _rests(self, daemon: Daemon) -> None:
        until = time.monotonic() + SETTLED
        while unsettled := [name for name in self.names if not self._settled(name)]:
            told = {name: self._aws.keys(name) for name in unsettled}
            assert time.monotonic() < until, f"not at rest within {SETTLED} s: {told}\n{daemon.log}"
            time.sleep(0.2)

    def _settled(self, name: str) -> bool:
        return self._aws.keys(name) == {self.held(name): "Active"}

    def held(self, name: str) -> str:
        file = ConfigParser()
        file.read(self.sink(name))
        return file["backup"]["aws_access_key_id"]


class BadNetwork(Proxy):
    """A proxy that spoils each call in each of the ways that networks have, one after the other.

    A call that has met all of them is let through, so that those behind it are reached.
    """

    KINDS = ("reset", "lost", "cut", "doubled", "slow", "busy", "hung")

    def __init__(self, port: int, seed: int, chance: float = 0.4, patience: float = 11.0) -> None:
        self.met: Counter[str] = Counter()
        self._dice = random.Random(seed)
        self._kinds: dict[str, list[str]] = {}
        self._chance, self._patience = chance, patience
        self._mutex = threading.Lock()
        super().__init__(port)

    def has_met(self, calls: set[str]) -> bool:
        """Whether each of these calls, and any other that was made, met every kind of fault."""
        with self._mutex:
            return calls <= self._kinds.keys() and not any(self._kinds.values())

    def _fault(self, call: str) -> str | None:
        with self._mutex:
            if call not in self._kinds:
                self._kinds[call] = self._dice.sample(self.KINDS, len(self.KINDS))
            if not self._kinds[call] or self._dice.random() > self._chance:
                return None
            self.met[call] += 1
            return self._kinds[call].pop()

    def answer(self, handler: BaseHTTPRequestHandler, body: bytes, port: int) -> None:
        kind = self._fault(parse_qs(body.decode("latin-1")).get("Action", [handler.command])[0])
        if kind is None:
            super().answer(handler, body, port)
            return
        handler.close_connection = True
        with suppress(OSError, HTTPException):
            self._spoil(kind, handler, body, port)

    def _spoil(self, kind: str, handler: BaseHTTPRequestHandler, body: bytes, port: int) -> None:
        if kind == "reset":
            handler.connection.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
            return
        if kind == "busy":
            handler.send_response(503)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        if kind == "slow":
            time.sleep(self._dice.uniform(0.5, 3))
        answers = [_asked(handler, body, port) for _ in range(2 if kind == "doubled" else 1)]
        if kind == "hung":
            time.sleep(self._patience)
        if kind == "lost":
            return
        status, headers, content = answers[0]
        handler.send_response_only(status)
        for name, value in headers:
            if name.lower() not in {"content-length", "connection", "transfer-encoding"}:
                handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content[: len(content) // 2] if kind == "cut" else content)


def _asked(
    handler: BaseHTTPRequestHandler, body: bytes, port: int
) -> tuple[int, list[tuple[str, str]], bytes]:
    connection = HTTPConnection("127.0.0.1", port, timeout=LONG_ENOUGH)
    try:
        connection.request(handler.command, handler.path, body, dict(handler.headers))
        answer = connection.getresponse()
        return answer.status, answer.getheaders(), answer.read()
    finally:
        connection.close()


def judge(houses: Sequence[Household], met: str, least: int) -> dict[str, Any]:
    """Demand what holds under any fire and so many rotations; return the figures."""
    backups = [backup for house in houses for backup in house.backups]
    calls = sum(backup.calls for backup in backups)
    rotations = sum(len(backup.keys) - 1 for backup in backups)
    log = "".join(line for house in houses for line in house.logs)
    assert [line for backup in backups for line in backup.refused] == []
    assert calls > 10 * rotations
    assert rotations >= least
    assert '"event": "hold"' not in log
    assert '"event": "fault"' not in log
    return {"met": met, "rotations": rotations, "calls": calls}


@contextmanager
def small_disk(folder: Path, kib: int) -> Iterator[None]:
    """Have a folder that is a disk of this size."""
    folder.mkdir(mode=0o700)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kib}k,mode=0700", "rekeyd-test", folder], check=True
    )
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def kill_again_and_again(house: Household, kills: int, seconds: float, seed: int) -> int:
    """Kill the daemon at random instants, so often or for so long; return how often it was.

    One in ten lives until it has rotated: on a slow machine the others are too short for that.
    """
    dice = random.Random(seed)
    until = time.monotonic() + seconds
    for number in range(kills):
        if time.monotonic() > until:
            return number
        with house.daemon() as daemon:
            if dice.random() < 0.9:  # else while it starts
                daemon.expect("ready")
            chance = dice.random()
            if chance < 0.1:
                daemon.expect("rotated", within=60)
            elif chance < 0.5:
                house.changes(within=dice.uniform(0, 4))
                time.sleep(dice.uniform(0, 0.03))
            else:
                time.sleep(dice.uniform(0, 1))
        if sys.stderr.isatty():
            print(f"\r  {number + 1} of {kills} kills", end="", file=sys.stderr)
    return kills


def seeded() -> int:
    """Return the seed of what is random. `REKEYD_SEED` is another; instants vary anyway."""
    return int(os.environ.get("REKEYD_SEED", "20261124"))
