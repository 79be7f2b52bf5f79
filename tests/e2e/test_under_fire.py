"""The real process under fire: killed, stopped, cut off, without a disk, with clocks that jump.

Backups use every sink all the time. Whatever happens, none of their calls is refused,
and all comes to rest by itself when the fire ends: one key a user, Active, held by its sink.
"""

import os
import random
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import count
from math import inf
from pathlib import Path

import pytest
from fire import (
    CHANGES,
    QUICK,
    BadNetwork,
    Household,
    judge,
    kill_again_and_again,
    seeded,
    small_disk,
)

from processes import Daemon, EmbeddedAws
from world import proof

pytestmark = pytest.mark.e2e

KILLS = 210
SOAK = float(os.environ.get("REKEYD_KILLS_SECONDS", "0"))
"""Seconds of kills, instead of their usual number: `make soak` says for how long."""

NAMES = ("ada", "bert", "cleo", "dora")

STOPPED = 65.0
"""Seconds: longer than the time-out of any call, and than a look justifies a step."""

YEARS = 10 * 365 * 86400
JUMPS = (3600, -3600, YEARS, -YEARS, 0)

FLIPS = 12

CALLS = CHANGES | {"ListAccessKeys", "GetUser", "GetAccessKeyLastUsed", "GetCallerIdentity"}
CALLS |= {"PUT", "GET", "DELETE"}
"""What a rotation asks of AWS."""

FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"


@pytest.fixture
def house(aws: EmbeddedAws, tmp_path: Path) -> Household:
    return Household(aws, tmp_path, NAMES, seeded())


@pytest.fixture
def houses(aws: EmbeddedAws, tmp_path: Path) -> Iterator[list[Household]]:
    """Have two daemons, so that both cores are in use, each with half of the identities."""
    with ExitStack() as stack:
        both = []
        for names in (NAMES[::2], NAMES[1::2]):
            folder = tmp_path / names[0]
            folder.mkdir()
            both.append(Household(aws, folder, names, seeded()))
            stack.enter_context(both[-1].lived_in())
        yield both


