"""Runs a check against the program as it is, and tells what it found."""

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from model_check import ModelCheck
from replica_check import ReplicaCheck
from world import MINUTE, Violation
from world.enumeration import Enumeration
from world.scenarios import SCENARIOS, expected_holds, name, prepared

STATES = 15_000
REPLICA_STATES = 1_500
TESTS = Path(__file__).parent.parent


def hunt(check: str) -> str | None:
    """Run the check that a bug names; return the first thing it finds, in one line, or None."""
    kind, _, detail = check.partition(": ")
    try:
        match kind:
            case "crash" | "crash late":
                return _enumerate(detail, late=kind == "crash late")
            case "model":
                ModelCheck(detail).run(STATES)
                return None
            case "model of replicas":
                ReplicaCheck(detail).run(REPLICA_STATES)
                return None
            case _:
                return _tests(kind, detail)
    except Violation as violation:
        return str(violation).splitlines()[0]


def _enumerate(detail: str, *, late: bool) -> str | None:
    for scenario in SCENARIOS:
        if not name(scenario).startswith(detail):
            continue
        world = prepared(scenario, delay=5 * MINUTE if late else 0 * MINUTE)
        tally = Enumeration(world, apart=False, stalest=late).run()
        if set(tally.holds) != expected_holds(scenario):
            return f"held for ever: {', '.join(tally.holds) or 'not at all'}"
    return None


def _tests(module: str, some: str) -> str | None:
    seen = _Failures()
    own = sys.modules.pop(f"test_{module}", None)  # it may have imported what the bug changes
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        path = str(TESTS / f"test_{module}.py")
        options = ["-qx", "-k", some, "-p", "no:cacheprovider", "-p", "no:xdist"]
        pytest.main([path, *options], plugins=[seen])
    sys.modules.pop(f"test_{module}", None)
    if own is not None:
        sys.modules[f"test_{module}"] = own
    return seen.first


class _Failures:
    def __init__(self) -> None:
        self.first: str | None = None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and self.first is None:
            self.first = report.nodeid.rpartition("::")[2]
