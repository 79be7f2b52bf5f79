"""The real process meets the World of the proofs: fronts that tell late and flip back, stale lists.

Each call that it can make over the network goes wrong once in each way that it can, or the process
is killed at it, before it takes effect or after. The checker of the proofs looks at every effect.
"""

import signal
import threading
import time
from datetime import timedelta

import pytest
import yaml
from fire import seeded

from processes import Daemon
from world import POSSIBLE, Delays, Dice, Fault, World, every, proof
from world.served import PROBES, SINKS, ServedWorlds

pytestmark = pytest.mark.e2e

FRONTS = Delays.all(timedelta(seconds=2))
QUICK = {"every": "12s", "overlap": "1s", "grace": "1s", "settle": "3s"}
REST = QUICK | {"every": "30d"}
TIMING = every(*(timedelta(seconds=number) for number in (12, 1, 1, 3)))
"""The same for the checker."""

PATIENCE = 400.0

RETRIED = 3
"""Times that botocore sends what can be sent again: it all goes wrong."""

CHANGING = ("iam.create_key", "iam.set_active", "iam.delete_key", "sink.put")
SIMPLE = {
    *(Fault.CRASH_BEFORE, Fault.CRASH_COMMITTED),
    *(Fault.LOST_BEFORE, Fault.DENIED, Fault.UNKNOWN_KEY),
}
"""What calls that change nothing are spared beyond: each fault takes a user and half a minute."""

ON_THE_WIRE = [
    (call, fault)
    for call, faults in POSSIBLE.items()
    for fault in faults
    if call.startswith(("iam.", "consumer.", "sink.")) and call != "iam.caller_is_root"
    if call in CHANGING or fault in SIMPLE
]


def times(call, fault):
    return 1 if fault.kills or call == "iam.create_key" or fault is Fault.SLOW else RETRIED


class House:
    """The daemon that looks after all users, started again whenever it is killed."""

    def __init__(self, folder, users):
        self.kills = 0
        self.log = ""
        self._path = folder / "rekeyd.yaml"
        self._state = folder / "state"
        self._users = users
        self._over = threading.Event()
        worlds = {
            user: World(
                sinks={user: True}, timing=TIMING, delays=FRONTS, chooser=Dice(seeded() + number)
            )
            for number, user in enumerate(users)
        }
        self.served = ServedWorlds(worlds, self._state)
        seal = folder / "seal.key"
        seal.touch(mode=0o600)
        seal.write_bytes(bytes(range(32)))
        self.refused, self.backups = [], 0
        self._threads = [threading.Thread(target=self._keep), threading.Thread(target=self._use)]

    def configure(self, times):
        identities = [
            {
                "user": user,
                "policy": {"name": "S3BackupPolicy", "bucket": PROBES, "prefix": user},
                "rotation": times,
                "sinks": [{"type": "s3_object", "bucket": SINKS, "key": user}],
            }
            for user in self._users
        ]
        settings = {
            "state": str(self._state),
            "seal": f"file:{self._path.parent}/seal.key",
            "listen": "none",
            "log": {"format": "json", "level": "info"},
            "aws": {"region": "us-east-1", "endpoint_url": self.served.endpoint},
            "identities": identities,
        }
        self._path.write_text(yaml.safe_dump(settings))

    def __enter__(self):
        self.configure(QUICK)
        self.served.killed = self._killed
        self.daemon = Daemon(self._path)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        for thread in self._threads:
            thread.join()
        self.daemon.kill()
        self.log += self.daemon.log
        self.served.stop()

    def _killed(self):
        self.kills += 1
        self.daemon.process.kill()

    def _keep(self):
        while not self._over.wait(0.02):
            if self.daemon.process.poll() is not None:
                assert self.daemon.ended() == -signal.SIGKILL
                self.log += self.daemon.log
                self.daemon = Daemon(self._path)

    def reload(self):
        """Have the daemon read its configuration, once it listens to signals."""
        daemon = self.daemon
        while all(told["event"] != "ready" for told in daemon.events):
            time.sleep(0.05)
            daemon = self.daemon
        daemon.signal(signal.SIGHUP)

    def _use(self):
        """Read each sink and sign with its pair, again and again."""
        while not self._over.wait(0.3):
            with self.served.still() as worlds:
                for user, served in worlds.items():
                    if served.world.truth.sinks[user].pair:
                        self.backups += 1
                        if not served.world.backup(user):
                            self.refused.append(user)

    def until(self, what, missing):
        """Wait until nothing is missing any more, and nothing was ever violated."""
        end = time.monotonic() + PATIENCE
        while True:
            assert all(thread.is_alive() for thread in self._threads), self.daemon.log
            with self.served.still() as worlds:
                found = {user: served.world.checker.found for user, served in worlds.items()}
                left = {user: told for user, one in worlds.items() if (told := missing(one))}
            assert not any(found.values()), {user: told for user, told in found.items() if told}
            if not left:
                return
            assert time.monotonic() < end, f"{what} not within {PATIENCE} s: {self._story(left)}"
            time.sleep(0.5)

    def _story(self, users):
        lines = (self.log + self.daemon.log).splitlines()
        stories = {user: [line for line in lines if f'"{user}"' in line] for user in users}
        return "".join(
            f"\n{told}\n" + "\n".join([*stories[user][-8:], *self.served.worlds[user].world.story])
            for user, told in users.items()
        )


def unheld(served):
    return not served.world.truth.sinks[served.user].pair


def test_every_call_goes_wrong_in_every_way(aws, tmp_path):
    users = [f"user{number}" for number in range(len(ON_THE_WIRE))]
    with proof.counting("fire", "the World, served") as counted:
        with House(tmp_path, users) as house:
            house.until("first pairs", unheld)
            with house.served.still() as worlds:
                for (call, fault), served in zip(ON_THE_WIRE, worlds.values(), strict=True):
                    served.arm(call, fault, times(call, fault))
            house.until("faults met", lambda served: not served.met and "not met")
            house.configure(REST)
            house.daemon.signal(signal.SIGHUP)
            house.until("rest", lambda served: served.world.l1())
            made = sum(len(served.world.truth.keys) for served in house.served.worlds.values())
        assert house.refused == []
        assert house.kills == sum(fault.kills for _, fault in ON_THE_WIRE)
        assert '"event": "fault"' not in house.log
        met = f"{len(ON_THE_WIRE)} faults over HTTP, {house.kills} of them kills"
        counted.update(met=met, rotations=made - len(users), calls=house.backups)