def test_kills_at_random_instants(houses):
    each, seconds = (10**9, SOAK) if SOAK else (KILLS // len(houses), inf)

    def kill(house: Household, seed: int) -> int:
        killed = kill_again_and_again(house, each, seconds, seed)
        house.settles()
        return killed

    with proof.counting("fire", "kills at random instants") as counted:
        with ThreadPoolExecutor() as pool:
            killed = sum(pool.map(kill, houses, count(seeded())))
        counted.update(judge(houses, f"{killed} kills", least=killed // 20))


@pytest.fixture
def network(house: Household) -> Iterator[BadNetwork]:
    started = BadNetwork(house.fronts.port, seeded())
    yield started
    started.stop()


def test_a_bad_network(house, network):
    with proof.counting("fire", "a bad network") as counted:
        with house.lived_in():
            house.endpoint = network.endpoint
            house.configure(QUICK)
            with house.daemon() as daemon:
                until = time.monotonic() + 300
                while not network.has_met(CALLS):
                    assert time.monotonic() < until, network.met
                    time.sleep(0.1)
                house.settles(daemon)
        kinds, calls = len(network.KINDS), len(network.met)
        met = f"{network.met.total()} faults: each of {kinds} kinds on each of {calls} calls"
        counted.update(judge([house], met, least=len(NAMES)))


def test_processes_that_are_stopped_past_every_deadline(aws, tmp_path):
    """What is on its way is done, its answer is lost, and the looks behind it are long stale."""
    with proof.counting("fire", "processes stopped in a call") as counted:
        with ExitStack() as stack:
            houses, daemons, gates = [], [], []
            for number, action in enumerate(sorted(CHANGES)):
                folder = tmp_path / action
                folder.mkdir()
                house = Household(aws, folder, [f"user{number}"], seeded())
                stack.enter_context(house.lived_in())
                daemons.append(stack.enter_context(house.daemon()))
                houses.append(house)
                gates.append(house.fronts.hold(action))
            for daemon, gate in zip(daemons, gates, strict=True):
                assert gate.arrived.wait(20)
                daemon.signal(signal.SIGSTOP)
                gate.opened.set()
            time.sleep(STOPPED)
            for house, daemon in zip(houses, daemons, strict=True):
                house.fronts.mend()
                daemon.signal(signal.SIGCONT)
                house.settles(daemon)
        met = f"{len(houses)} stops for {STOPPED:.0f} s"
        for house in houses:
            judge([house], met, least=1)
        counted.update(judge(houses, met, least=len(houses)))


def fill(folder: Path, but: int) -> None:
    """Leave so many KiB free."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            file.truncate(max(0, filler.stat().st_size - but * 1024))


def test_a_disk_that_fills_at_every_write(house):
    """Whatever is left, from nothing to enough, some write of custody is the first that fails."""
    failed = 0
    with proof.counting("fire", "a full disk") as counted:
        with small_disk(house.state, 640), house.lived_in():
            for but in range(0, 52, 4):
                with house.daemon() as daemon:
                    daemon.expect("ready")
                    fill(house.state, but)
                    time.sleep(4)
                    (house.state / "filler").unlink()
                    daemon.expect("rotated", within=40)
                    daemon.stop()  # so that the next one's log begins at its first byte
                    failed += "disk is full" in daemon.log
            house.settles()
        assert failed >= 4
        counted.update(judge([house], f"{failed} times full", least=len(NAMES)))


def test_clocks_that_jump(house, tmp_path):
    now = tmp_path / "now"
    environment = {
        "LD_PRELOAD": FAKETIME,
        "FAKETIME_TIMESTAMP_FILE": str(now),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    with proof.counting("fire", "clocks that jump") as counted:
        with house.lived_in():
            now.write_text("+0")
            with house.daemon(environment) as daemon:
                daemon.expect("ready")
                time.sleep(2)
                for jump in JUMPS:
                    now.write_text(f"{jump:+d}")
                    daemon.expect("clock")
                    for _ in NAMES:
                        daemon.expect("rotated", within=40)
                house.settles(daemon)
        met = "jumps by an hour and by ten years, both ways"
        counted.update(judge([house], met, least=4 * len(NAMES)))


def test_a_bit_that_flips(aws, tmp_path):
    """In the database: what is read is true, or it is refused and nothing is touched."""
    house, dice, refused = Household(aws, tmp_path, NAMES[:1], seeded()), random.Random(seeded()), 0
    database = house.state / "rekeyd.sqlite"
    with proof.counting("fire", "a flipped bit") as counted:
        with house.lived_in():
            for _ in range(FLIPS):
                with house.daemon() as daemon:
                    daemon.expect("ready")
                    house.changes(within=3)
                    daemon.stop()  # so that all is in the database
                whole = database.read_bytes()
                content = bytearray(whole)
                used = [at for at, byte in enumerate(content) if byte]
                content[dice.choice(used)] ^= 1 << dice.randrange(8)
                database.write_bytes(content)
                before = aws.keys(house.names[0]), house.held(house.names[0])
                with house.daemon() as daemon:
                    until = time.monotonic() + 30
                    while not (given_up(daemon) or '"event": "record"' in daemon.log):
                        assert time.monotonic() < until, daemon.log
                        time.sleep(0.05)
                if given_up(daemon):
                    assert (aws.keys(house.names[0]), house.held(house.names[0])) == before
                    refused += 1
                    house.logs.pop()
                    database.write_bytes(whole)
            house.settles()
        assert refused
        counted.update(judge([house], f"{FLIPS} flips, {refused} refused", least=1))


def given_up(daemon: Daemon) -> bool:
    """Whether it ended by itself, as one that cannot use its state, or touches nothing of it."""
    code = daemon.process.poll()
    assert code in {None, -signal.SIGKILL, 78}, daemon.log
    return code == 78 or "is damaged, so rekeyd touches nothing of it" in daemon.log
