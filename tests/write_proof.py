"""Runs the proving tests, and writes what they counted into tests/PROOF.md: `make proof`."""

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


def main() -> int:
    shutil.rmtree(proof.FOLDER, ignore_errors=True)
    command = [sys.executable, "-m", "pytest", "-n", "2", "--dist", "worksteal", "-m", "proof"]
    if subprocess.run(command, check=False, cwd=TARGET.parents[1]).returncode:
        print("a proof failed, so tests/PROOF.md stays as it was", file=sys.stderr)
        return 1
    parts = (_crash(), _points(), _model(), _replicas(), _schedules(), _seeded())
    TARGET.write_text(HEAD + "".join(parts) + _picture())
    return 0


def _crash() -> str:
    runs = proof.kept("crash")
    return f"""
## Two faults anywhere: {_total(runs, "pairs"):,} pairs

Each rotation below was run with every single fault ({_total(runs, "singles"):,}) and with every
pair of faults, the second on the way back from the first: every call that the program makes x
(killed before it, killed when it took effect, answer lost before and after, throttled, refused,
disk full, ...). A killed daemon is started again at once, and hours later. The second fault comes
in a later look than the first; two in one look are met by the random schedules below.

{_table(runs, singles="single faults", pairs="pairs", states="states")}
Again: `pytest tests/test_crash.py`.
"""


def _points() -> str:
    runs = proof.kept("points")
    return f"""
{runs[0]["tried"]} of {runs[0]["points"]} points (a call and what can go wrong with it) were
struck: 100 %. The calls are read from the source of the program and from its ports, so a new
one that nobody enumerated fails the test.
"""


def _model() -> str:
    runs = proof.kept("model")
    return f"""
## A model check of the code itself: {_total(runs, "states"):,} distinct states

Every state that the program and its world can reach is explored in the order of mischief: a
fault, an old truth shown, a person's deed (switch, delete or create a key, overwrite or break a
sink, any command of rekeyd, the user made again), a daemon that is down. From each the calm way
leads to rest, or to a hold that a person has caused.

{_table(runs, states="states", moves="moves", mischief="all within so many pieces of mischief")}
Again, and further: `python tests/model_check.py --states 1000000`.
"""


def _replicas() -> str:
    runs = proof.kept("replicas")
    return f"""
## Replicas that share a state: stopped in any call, {_total(runs, "stops"):,} times

A process is stopped before an effect, for minutes or hours, while another replica goes on and a
person asks for something; when it wakes, a fault strikes it, or it is killed. Its lease holds back
every request to IAM and every write to custody. Excused is a put that was on its way to a sink when
its process was stopped: nothing can hold it back, and it is seen to be mended.

{_table(runs, states="states", moves="moves", stops="times stopped")}
Again, and further: `python tests/replica_check.py --states 100000`.
"""


def _schedules() -> str:
    runs = proof.kept("schedules")
    return f"""
## Random schedules: {_total(runs, "schedules"):,}

Configuration, people, faults, restarts, sinks that come and go, fronts of different delays;
then faults cease, and L1 must hold. {", ".join(run["name"] for run in runs)}. One of them
again: `pytest tests/test_schedules.py --hypothesis-seed=SEED`.
"""


def _seeded() -> str:
    runs = proof.kept("seeded")
    return f"""
## Would the checks notice? {len(runs)} of {len(runs)} seeded bugs caught

{_table(runs, caught_by="caught by", found="what it said")}
Again: `pytest tests/test_seeded.py`.
"""


def _picture() -> str:
    return f"""
## One faulted rotation in time

CreateAccessKey takes effect, and the process is killed before it reads the answer.

```text
{picture()}
```
"""


def _total(runs: list[dict[str, Any]], what: str) -> int:
    return sum(int(run[what]) for run in runs)


def _table(runs: list[dict[str, Any]], **columns: str) -> str:
    lines = [
        "| | " + " | ".join(columns.values()) + " |",
        "|---" * (len(columns) + 1) + "|",
        *("| " + " | ".join([r["name"], *(_cell(r[c]) for c in columns)]) + " |" for r in runs),
    ]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    sys.exit(main())
