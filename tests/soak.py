"""The proofs for as long as there is time: `make soak MINUTES=240`.

Each has its share: the models are explored further, random schedules run from ever new seeds,
settings are spoiled at random for the loader, and the real daemon is killed again and again while
backups use its sinks. The first violation ends it, with its story. A core explores some 3,800
states a second (of replicas 750) or runs some 50 schedules, and two kill 80 daemons a minute:
1,000,000 states, 100,000 schedules, an hour of the loader and 10,000 kills take MINUTES=240.
"""

import argparse
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from model_check import MODELS, ModelCheck
from rekeyd.config import load
from rekeyd.errors import Misconfigured
from replica_check import ReplicaCheck
from test_config_corpus import cases
from world import Violation, proof

TESTS = Path(__file__).parent
SCHEDULES = 1000
"""Random schedules of one seed."""

STATES = 1_000_000
"""Most states of one model: they are kept in memory, where they take a gigabyte."""

SPOILERS = [*"\0\t\n :{}[]#&*!|>'\"%@`,-?~0é💥", "<<: *a\n", "&a ", "\r\n", "\ufeff"]
UNREADABLE = (b"\xff", b"\xed\xa0\x80", b"\xc3")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the first schedules")
    arguments = parser.parse_args()
    rows = []
    for soak, share in SHARES.items():
        found, tried = soak(arguments.minutes * 60 * share, arguments.seed)
        rows.append(
            (soak.__name__[1:], tried, "a violation: see above" if found else "0 violations")
        )
        if found:
            break
    print()
    for row in rows:
        print(f"{row[0]:10}  {row[1]:40}  {row[2]}")
    return int(any("a violation" in row[2] for row in rows))


def _models(seconds: float, _: int) -> tuple[bool, str]:
    checks = [check(model) for check in (ModelCheck, ReplicaCheck) for model in MODELS]
    states = 0
    for check in checks:
        name = check.report.model
        print(f"exploring {name}, for {seconds / len(checks):.0f} s at most", flush=True)
        try:
            report = check.run(STATES, seconds / len(checks))
        except Violation as violation:
            print(violation)
            return True, name
        print(f"  {report}", flush=True)
        states += report.states
    return False, f"{states:,} distinct states"


def _schedules(seconds: float, seed: int) -> tuple[bool, str]:
    end, done = time.monotonic() + seconds, 0
    while not done or time.monotonic() < end:
        print(f"{SCHEDULES} schedules, seed {seed + done}", flush=True)
        run = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-q", f"--hypothesis-seed={seed + done}"),
                *("-n", "0", "--timeout", "0", str(TESTS / "test_schedules.py")),
            ],
            env={**os.environ, "REKEYD_SCHEDULES": str(SCHEDULES)},
            cwd=TESTS.parent,
            check=False,
        )
        done += 1
        if run.returncode:
            return True, f"seed {seed + done - 1}"
    return False, f"{done * SCHEDULES:,} schedules"


def _settings(seconds: float, seed: int) -> tuple[bool, str]:
    end, tried, refused, dice = time.monotonic() + seconds, 0, 0, random.Random(seed)
    good = [path.read_text() for path in sorted((TESTS.parent / "config").glob("*.yaml"))]
    texts = good * 100 + [case.values[0] for case in cases()]
    print(f"spoiling settings for {seconds:.0f} s, seed {seed}", flush=True)
    with TemporaryDirectory() as folder:
        path = Path(folder, "rekeyd.yaml")
        while time.monotonic() < end:
            content = _spoiled(dice, dice.choice(texts))
            path.write_bytes(content)
            tried += 1
            try:
                load(path)
            except Misconfigured as error:
                refused += 1
                lines = str(error).splitlines()
                if all(
                    re.fullmatch(rf"{path}:\d+: .+", line) and line.isprintable() for line in lines
                ):
                    continue
                print(f"no clear lines: {error}\n{content!r}")
                return True, f"{tried:,} settings"
            except Exception as error:  # noqa: BLE001 (whatever it is, it is the finding)
                print(f"{type(error).__name__}: {error}\n{content!r}")
                return True, f"{tried:,} settings"
    return False, f"{tried:,} spoiled settings, {refused:,} refused"


def _kills(seconds: float, seed: int) -> tuple[bool, str]:
    print(f"killing the daemon for {seconds:.0f} s, seed {seed}", flush=True)
    run = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-m", "e2e", "--timeout", "0"),
            *(str(TESTS / "e2e/test_under_fire.py"), "-k", "kills"),
        ],
        env={**os.environ, "REKEYD_SEED": str(seed), "REKEYD_KILLS_SECONDS": str(seconds)},
        cwd=TESTS.parent,
        check=False,
    )
    told = [one["met"] for one in proof.kept("fire") if "kills" in one["name"]]
    return bool(run.returncode), told[0] if told else "no kills"


def _spoiled(dice: random.Random, text: str) -> bytes:
    for _ in range(dice.randint(1, 5)):
        at, length = dice.randrange(len(text) + 1), dice.choice((0, 0, 1, 5, 40))
        put = dice.choice((dice.choice(SPOILERS), text[at : at + dice.randint(0, 60)], ""))
        text = text[:at] + put + text[at + length :]
    content = text.encode()
    if dice.random() < 0.05:
        at = dice.randrange(len(content) + 1)
        content = content[:at] + dice.choice(UNREADABLE) + content[at:]
    return content


SHARES = {_models: 0.04, _schedules: 0.18, _settings: 0.25, _kills: 0.53}
"""Of the time."""


if __name__ == "__main__":
    sys.exit(main())
