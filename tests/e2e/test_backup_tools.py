"""Real backup tools back up, expire and restore while their keys rotate, and notice nothing.

Each does so as `deploy/tools.md` says: its configuration is read from there. The store is
ministack, which judges every action on its resource; the fronts before it tell of new keys late,
refuse dead ones, and count what each tool asks for.

An hour of overlap passes once every run that may hold the old pair is over, however long that
takes on this machine: IAM's clock, the only one that rekeyd goes by, is told to skip it.
"""

import json
import os
import random
import re
import signal
import threading
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from email.utils import format_datetime, parsedate_to_datetime
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import yaml
from botocore.exceptions import ClientError
from stores import Ministack
from tools import TOOLS

from fronts import SIGNER, Fronts
from processes import command, running
from rekeyd.config import load
from rekeyd.policy import PRESETS, PROBES
from rekeyd.sinks.base import SinkContext

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

ROTATIONS = 10
DELAY = 1.5
"""Seconds until the fronts know a new key, at most; half of it more until they know it for good."""

OVERLAP = timedelta(hours=1)

PAUSE = 2.0
"""Seconds between two runs of a tool: the slowest, which all wait for, needs the processor."""

TIMES = {"every": "30d", "overlap": "1h", "grace": "1s", "settle": "3s"}
RECIPES = Path(__file__).parents[2] / "deploy/tools.md"

LARGE = 6 * 2**20
"""Bytes: enough to be sent in parts by every tool that sends parts."""

LISTS = {"location": "s3:GetBucketLocation", "uploads": "s3:ListBucketMultipartUploads"}
BORN = re.compile(
    rb"(?P<before><AccessKeyId>(?P<key>\w+)</AccessKeyId>(?:(?!<AccessKeyId>).)*<CreateDate>)"
    rb"(?P<at>[^<]+)"
)
WRITES = {"DELETE": "s3:DeleteObject", "PUT": "s3:PutObject", "POST": "s3:PutObject"}


def recipes():
    """Return the identity of each recipe, by its preset, with the places that it names."""
    found = {}
    for text in re.findall(r"```yaml\n(.*?)```", RECIPES.read_text(), re.DOTALL):
        [identity] = yaml.safe_load(text)["identities"]
        found[identity["policy"]["preset"]] = identity
    return found


def actions(method, path, headers):
    """Return what a request needs to be allowed to do (S3 API reference, "Permissions")."""
    url = urlsplit(path)
    query = parse_qs(url.query, keep_blank_values=True)
    _, _, key = url.path.lstrip("/").partition("/")
    if not key:
        if method == "POST" and "delete" in query:
            return {"s3:DeleteObject"}
        return {next((action for name, action in LISTS.items() if name in query), "s3:ListBucket")}
    if "uploadId" in query and method in ("GET", "DELETE"):
        return {"s3:ListMultipartUploadParts" if method == "GET" else "s3:AbortMultipartUpload"}
    needed = {WRITES.get(method, "s3:GetObject")}
    if "x-amz-acl" in headers:
        needed.add("s3:PutObjectAcl")
    if "x-amz-copy-source" in headers:
        needed.add("s3:GetObject")
    return needed


@dataclass
class Account:
    """What was asked of one bucket, but for rekeyd's own probes."""

    requests: int = 0
    refused: list = field(default_factory=list)
    keys: set = field(default_factory=set)
    actions: Counter = field(default_factory=Counter)


GIVEN_UP = {"s3:AbortMultipartUpload"}
"""What a tool asks for only when an upload fails for good: it may succeed at a later try."""


