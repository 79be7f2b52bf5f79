"""`make bench`: the figures that rekeyd answers for, beside their references, in one table.

Everything is measured in one run, whole processes in turn with their reference, because machines
are noisy: the ratios mean something, the seconds little.
"""

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from configparser import ConfigParser
from contextlib import contextmanager
from pathlib import Path

import boto3
from botocore.exceptions import ClientError

import processes
from conftest import Configuration
from fronts import Fronts
from processes import Daemon, EmbeddedAws, running

RUNS = int(os.environ.get("BENCH_RUNS", "9"))
MORE = 3
"""Times as many runs where the target is near: a median of few pairs still swings."""

ROTATIONS = int(os.environ.get("BENCH_ROTATIONS", "50"))
IDLE_SECONDS = 30
DELAY = 1.5
"""Seconds until a front knows a new key for good: ten times less than AWS's."""

PYTHON = sys.argv[1] if len(sys.argv) > 1 else sys.executable
"""Of an environment with rekeyd and nothing else: test tools make imports slower."""

REKEYD = str(Path(PYTHON).parent / "rekeyd")

IAM_CLIENT = "import boto3; boto3.client('iam', region_name='us-east-1')"

SAME_CALLS = """
import boto3, json, sys
from botocore.config import Config
endpoint, bucket, path = sys.argv[1:]
session = boto3.Session(region_name="us-east-1")
def client(service, **more):
    return session.client(service, endpoint_url=endpoint, **more)
iam, user = client("iam"), "backup_user"
def look():
    iam.get_user(UserName=user)
    return iam.list_access_keys(UserName=user)["AccessKeyMetadata"]
client("sts").get_caller_identity()
def probe(pair):
    more = dict(aws_access_key_id=pair["AccessKeyId"],
                aws_secret_access_key=pair["SecretAccessKey"])
    client("sts", **more).get_caller_identity()
    s3 = client("s3", **more)
    s3.put_object(Bucket=bucket, Key="probe", Body=b"x")
    s3.get_object(Bucket=bucket, Key="probe")["Body"].read()
    s3.delete_object(Bucket=bucket, Key="probe")
look(); look(); look()
once = client("iam", config=Config(retries={"total_max_attempts": 1}))
pair = once.create_access_key(UserName=user)["AccessKey"]
look()
for _ in range(3):
    probe(pair)
look()
probe(pair)
with open(path, "w") as file:
    file.write(f"[backup]\\naws_access_key_id={pair['AccessKeyId']}\\n"
               f"aws_secret_access_key={pair['SecretAccessKey']}\\n")
look()
"""


