"""Runs the proving tests, and writes what they counted into tests/PROOF.md: `make proof`.

    python tests/write_proof.py [--show]

`--show` runs and writes nothing, but prints the totals of what was last counted of this program.
"""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from world import proof
from world.picture import picture

TARGET = Path(__file__).parent / "PROOF.md"

HEAD = """\
# What was tried, and what was found

Written by `make proof` after a run in which every proving test passed; edit
[write_proof.py](write_proof.py), not this. The
invariants S1 to S4 and L1 stand in [daemon/rekeyd/model.py](../daemon/rekeyd/model.py).
Everything below runs the production code (`look`, `plan`, `perform`, the loop) in a fake AWS,
[tests/world](world/), that is less kind than the real one: every front shows old truths as long
as it may, answers are lost before and after they take effect, and people interfere. The
invariants are checked at every effect, by one who knows the truth.

**Violations: 0.** With one, this page is not written.
"""

PARTS = {
    "crash": ("pairs of faults", "pairs"),
    "points": ("ways in which a call can go wrong, each struck", "points"),
    "back": ("states that went back to an earlier one", "states"),
    "outages": ("outages of an hour", "outages"),
    "model": ("distinct states of the model check", "states"),
    "replicas": ("distinct states of replicas", "states"),
    "schedules": ("random schedules", "schedules"),
    "seeded": ("seeded bugs, each caught", None),
}
"""What the proofs count: its meaning, and where in each run it stands, or None for the runs."""

NOT_COUNTED = "Nothing yet.\n"


def main() -> int:
    if sys.argv[1:] == ["--show"]:
        show()
        return 0
    for part in PARTS:
        shutil.rmtree(proof.FOLDER / part, ignore_errors=True)
    command = [sys.executable, "-m", "pytest", "-n", "2", "--dist", "worksteal", "-m", "proof"]
    if subprocess.run(command, check=False, cwd=TARGET.parents[1]).returncode:
        print("a proof failed, so tests/PROOF.md stays as it was", file=sys.stderr)
        return 1
    TARGET.write_text(HEAD + "".join(chapter() for chapter in CHAPTERS))
    return 0


def show() -> None:
    """Print the totals of what was counted last."""
    for part, (name, counted) in PARTS.items():
        if runs := proof.kept(part):
            print(f"  {_sum(runs, counted) if counted else len(runs):14,}  {name}")
    for run in proof.kept("fire"):
        rotations, calls = (_cell(run.get(what)) for what in ("rotations", "calls"))
        spared = f"{rotations:>5} rotations, {calls:>7} calls of backups, 0 refused"
        print(f"  {run['name']:28}{spared}  {run['met']}")


def _crash() -> str:
    runs = proof.kept("crash")
    return f"""
## Two faults anywhere: {_total("crash", "pairs"):,} pairs

Each rotation below was run with every single fault ({_total("crash", "singles"):,}) and with
every pair of faults: every call that the program makes x (killed before it, killed when it took
effect, answer lost before and after, cut short, throttled, refused, disk full, stopped for an
hour, ...), then the same once more, for every call in the rest of that look
({_total("crash", "at_once"):,} of the pairs) and in every later one, until it has come to
rest. A killed daemon is started again at once, and hours later. To be killed after the answer is
to be killed before the next call. The clock of its machine is wrong by ten years. Faults of which
the program is told the same, as a dropped connection and a throttled call, count each and are run
once; that they lead to one place is shown with all single faults and all pairs in one look.

{_table(runs, singles="single faults", pairs="pairs", at_once="in one look", states="states")}
Again: `pytest tests/test_crash.py`; nothing in it is random.
"""


def _points() -> str:
    [points] = proof.kept("points")
    return f"""
The source of the program has {points["places"]} calls of its ports, which can go wrong in
{points["points"]} ways together; each was struck: 100 %. They are read from the source, so a new
one that nobody enumerated fails the test.
"""