class Ledger(Fronts):
    """Fronts that keep an account of each bucket, and spoil uploads in parts when asked to.

    IAM's time, of its answers and of its keys, is ours and what was skipped.
    """

    def __init__(self, port):
        self.accounts = defaultdict(Account)
        self.spoiled = set()
        self.skipped = timedelta()
        self._skipped_before = {}
        self._writing = threading.Lock()
        super().__init__(port, DELAY)
        self.clock = self._iams_time

    def _iams_time(self, action, date):
        if action in WRITES or action in ("GET", "HEAD"):
            return date  # S3's own
        return format_datetime(parsedate_to_datetime(date) + self.skipped, usegmt=True)

    def altered(self, action, content):
        def moved(found):
            before = self._skipped_before.setdefault(found["key"], self.skipped)
            born = datetime.fromisoformat(found["at"].decode()) + before
            return found["before"] + f"{born:%Y-%m-%dT%H:%M:%SZ}".encode()

        return BORN.sub(moved, content)

    def answered(self, handler, status):
        signed = SIGNER.search(handler.headers.get("Authorization", ""))
        path = unquote(handler.path)
        if not signed or signed[2] != "s3" or f"/{PROBES}" in path:
            return
        with self._writing:
            account = self.accounts[path.lstrip("/").partition("/")[0].partition("?")[0]]
            account.requests += 1
            account.keys.add(signed[1])
            account.actions.update(actions(handler.command, handler.path, handler.headers))
            if status in (401, 403):
                account.refused.append(f"{status} {handler.command} {path}")

    def _judge(self, handler):
        bucket = handler.path.lstrip("/").partition("/")[0]
        if bucket in self.spoiled and "partNumber=2" in handler.path:
            return 400, b"<Error><Code>InvalidPart</Code><Message>spoiled</Message></Error>"
        return super()._judge(handler)


class House:
    """Every recipe in one configuration, on one store, behind the fronts."""

    def __init__(self, store, folder, change=lambda _: None):
        self.store = store
        self.fronts = Ledger(urlsplit(store.settings["endpoint_url"]).port)
        self.folder = folder
        self.config = folder / "rekeyd.yaml"
        self.tools = {}
        self._identities = []
        for tool in TOOLS:
            self._move_in(tool, recipes()[tool.name], change)
        self.configure()

    def _move_in(self, tool, identity, change):
        place = self.folder / tool.name
        place.mkdir()
        moved = json.loads(json.dumps(identity).replace("/srv/backup", str(place)))
        change(moved)
        self._identities.append(moved)
        bucket = identity["policy"]["bucket"]
        self.store.s3.create_bucket(Bucket=bucket)
        self.tools[tool.name] = tool(place, self.fronts.endpoint, bucket)

    def configure(self):
        self.config.write_text(
            yaml.safe_dump(
                {
                    "state": str(self.folder / "state"),
                    "listen": "none",
                    "log": {"format": "json", "level": "info"},
                    "aws": {"region": "us-east-1", "endpoint_url": self.fronts.endpoint},
                    "identities": [identity | {"rotation": TIMES} for identity in self._identities],
                }
            )
        )

    def rekeyd(self, *arguments):
        return command(["-c", self.config, *arguments], self._environment(self.store.admin))

    def running(self):
        return running(self.config, self._environment(self.store.rotator))

    def provision(self):
        self.store.make_rotator(json.loads(self.rekeyd("policy", "rotator").stdout))
        done = self.rekeyd("provision")
        assert done.returncode == 0, done.stdout + done.stderr

    def _environment(self, pair):
        kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        files = ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE")
        return (
            kept | dict.fromkeys(files, os.devnull) | {"AWS_EC2_METADATA_DISABLED": "true"} | pair
        )

    def objects(self, bucket):
        listed = self.store.s3.list_objects_v2(Bucket=bucket).get("Contents", [])
        return {entry["Key"] for entry in listed if PROBES not in entry["Key"]}