def main() -> None:
    rows = []
    aws = EmbeddedAws()
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for measure in (credentials, start, rotate, at_rest, lost_requests):
                print(f"measuring: {measure.__name__.replace('_', ' ')} …", file=sys.stderr)
                place = folder / measure.__name__
                place.mkdir()
                rows += measure(aws, place)
    finally:
        aws.stop()
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    heading = ("figure", "rekeyd", "reference", "target")
    widths = [max(w, len(h)) for w, h in zip(widths, heading, strict=True)]
    for row in (heading, tuple("─" * w for w in widths), *rows):
        print("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip())


Row = tuple[str, str, str, str]


def credentials(_: EmbeddedAws, folder: Path) -> list[Row]:
    pair = folder / "pair.json"
    pair.write_text('{"Version": 1, "AccessKeyId": "AKIAX", "SecretAccessKey": "x"}')
    pair.chmod(0o600)
    ours = [REKEYD, "credentials", str(pair)]
    return [
        _ratio(
            "`rekeyd credentials`, whole process",
            ours,
            [PYTHON, "-c", "import json"],
            1.5,
        )
    ]


def start(aws: EmbeddedAws, folder: Path) -> list[Row]:
    """From the start of the process to READY=1, against a script that only has an IAM client."""
    _prepare(aws)
    config = Configuration(folder, aws.endpoint)(verify=["sts"])
    pairs = [(_until_ready(config), _seconds([PYTHON, "-c", IAM_CLIENT])) for _ in range(RUNS + 1)]
    return [_row("`rekeyd run`, start to READY", pairs[1:], 1.5, "boto3 and an IAM client")]


def rotate(aws: EmbeddedAws, folder: Path) -> list[Row]:
    """One `rekeyd rotate`, against a bare script with the same calls in the same order."""
    script = folder / "same_calls.py"
    script.write_text(SAME_CALLS)
    pairs = []
    for number in range(RUNS * MORE + 1):
        _prepare(aws)
        place = folder / str(number)
        place.mkdir()
        config = Configuration(place, aws.endpoint)(
            policy={"name": "S3BackupPolicy", "bucket": "backup-bucket"}
        )
        ours = _seconds([REKEYD, "-c", str(config), "rotate"])
        _prepare(aws)
        theirs = _seconds([PYTHON, str(script), aws.endpoint, "backup-bucket", str(place / "out")])
        pairs.append((ours, theirs))
    return [_row("`rekeyd rotate`, whole process", pairs[1:], 1.3, "bare boto3, same calls")]


def at_rest(aws: EmbeddedAws, folder: Path) -> list[Row]:
    """Memory after a first rotation, with its live clients, and processor time at rest."""
    _prepare(aws)
    config = Configuration(folder, aws.endpoint)(
        top={"listen": "127.0.0.1:9797"},
        policy={"name": "S3BackupPolicy", "bucket": "backup-bucket"},
    )
    with running(config) as daemon:
        daemon.expect("rotated", within=60)
        time.sleep(2)
        memory = _resident(daemon)
        before = _cpu(daemon)
        time.sleep(IDLE_SECONDS)
        share = (_cpu(daemon) - before) / IDLE_SECONDS
        daemon.stop()
    alone = subprocess.run(
        [PYTHON, "-c", IAM_CLIENT + "; print(open('/proc/self/status').read())"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    return [
        (
            "resident memory, live IAM client",
            f"{memory:.0f} MiB",
            f"{_rss(alone):.0f} MiB",
            "≤ 75 MiB",
        ),
        ("processor time at rest", f"{share:.3%} of a core", "", "< 0.1 %"),
    ]


def lost_requests(aws: EmbeddedAws, folder: Path) -> list[Row]:
    """A client that re-reads the sink before each call, while new keys are known late."""
    _prepare(aws)
    fronts = Fronts(aws.port, DELAY)
    configuration = Configuration(folder, fronts.endpoint)
    config = configuration(
        policy={"name": "S3BackupPolicy", "bucket": "backup-bucket"},
        rotation={"every": "4s", "overlap": "1s", "grace": "1s", "settle": "1s"},
    )
    client = Client(configuration.sink, fronts.endpoint)
    with running(config) as daemon:
        client.start()
        for done in range(ROTATIONS + 1):
            daemon.expect("rotated", within=120)
            print(f"\r  {done} of {ROTATIONS} rotations", end="", file=sys.stderr)
        print(file=sys.stderr)
        daemon.stop()
    client.stop()
    fronts.stop()
    told = f"{client.refused} of {client.calls}"
    return [
        (
            f"calls refused in {ROTATIONS} rotations, keys known {DELAY} s late at most",
            told,
            f"{fronts.refused} probes refused",
            "0",
        )
    ]


class Client(threading.Thread):
    """Puts, gets and deletes with the pair that the sink holds, without pause."""

    def __init__(self, sink: Path, endpoint: str) -> None:
        super().__init__(daemon=True)
        self.calls = self.refused = 0
        self._sink = sink
        self._endpoint = endpoint
        self._stopping = threading.Event()

    def run(self) -> None:
        session = boto3.Session()
        while not self._stopping.is_set():
            file = ConfigParser()
            file.read(self._sink)
            if not file.has_section("backup"):
                time.sleep(0.05)
                continue
            s3 = session.client("s3", endpoint_url=self._endpoint, region_name="us-east-1",
                                **dict(file["backup"]))  # fmt: skip
            for call in (
                lambda s3=s3: s3.put_object(Bucket="backup-bucket", Key="b", Body=b"b"),
                lambda s3=s3: s3.get_object(Bucket="backup-bucket", Key="b")["Body"].read(),
                lambda s3=s3: s3.delete_object(Bucket="backup-bucket", Key="b"),
            ):
                self.calls += 1
                try:
                    call()
                except ClientError:
                    self.refused += 1
            s3.close()

    def stop(self) -> None:
        self._stopping.set()
        self.join(30)


def _prepare(aws: EmbeddedAws) -> None:
    aws.reset()
    aws.iam.create_user(UserName="backup_user")
    aws.s3.create_bucket(Bucket="backup-bucket")


def _ratio(name: str, ours: list[str], theirs: list[str], target: float) -> Row:
    pairs = [(_seconds(ours), _seconds(theirs)) for _ in range(RUNS * MORE + 1)][1:]
    return _row(name, pairs, target, theirs[-1])


def _row(name: str, pairs: list[tuple[float, float]], target: float, reference: str) -> Row:
    ratio = statistics.median(a / b for a, b in pairs)
    ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    return (
        name,
        f"{ours * 1000:.0f} ms, ratio {ratio:.2f}",
        f"{theirs * 1000:.0f} ms ({reference})",
        f"ratio ≤ {target}",
    )


def _seconds(command: list[str]) -> float:
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    took = time.perf_counter() - began
    if done.returncode:
        sys.exit(f"{command}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return took


def _until_ready(config: Path) -> float:
    with _notified() as (address, channel):
        began = time.perf_counter()
        with running(config, {"NOTIFY_SOCKET": address}) as daemon:
            while b"READY=1" not in channel.recv(4096):
                pass
            took = time.perf_counter() - began
            daemon.stop()
    return took


@contextmanager
def _notified() -> Iterator[tuple[str, socket.socket]]:
    with tempfile.TemporaryDirectory() as folder:
        address = f"{folder}/notify"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.bind(address)
            channel.settimeout(30)
            yield address, channel


def _resident(daemon: Daemon) -> float:
    return _rss(Path(f"/proc/{daemon.process.pid}/status").read_text())


def _rss(status: str) -> float:
    return int(status.split("VmRSS:")[1].split(maxsplit=1)[0]) / 1024


def _cpu(daemon: Daemon) -> float:
    fields = Path(f"/proc/{daemon.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    processes.PROGRAM[:] = [PYTHON, "-m", "rekeyd"]
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "operator",
        "AWS_SECRET_ACCESS_KEY": "operator",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    main()
