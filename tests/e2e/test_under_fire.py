"""The real process under fire: killed, stopped, cut off, without a disk, with clocks that jump.

Backups use every sink without pause meanwhile. Whatever happens, none of their calls is refused,
and all comes to rest by itself when the fire ends: one key a user, Active, held by its sink.
"""

import os
import signal
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from fire import (
    CHANGES,
    QUICK,
    BadNetwork,
    Household,
    kill_again_and_again,
    seeded,
    small_disk,
)

from processes import EmbeddedAws

pytestmark = pytest.mark.e2e

KILLS = 210
SOAK = float(os.environ.get("REKEYD_KILLS_SECONDS", "0"))
"""Seconds of kills, instead of their usual number: `make soak` says for how long."""

NAMES = ("ada", "bert", "cleo", "dora")

STOPPED = 65.0
"""Seconds: longer than the time-out of any call, and than a look justifies a step."""

YEARS = 10 * 365 * 86400

FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"


@pytest.fixture
def house(aws: EmbeddedAws, tmp_path: Path) -> Household:
    return Household(aws, tmp_path, NAMES, seeded())


def test_kills_at_random_instants(house):
    with house.lived_in():
        number, seconds = (10**9, SOAK) if SOAK else (KILLS, 600)
        killed = kill_again_and_again(house, number, seconds, seeded())
        house.settles()
    house.judge(f"{killed} kills", least=killed // 50)


def test_a_bad_network(house):
    network = BadNetwork(house.fronts.port, seeded())
    with house.lived_in():
        house.endpoint = network.endpoint
        house.configure(QUICK)
        with house.daemon() as daemon:
            time.sleep(60)
            network.honest = True
            house.settles(daemon)
        network.stop()
    met = {kind: network.met[kind] for kind in network.KINDS}
    house.judge(f"faults {met}", least=len(NAMES))
    assert all(met.values()), met


def test_processes_that_are_stopped_past_every_deadline(aws, tmp_path):
    """What is on its way is done, its answer is lost, and the looks behind it are long stale."""
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
    for action, house in zip(sorted(CHANGES), houses, strict=True):
        house.judge(f"stopped for {STOPPED:.0f} s in {action}", least=1)


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
    with small_disk(house.state, 640), house.lived_in():
        for but in (0, 8, 16, 24, 32, 48):
            with house.daemon() as daemon:
                daemon.expect("ready")
                fill(house.state, but)
                time.sleep(4)
                (house.state / "filler").unlink()
                daemon.expect("rotated", within=40)
                daemon.stop()  # so that the next one's log begins at its first byte
                failed += "disk is full" in daemon.log
        house.settles()
    house.judge(f"a full disk, {failed} times", least=len(NAMES))
    assert failed >= 2


def test_clocks_that_jump(house, tmp_path):
    now = tmp_path / "now"
    environment = {
        "LD_PRELOAD": FAKETIME,
        "FAKETIME_TIMESTAMP_FILE": str(now),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    with house.lived_in():
        now.write_text("+0")
        with house.daemon(environment) as daemon:
            daemon.expect("ready")
            time.sleep(2)
            for jump in (3600, -3600, YEARS, -YEARS, 0):
                now.write_text(f"{jump:+d}")
                daemon.expect("clock")
                for _ in NAMES:
                    daemon.expect("rotated", within=40)
            house.settles(daemon)
    house.judge("clocks that jump by an hour and by ten years, both ways", least=4 * len(NAMES))