def _back() -> str:
    return f"""
## A state that went back: {_total("back", "states"):,} times

At each look of these rotations the state becomes each that was saved before, as by an old backup or
by a bit that flipped in its log. Nothing is harmed: it comes to rest, or to a hold
({_total("back", "holds"):,} times).

Again: `pytest tests/test_crash.py -k went_back`.
"""


def _outages() -> str:
    return f"""
## An hour without something: {_total("outages", "outages"):,} times

IAM, what backups use, the sinks, the disk, the network, or the right to one of them is missing for
an hour, from each call of a rotation on. When the hour is over, the rotation ends by itself: within
45 minutes, or 90 where a new pair was refused all the time and is replaced.

Again: `pytest tests/test_outages.py`.
"""


def _model() -> str:
    runs = proof.kept("model")
    return f"""
## A model check of the code itself: {_total("model", "states"):,} distinct states

Every state that the program and its world can reach is explored in the order of mischief: a
fault, an old truth shown, a person's deed (switch, delete or create a key, overwrite or break a
sink, any command of rekeyd, the user made again), a daemon that is down. From each the calm way
leads to rest, or to a hold that a person has caused.

{_table(runs, states="states", moves="moves", mischief="all within so many pieces of mischief")}
Again, and further: `python tests/model_check.py --states 1000000`; nothing in it is random.
"""


def _replicas() -> str:
    runs = proof.kept("replicas")
    return f"""
## Replicas on one state: {_total("replicas", "states"):,} distinct states

A process is stopped before an effect, for minutes or hours, while another goes on and a person asks
for something; when it wakes it meets another fault, or is killed. So were processes
{_total("replicas", "stops"):,} times.

{_table(runs, states="states", moves="moves", stops="times stopped")}
Again, and further: `python tests/replica_check.py --states 100000`.
"""


def _schedules() -> str:
    runs = proof.kept("schedules")
    return f"""
## Random schedules: {_total("schedules", "schedules"):,}

Configuration, people and what they ask for, faults, restarts, clocks that jump, sinks that come and
go, fronts of different delays; then faults cease, and L1 must hold. They are those of
{", ".join(run["name"] for run in runs)}. The schedules of one again:
`pytest -n 0 tests/test_schedules.py --hypothesis-seed=SEED`.
"""


def _seeded() -> str:
    runs = proof.kept("seeded")
    return f"""
## Would the checks notice? {len(runs)} of {len(runs)} seeded bugs caught

{_table(runs, caught_by="caught by", found="what it said")}
Again: `pytest tests/test_seeded.py`.
"""


def _fire() -> str:
    runs = proof.kept("fire")
    table = _table(runs, met="what it met", rotations="rotations", calls="calls of backups")
    return f"""
## The real process under fire

The daemon itself, against an embedded AWS that tells late, while backups use its sinks without
pause. Of their calls 0 were refused, and one key a user is left. Here is what was last counted of
this very source; [tests/README.md](README.md) says what each demands.

{table if runs else NOT_COUNTED}
Again: `make e2e`, then `make proof`. The seed stands in [e2e/fire.py](e2e/fire.py), and
`REKEYD_SEED` is another; instants vary anyway.
"""


def _picture() -> str:
    return f"""
## One faulted rotation in time

CreateAccessKey takes effect, and the process is killed before it reads the answer.

```text
{picture()}
```
"""


CHAPTERS = (
    _crash,
    _points,
    _back,
    _outages,
    _model,
    _replicas,
    _schedules,
    _seeded,
    _fire,
    _picture,
)


def _total(part: str, what: str) -> int:
    return _sum(proof.kept(part), what)


def _sum(runs: list[dict[str, Any]], what: str) -> int:
    return sum(int(run[what]) for run in runs)


def _table(runs: list[dict[str, Any]], **columns: str) -> str:
    lines = [
        "| | " + " | ".join(columns.values()) + " |",
        "|---" * (len(columns) + 1) + "|",
        *("| " + " | ".join([r["name"], *(_cell(r.get(c)) for c in columns)]) + " |" for r in runs),
    ]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    sys.exit(main())