class Backups(threading.Thread):
    """One tool that changes its files and backs them up, again and again, and expires at times."""

    def __init__(self, tool, seed):
        super().__init__()
        self.tool = tool
        self.runs = 0
        self.longest = 0.0
        self.failed = []
        self.wrong = 0
        self.compared = 0
        self._source = tool.folder / "source"
        self._source.mkdir()
        self._random = random.Random(seed)
        self._over = threading.Event()
        self._fill("large", LARGE)

    def warm_up(self, fronts):
        """Make the first backup, after one whose upload in parts was spoiled."""
        self._try(self.tool.prepare())
        fronts.spoiled.add(self.tool.bucket)
        self.tool.run(self.tool.backup(self._source))
        fronts.spoiled.discard(self.tool.bucket)
        self._try(self.tool.backup(self._source))
        self._change()
        self._try(self.tool.backup(self._source))
        self._try(self.tool.expire())

    def run(self):
        while not self._over.wait(PAUSE):
            self._change()
            self._try(self.tool.backup(self._source))
            if self.runs % 3 == 0:
                self._try(self.tool.expire())
        self._compare()

    def end(self):
        self._over.set()
        self.join(120)

    def _change(self):
        for number in self._random.sample(range(20), 4):
            self._fill(f"file {number}", self._random.randrange(1, 50_000))
        if self.runs % 5 == 4:
            self._fill("large", LARGE + self.runs)
        next(self._source.glob("file*")).unlink()

    def _fill(self, name, size):
        (self._source / name).write_bytes(self._random.randbytes(size))

    def _try(self, commands):
        began = time.monotonic()
        done = self.tool.run(commands)
        self.longest = max(self.longest, time.monotonic() - began)
        self.runs += 1
        if done.returncode:
            self.failed.append(f"{done.args}: {done.returncode}\n{done.stdout}{done.stderr}")

    def _compare(self):
        """Back up and restore once more, and count the bytes that are not as they were."""
        self._try(self.tool.backup(self._source))
        self._try(self.tool.expire())
        target = self.tool.folder / "restored"
        target.mkdir()
        self._try(self.tool.restore(target))
        back = contents(self.tool.restored(target, self._source))
        for name, wanted in contents(self._source).items():
            found = back.pop(name, b"")
            self.compared += len(wanted)
            same = sum(a == b for a, b in zip(wanted, found, strict=False))
            self.wrong += max(len(wanted), len(found)) - same
        self.wrong += sum(map(len, back.values()))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.is_dir() else {}


@pytest.fixture
def store(programs, tmp_path):
    folder = tmp_path / "store"
    folder.mkdir()
    started = Ministack(programs, folder)
    yield started
    started.stop()


@pytest.fixture
def house(store, tmp_path):
    made = House(store, tmp_path)
    yield made
    made.fronts.stop()


def rotated(daemon, times):
    """Wait until every identity was rotated so many times more."""
    left = Counter(dict.fromkeys((recipe["user"] for recipe in recipes().values()), times))
    while +left:
        left[daemon.expect("rotated", within=120)["identity"]] -= 1


def all_went_on(backups):
    """Wait until each tool has ended two more runs: no run is left that began before this."""
    goals = [backup.runs + 2 for backup in backups]
    while any(b.runs < goal and b.is_alive() for b, goal in zip(backups, goals, strict=True)):
        time.sleep(0.1)


def test_five_tools_live_through_ten_rotations_each(house, capsys):
    house.provision()
    with house.running() as daemon:
        rotated(daemon, 1)
        assert daemon.stop() == 0
    backups = [Backups(tool, seed) for seed, tool in enumerate(house.tools.values())]
    together(lambda backup: backup.warm_up(house.fronts), backups)
    with house.running() as daemon:
        daemon.expect("ready")
        for backup in backups:
            backup.start()
        try:
            for _ in range(ROTATIONS):
                daemon.signal(signal.SIGUSR1)
                rotated(daemon, 1)
                all_went_on(backups)
                house.fronts.skipped += OVERLAP
        finally:
            for backup in backups:
                backup.end()
        assert daemon.stop() == 0

    accounts = {b.tool.name: house.fronts.accounts[b.tool.bucket] for b in backups}
    with capsys.disabled():
        print(table(backups, accounts))
    for backup in backups:
        account = accounts[backup.tool.name]
        assert backup.failed == []
        assert account.refused == []
        assert len(account.keys) >= ROTATIONS
        assert backup.compared > LARGE
        assert backup.wrong == 0
        granted = PRESETS[backup.tool.name]
        private = {"s3:PutObjectAcl"} if granted.private else set()
        allowed = {*granted.objects, *granted.bucket, *private}
        assert allowed - GIVEN_UP <= set(account.actions) <= allowed


def test_no_pair_can_do_more_than_its_tool_needs(house):
    house.provision()
    with house.running() as daemon:
        rotated(daemon, 1)
        assert daemon.stop() == 0
    precious = {"Key": "precious", "Body": b"precious"}
    for tool in house.tools.values():
        house.store.s3.put_object(Bucket=tool.bucket, **precious)
    for identity in load(house.config).identities:
        pair = identity.sinks[0].open(SinkContext(identity.name, lambda *_: None)).read()
        assert allowed_beyond(house, identity, pair) == []


