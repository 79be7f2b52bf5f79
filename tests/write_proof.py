"""Writes tests/PROOF.md from what the proving tests counted in their last run.

python tests/write_proof.py            # after `make test`, `make soak` or both
"""

import sys
from pathlib import Path
from typing import Any

from world import proof
from world.picture import picture

TARGET = Path(__file__).parent / "PROOF.md"

HEAD = """\
# What was tried, and what was found

Written by `python tests/write_proof.py` after a run of the tests; edit that, not this. The
invariants S1 to S4 and L1 stand in [daemon/rekeyd/model.py](../daemon/rekeyd/model.py).
Everything below runs the production code (`look`, `plan`, `perform`, the loop) in a fake AWS,
[tests/world](world/), that is less kind than the real one: every front shows old truths as long
as it may, answers are lost before and after they take effect, and people interfere. The
invariants are checked at every effect, by one who knows the truth.

**Violations: {violations}.**
"""


def main() -> int:
    parts = [_crash(), _points(), _model(), _schedules(), _seeded()]
    missing = [name for name, text in parts if not text]
    if missing:
        print(f"no counts of: {', '.join(missing)}. Run the tests first.", file=sys.stderr)
        return 1
    text = HEAD.format(violations=0) + "".join(text for _, text in parts) + _picture()
    TARGET.write_text(text)
    return 0


def _crash() -> tuple[str, Any]:
    runs = proof.kept("crash")
    return "crash", runs and (
        f"""
## Two faults anywhere: {_total(runs, "pairs"):,} pairs

Each rotation below was run with every single fault ({_total(runs, "singles"):,}) and with every
pair of faults, the second on the way back from the first: every call that the program makes x
(killed before it, killed when it took effect, answer lost before and after, throttled, refused,
disk full, ...). A killed daemon is started again at once, and hours later. The second fault comes
in a later look than the first; two in one look are met by the random schedules below.

{_table(runs, singles="single faults", pairs="pairs", states="states")}
Again: `pytest tests/test_crash.py`.
"""
    )


def _points() -> tuple[str, Any]:
    runs = proof.kept("points")
    return "points", runs and (
        f"""
{runs[0]["tried"]} of {runs[0]["points"]} points (a call and what can go wrong with it) were
struck: 100 %. The calls are read from the source of the program and from its ports, so a new
one that nobody enumerated fails the test.
"""
    )


def _model() -> tuple[str, Any]:
    runs = proof.kept("model")
    return "model", runs and (
        f"""
## A model check of the code itself: {_total(runs, "states"):,} distinct states

Every state that the program and its world can reach is explored in the order of mischief: a
fault, an old truth shown, a person's deed (switch, delete or create a key, overwrite or break a
sink, any command of rekeyd, the user made again), a daemon that is down. From each the calm way
leads to rest, or to a hold that a person has caused.

{_table(runs, states="states", moves="moves", mischief="all within so many pieces of mischief")}
Again, and further: `python tests/model_check.py --states 1000000`.
"""
    )


def _schedules() -> tuple[str, Any]:
    runs = proof.kept("schedules")
    return "schedules", runs and (
        f"""
## Random schedules: {_total(runs, "schedules"):,}

Configuration, people, faults, restarts, sinks that come and go, fronts of different delays;
then faults cease, and L1 must hold. {", ".join(run["name"] for run in runs)}. One of them
again: `pytest tests/test_schedules.py --hypothesis-seed=SEED`.
"""
    )


def _seeded() -> tuple[str, Any]:
    runs = proof.kept("seeded")
    return "seeded", runs and (
        f"""
## Would the checks notice? {len(runs)} of {len(runs)} seeded bugs caught

{_table(runs, caught_by="caught by", found="what it said")}
Again: `pytest tests/test_seeded.py`.
"""
    )


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
