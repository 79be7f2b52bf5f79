"""A whole life, from provision to deletion, on stores that speak IAM and that nobody here wrote."""

import json
import os
import signal
import threading
import time
from configparser import ConfigParser
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

import pytest
import yaml
from botocore.exceptions import BotoCoreError, ClientError
from stores import BUCKET, Ministack, Moto, SeaweedFS

from processes import Proxy, command, running

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

ROTATIONS = 10
USER = {"user": "backup_user", "group": "backup_group"}
POLICY = {"name": "S3BackupPolicy", "bucket": BUCKET}
TIMES = {"every": "30d", "overlap": "2s", "grace": "1s", "settle": "1s"}
STORES = {"moto": Moto, "ministack": Ministack, "seaweedfs": SeaweedFS}


@pytest.fixture(params=STORES)
def store(request, tmp_path):
    given = () if request.param == "moto" else (request.getfixturevalue("programs"), tmp_path)
    started = STORES[request.param](*given)
    yield started
    started.stop()


class House:
    """A configuration for one store, and the commands on it."""

    def __init__(self, store, folder, **aws):
        self.store = store
        self.sink = folder / "credentials"
        self.path = folder / "rekeyd.yaml"
        self.profiles = os.devnull
        self._plain = {
            "state": str(folder / "state"),
            "listen": "none",
            "log": {"format": "json", "level": "info"},
            "aws": store.settings | aws,
            "identities": [
                {
                    **USER,
                    "policy": POLICY,
                    "rotation": TIMES,
                    "sinks": [
                        {"type": "aws_credentials", "path": str(self.sink), "profile": "backup"}
                    ],
                }
            ],
        }
        self.configure()

    def configure(self, *, without=None, **aws):
        """Write it with other `aws` settings, those that are None left out."""
        known = {name: value for name, value in (self._plain["aws"] | aws).items() if value}
        [plain] = self._plain["identities"]
        identity = {name: value for name, value in plain.items() if name != without}
        self.path.write_text(yaml.safe_dump(self._plain | {"aws": known, "identities": [identity]}))

    def serve(self, houses):
        """Write a configuration with the identity of every house, each with its own store."""
        profiles = ConfigParser()
        identities = []
        for name, house in houses.items():
            pair = house.store.rotator
            profiles[name] = {setting.lower(): value for setting, value in pair.items()}
            [plain] = house._plain["identities"]
            aws = house.store.settings | {"profile": name}
            identities.append(plain | {"name": name, "aws": aws})
        self.profiles = self.path.parent / "profiles"
        with self.profiles.open("w") as file:
            profiles.write(file)
        rest = {name: value for name, value in self._plain.items() if name != "aws"}
        self.path.write_text(yaml.safe_dump(rest | {"identities": identities}))

    def rekeyd(self, *arguments, by=None):
        environment = self.environment | (by or self.store.rotator)
        return command(["-c", self.path, *arguments], environment)

    def running(self):
        return running(self.path, self.environment | self.store.rotator)

    @property
    def environment(self):
        kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        return kept | {
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": str(self.profiles),
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def held(self):
        """Return the pair that the sink holds."""
        file = ConfigParser()
        file.read(self.sink)
        return file["backup"]["aws_access_key_id"], file["backup"]["aws_secret_access_key"]


class Backup(threading.Thread):
    """A client that reads the sink before each round, and puts, gets and deletes without pause."""

    def __init__(self, house):
        super().__init__()
        self.rounds = 0
        self.refused = []
        self.pairs = []
        self._house = house
        self._over = threading.Event()
        self._client = None

    def run(self):
        while not self._over.is_set():
            pair = self._house.held()
            if pair not in self.pairs:
                self._change_to(pair)
            try:
                self._round()
            except (ClientError, BotoCoreError) as error:
                self.refused.append(error)
        self._client.close()

    def _change_to(self, pair):
        if self._client:
            self._client.close()
        self.pairs.append(pair)
        self._client = self._house.store.client("s3", pair)

    def _round(self):
        where = {"Bucket": BUCKET, "Key": f"backup/{self.rounds % 10}"}
        content = str(self.rounds).encode()
        self._client.put_object(**where, Body=content)
        assert self._client.get_object(**where)["Body"].read() == content
        self._client.delete_object(**where)
        self.rounds += 1

    def end(self):
        self._over.set()
        self.join(30)


def provisioned(store, folder):
    """Have the store know the backup user and the rotator, as an administrator would."""
    house = House(store, folder)
    store.make_rotator(json.loads(house.rekeyd("policy", "rotator", by=store.admin).stdout))
    done = house.rekeyd("provision", by=store.admin)
    assert done.returncode == 0, done.stderr
    return house


def alone(store, house):
    """Wait until the pair that the sink holds is the user's only key."""
    deadline = time.monotonic() + 30
    while (keys := store.keys()) != {house.held()[0]: "Active"}:
        assert time.monotonic() < deadline, f"{keys}, held {house.held()[0]}"
        time.sleep(0.05)


def test_a_whole_life_without_a_refused_request(store, tmp_path):
    house = provisioned(store, tmp_path)
    again = house.rekeyd("provision", "--dry-run", by=store.admin)
    assert again.returncode == 0, again.stdout + again.stderr
    checked = house.rekeyd("check")
    assert checked.returncode == 0, checked.stdout

    with house.running() as daemon:
        daemon.expect("rotated")
        alone(store, house)
        backup = Backup(house)
        backup.start()
        try:
            for _ in range(ROTATIONS):
                daemon.signal(signal.SIGUSR1)
                daemon.expect("rotated")
                alone(store, house)
        finally:
            backup.end()
        assert daemon.stop() == 0

    assert backup.refused == []
    assert len(backup.pairs) == ROTATIONS + 1
    assert backup.rounds > 10 * ROTATIONS
    assert store.keys() == {house.held()[0]: "Active"}
    told = house.rekeyd("check").stdout
    assert told.count("\n! ") == len(store.lacks)
    assert all(f"\n! {gap}" in told for gap in store.lacks)
    for dead in backup.pairs[:-1]:
        with pytest.raises(ClientError) as refused:
            store.client("s3", dead).put_object(Bucket=BUCKET, Key="x", Body=b"")
        assert refused.value.response["Error"]["Code"] == "InvalidAccessKeyId"


def test_one_daemon_serves_a_user_on_each_of_three_stores(programs, tmp_path):
    made = [(name, tmp_path / name) for name in STORES]
    for _, folder in made:
        folder.mkdir()
    with ExitStack() as stack:
        houses = {}
        for name, folder in made:
            store = STORES[name](*(() if name == "moto" else (programs, folder)))
            stack.callback(store.stop)
            houses[name] = provisioned(store, folder)
        together = houses["moto"]
        together.serve(houses)

        checked = together.rekeyd("check")
        assert checked.returncode == 0, checked.stdout
        with together.running() as daemon:
            for _ in range(2):
                for _ in houses:
                    daemon.expect("rotated")
                for house in houses.values():
                    alone(house.store, house)
                daemon.signal(signal.SIGUSR1)
            assert daemon.stop() == 0


@pytest.fixture
def seaweedfs(programs, tmp_path):
    started = SeaweedFS(programs, tmp_path)
    yield started
    started.stop()


@pytest.fixture
def ministack(programs, tmp_path):
    started = Ministack(programs, tmp_path)
    yield started
    started.stop()


@contextmanager
def losing_a_mint(house):
    """Run the daemon through a proxy to IAM that loses the answer to its first CreateAccessKey."""
    proxy = Proxy(urlsplit(house.store.settings["endpoint_url"]).port)
    house.configure(endpoint_url_iam=proxy.endpoint)
    proxy.lost.add("CreateAccessKey")
    try:
        with house.running() as daemon:
            daemon.expect("retry", rule="mint")
            proxy.mend()
            yield daemon
            assert daemon.stop() == 0
    finally:
        proxy.stop()
    assert proxy.calls.count("CreateAccessKey") == 2


def test_check_finds_a_missing_sts_and_says_what_to_set(seaweedfs, tmp_path):
    house = provisioned(seaweedfs, tmp_path)
    house.configure(endpoint_url_sts=None)

    checked = house.rekeyd("check")

    assert checked.returncode == 75
    assert "could not ask who it signs as" in checked.stdout
    assert "for a store without STS: `aws.endpoint_url_sts: none`" in checked.stdout


def test_a_user_that_was_made_by_hand_is_rotated_without_a_group(seaweedfs, tmp_path):
    rights = {"Effect": "Allow", "Action": "s3:*", "Resource": f"arn:aws:s3:::{BUCKET}/*"}
    seaweedfs.iam.create_user(UserName="backup_user")
    seaweedfs.iam.put_user_policy(
        UserName="backup_user",
        PolicyName="by-hand",
        PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [rights]}),
    )
    house = House(seaweedfs, tmp_path)
    house.configure(without="group")

    assert "provisioned elsewhere" in house.rekeyd("provision").stdout
    held = set()
    for _ in range(2):
        rotated = house.rekeyd("rotate")
        assert rotated.returncode == 0, rotated.stdout + rotated.stderr
        held.add(house.held()[0])

    assert len(held) == 2
    assert seaweedfs.keys() == dict.fromkeys(held, "Active")


def test_a_key_without_a_date_that_a_lost_mint_may_have_left_is_a_persons_to_judge(
    seaweedfs, tmp_path
):
    house = provisioned(seaweedfs, tmp_path)

    with losing_a_mint(house) as daemon:
        held = daemon.expect("hold", reason="interrupted")
        [left] = seaweedfs.keys()
        assert f"…{left[-4:]}" in held["what"]
        assert seaweedfs.keys() == {left: "Active"}

        seaweedfs.iam.delete_access_key(UserName="backup_user", AccessKeyId=left)
        daemon.signal(signal.SIGUSR1)
        daemon.expect("rotated")
    assert seaweedfs.keys() == {house.held()[0]: "Active"}


def test_a_key_with_a_date_that_a_lost_mint_left_is_cleared_away(ministack, tmp_path):
    house = provisioned(ministack, tmp_path)

    with losing_a_mint(house) as daemon:
        [left] = ministack.keys()
        daemon.expect("rotated")
        alone(ministack, house)
    assert house.held()[0] != left