def allowed_beyond(house, identity, pair):
    """Try what no backup needs; return what was not refused."""
    s3, iam = (house.store.client(s, (pair.key_id, pair.secret.reveal())) for s in ("s3", "iam"))
    own = {"Bucket": identity.policy.bucket}
    other = {"Bucket": next(t.bucket for t in house.tools.values() if t.bucket != own["Bucket"])}
    precious, user = {"Key": "precious"}, {"UserName": identity.user}
    everything = json.dumps({"Statement": {"Effect": "Allow", "Action": "*", "Resource": "*"}})
    suspended = {"VersioningConfiguration": {"Status": "Suspended"}}
    tries = {
        "list another bucket": lambda: s3.list_objects_v2(**other),
        "get from another bucket": lambda: s3.get_object(**other, **precious),
        "put into another bucket": lambda: s3.put_object(**other, **precious, Body=b""),
        "delete from another bucket": lambda: s3.delete_object(**other, **precious),
        "list all buckets": s3.list_buckets,
        "make a bucket": lambda: s3.create_bucket(Bucket="another-bucket"),
        "delete its bucket": lambda: s3.delete_bucket(**own),
        "change its bucket's policy": lambda: s3.put_bucket_policy(**own, Policy=everything),
        "switch versioning off": lambda: s3.put_bucket_versioning(**own, **suspended),
        "share an object": lambda: s3.put_object_acl(
            **own, **precious, ACL="bucket-owner-full-control"
        ),
        "make itself a key": lambda: iam.create_access_key(**user),
        "give itself a policy": lambda: iam.put_user_policy(
            **user, PolicyName="more", PolicyDocument=everything
        ),
    }
    allowed = [f"{identity.user}: {what}" for what, call in tries.items() if not refused(call)]
    s3.close()
    iam.close()
    return allowed


def refused(call):
    try:
        call()
    except ClientError as error:
        return error.response["Error"]["Code"] == "AccessDenied"
    return False


def test_append_only_keeps_every_backup_and_each_tool_to_its_bucket(store, tmp_path):
    def append_only(identity):
        identity["policy"]["preset"] = "append-only"

    house = House(store, tmp_path, append_only)
    try:
        house.provision()
        with house.running() as daemon:
            rotated(daemon, 1)
            assert daemon.stop() == 0
        together(lambda tool: refuses_to_delete(house, tool), house.tools.values())
        together(lambda tool: refuses_to_leave(house, tool), house.tools.values())
    finally:
        house.fronts.stop()


def refuses_to_delete(house, tool):
    source = tool.folder / "source"
    source.mkdir()
    (source / "file").write_bytes(b"precious")
    done = tool.run([*tool.prepare(), *tool.backup(source)])
    assert done.returncode == 0, done.stdout + done.stderr
    kept = house.objects(tool.bucket)
    account = house.fronts.accounts[tool.bucket]
    assert kept
    assert account.refused == []

    done = tool.run(tool.delete())

    assert done.returncode != 0 or (tool.name == "duplicity" and "DeleteObject" in done.stdout)
    assert account.refused
    assert house.objects(tool.bucket) >= kept


def refuses_to_leave(house, tool):
    names = list(house.tools)
    other = house.tools[names[names.index(tool.name) - 1]].bucket
    stranger = type(tool)(tool.folder, house.fronts.endpoint, other)

    assert stranger.run(stranger.backup(tool.folder / "source")).returncode != 0


def together(act, those):
    """Do the same with each of those, all at once."""
    with ThreadPoolExecutor(len(TOOLS)) as pool:
        list(pool.map(act, those))


def table(backups, accounts):
    lines = ["", "tool        runs  longest  pairs  requests  refused  bytes compared  wrong"]
    for b in backups:
        a = accounts[b.tool.name]
        lines.append(
            f"{b.tool.name:10} {b.runs:5} {b.longest:6.1f} s {len(a.keys):6} {a.requests:9}"
            f" {len(a.refused):8} {b.compared:15} {b.wrong:6}"
        )
    return "\n".join(lines)
