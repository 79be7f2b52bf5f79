"""Changes the program in small ways, one at a time, and tells which changes no test notices.

    python tests/mutate.py [MODULE…]

Works on a copy in a temporary folder. Every mutant meets the unit tests of its module in a fork of
one warm process, and those that survive meet the enumeration of `test_crash.py` with one fault at
a time. What survives both has to stand in MUTANTS.md with a reason, and nothing else may.

What kills is a test that fails, or a program that cannot be imported or computes without end, by
the time of the processor: no load on the machine kills. The same tests pass without any change,
side by side as often as mutants run side by side, before the first mutant and after the last.
"""

import argparse
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

from mutators import Mutant, mutants

ROOT = Path(__file__).parents[1]
LISTED = ROOT / "tests/MUTANTS.md"
COPIED = ("daemon", "tests", "config", "pyproject.toml", "README.md")

UNIT_TESTS = {
    "rules": ("rules",),
    "holds": ("rules",),
    "steps": ("rules", "perform"),
    "requests": ("requests",),
    "model": ("rules", "requests", "perform", "reconcile"),
    "reconcile": ("reconcile", "loop"),
    "perform": ("perform",),
    "store": ("store",),
    "seal": ("seal",),
}
ENUMERATION = ("tests/test_crash.py", "-k", "every_call or every_kind")
WORLD = set(UNIT_TESTS) - {"store", "seal"}
"""What the world of tests/world runs. It has a store and a seal of its own."""

ENDLESS = 10
"""A mutant counts as endless after so many times the processor time of the tests as they are."""

PATIENCE = 300
"""Seconds after which a mutant that waits for something is given up: it counts as a survivor."""

MEMORY = 4 << 30
"""Bytes that a mutant may use."""

LEAST = 0.9
"""Score of each module below which this fails."""

Tests = tuple[str, ...]
"""What pytest is given."""


def unit_tests(module: str) -> Tests:
    return tuple(f"tests/test_{name}.py" for name in UNIT_TESTS[module])


def copied(folder: Path) -> None:
    """Copy the tree, and run in the copy from now on."""
    for name in COPIED:
        source, target = ROOT / name, folder / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", ".cache")
            shutil.copytree(source, target, ignore=ignored)
        else:
            shutil.copy(source, target)
    os.chdir(folder)
    sys.path[:0] = [str(folder / "daemon"), str(folder / "tests")]


def warm_up() -> None:
    """Import what the tests need of others, once for all forks, and forget what is ours again."""
    import_module("pytest")
    for name in ("conftest", "world.scenarios"):
        import_module(name)
    here = str(Path.cwd())
    for name, module in [*sys.modules.items()]:
        if (getattr(module, "__file__", None) or "").startswith(here):
            del sys.modules[name]


class Attempt:
    """A fork in which tests meet one mutant, or none."""

    def __init__(self, mutant: Mutant | None, tests: Tests, seconds: int) -> None:
        """Begin. `seconds` of the processor are what it may take, 0: any."""
        self.mutant, self.tests, self.seconds = mutant, tests, seconds
        self.killed = False
        self.verdict = ""
        self._told, telling = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._told)
            os.setsid()
            signal.alarm(PATIENCE)
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            if seconds:
                resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
            code = 3
            try:
                code = _run(mutant, tests, telling)
            finally:
                os._exit(code)
        os.close(telling)

    def end(self, status: int) -> None:
        """Take down how it ended."""
        with os.fdopen(self._told) as pipe:
            failed = pipe.readline()
        if failed:
            self.killed, self.verdict = True, failed
        elif os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            self.killed = number == signal.SIGXCPU
            self.verdict = "endless" if self.killed else f"ENDED BY {signal.Signals(number).name}"
        elif code := os.WEXITSTATUS(status):
            self.verdict = f"PYTEST ENDED WITH {code}"
        else:
            self.verdict = "SURVIVED"


def _run(mutant: Mutant | None, tests: Tests, telling: int) -> int:
    import pytest

    if mutant:
        _import_instead(mutant)

    class Failures:
        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            if report.failed:
                os.write(telling, report.nodeid.rpartition("::")[2].encode())

        def pytest_collectreport(self, report: pytest.CollectReport) -> None:
            if report.failed:
                os.write(telling, b"it cannot be imported")

    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # one of them fails tests that take long
    fixed = ["-xq", "-oaddopts=", "-pno:cacheprovider", "-Wignore::pytest.PytestConfigWarning"]
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        return int(pytest.main([*tests, *fixed], plugins=[Failures()]))


def _import_instead(mutant: Mutant) -> None:
    path = str(Path("daemon/rekeyd", f"{mutant.module}.py").resolve())
    usual = SourceFileLoader.get_code

    def get_code(self: SourceFileLoader, fullname: str) -> Any:
        if self.path == path:
            return compile(mutant.source, path, "exec", dont_inherit=True)
        return usual(self, fullname)

    SourceFileLoader.get_code = get_code  # type: ignore[method-assign]


def side_by_side(
    waiting: Iterable[Callable[[], Attempt]], jobs: int, done: Callable[[Attempt, float], None]
) -> None:
    """Make attempts, some at a time; tell of each that is done, and its processor time."""
    left, running = iter(waiting), {}
    while True:
        while len(running) < jobs and (begin := next(left, None)):
            attempt = begin()
            running[attempt.pid] = attempt
        if not running:
            return
        pid, status, used = os.wait4(-1, 0)
        attempt = running.pop(pid)
        attempt.end(status)
        done(attempt, used.ru_utime + used.ru_stime)


def unchanged(all_tests: Iterable[Tests], jobs: int) -> dict[Tests, float]:
    """Run tests without any change, each as often as mutants run at once; return their seconds."""
    seconds: dict[Tests, float] = {}

    def done(attempt: Attempt, used: float) -> None:
        if attempt.verdict != "SURVIVED":
            sys.exit(f"without any change, {' '.join(attempt.tests)}: {attempt.verdict}")
        seconds[attempt.tests] = max(used, seconds.get(attempt.tests, 0))

    every = [tests for tests in dict.fromkeys(all_tests) for _ in range(jobs)]
    side_by_side([lambda tests=tests: Attempt(None, tests, 0) for tests in every], jobs, done)
    return seconds


def met(todo: list[tuple[Mutant, Tests]], usual: dict[Tests, float], jobs: int) -> set[Mutant]:
    """Let every mutant meet its tests; return those that were killed."""
    killed: set[Mutant] = set()
    number = 0

    def done(attempt: Attempt, _: float) -> None:
        nonlocal number
        number += 1
        mutant = attempt.mutant
        assert mutant
        if attempt.killed:
            killed.add(mutant)
        where = f"{mutant.module}.py:{mutant.line} {mutant.change}"
        print(f"  {number:5}/{len(todo)}  {where[:100]:100}  {attempt.verdict[:70]}", flush=True)

    waiting = [
        lambda mutant=mutant, tests=tests: Attempt(mutant, tests, _limit(usual[tests]))
        for mutant, tests in todo
    ]
    side_by_side(waiting, jobs, done)
    return killed


def _limit(usual: float) -> int:
    return max(10, int(usual * ENDLESS))


# telling


@dataclass(frozen=True)
class Result:
    """What became of all mutants of some modules."""

    every: list[Mutant]
    by_units: set[Mutant]
    by_enumeration: set[Mutant]

    @property
    def survivors(self) -> list[Mutant]:
        return [m for m in self.every if m not in self.by_units | self.by_enumeration]

    def table(self, name: str, of: Callable[[Mutant], str]) -> str:
        """Return a table of scores, with a row for each value of `of`."""
        lines = [
            f"| {name} | mutants | killed by unit tests | by the enumeration | survived | score |",
            "|---|---:|---:|---:|---:|---:|",
        ]
        for group in dict.fromkeys(map(of, self.every)):
            own = {mutant for mutant in self.every if of(mutant) == group}
            units, crash = len(own & self.by_units), len(own & self.by_enumeration)
            left = len(own) - units - crash
            lines.append(
                f"| {group} | {len(own)} | {units} | {crash} | {left} | {1 - left / len(own):.1%} |"
            )
        return "\n".join(lines)

    def scores(self) -> str:
        files = self.table("file", lambda mutant: f"`{mutant.module}`")
        kinds = self.table("change", lambda mutant: mutant.kind)
        killed = len(self.by_units | self.by_enumeration)
        every = len(self.every)
        return f"{killed} of {every} were noticed: {killed / every:.1%}.\n\n{files}\n\n{kinds}"

    def failing(self) -> list[str]:
        """Name the modules whose score is too low."""
        total = Counter(mutant.module for mutant in self.every)
        left = Counter(mutant.module for mutant in self.survivors)
        return [module for module in total if 1 - left[module] / total[module] < LEAST]


def excused() -> Counter[tuple[str, str, str]]:
    """Return how often each change is listed as one that may survive."""
    row = re.compile(r"\| (\w+)\.py \| `([^`]*)` \| `([^`]*)` \| .+ \|")
    rows = [row.fullmatch(line) for line in LISTED.read_text().splitlines()]
    return Counter((m[1], m[2], m[3].replace(r"\|", "|")) for m in rows if m)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modules", nargs="*", default=list(UNIT_TESTS), metavar="MODULE")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    given = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="rekeyd-mutants-") as folder:
        copied(Path(folder))
        warm_up()
        every = [
            mutant
            for module in given.modules
            for mutant in mutants(module, Path(f"daemon/rekeyd/{module}.py").read_text())
        ]
        all_tests = [*map(unit_tests, given.modules), ENUMERATION]
        usual = unchanged(all_tests, given.jobs)
        print(f"without any change, {len(usual)} sets of tests pass: {len(every)} mutants to meet")
        units = met([(m, unit_tests(m.module)) for m in every], usual, given.jobs)
        rest = [m for m in every if m not in units and m.module in WORLD]
        crash = met([(m, ENUMERATION) for m in rest], usual, given.jobs)
        unchanged(all_tests, given.jobs)
        os.chdir(ROOT)
    result = Result(every, units, crash)
    scores = result.scores()
    print(f"\n{scores}\n\nthis took {time.monotonic() - began:.0f} s")
    modules = set(given.modules)
    if modules == set(UNIT_TESTS):
        write_down(scores)
    return told(result, modules)


def write_down(scores: str) -> None:
    """Put the scores of a whole run where the survivors are listed."""
    head, title, rest = LISTED.read_text().partition("## Scores\n")
    _, following, tail = rest.partition("\n## ")
    LISTED.write_text(f"{head}{title}\n{scores}\n{following}{tail}")


def told(result: Result, modules: set[str]) -> int:
    """Print what is wrong with the scores and the list; return the exit code."""
    known = Counter({key: n for key, n in excused().items() if key[0] in modules})
    survived = Counter(mutant.key for mutant in result.survivors)
    unknown, outdated = survived - known, known - survived
    for title, keys in (("survive unlisted", unknown), ("are listed and do not survive", outdated)):
        if keys:
            print(f"\nThese {title}:")
        for module, function, change in keys.elements():
            row = change.replace("|", r"\|")
            print(f"| {module}.py | `{function}` | `{row}` | ? |")
    failing = result.failing()
    if failing:
        print(f"below {LEAST:.0%}: {', '.join(failing)}")
    return int(bool(unknown or outdated or failing))


if __name__ == "__main__":
    sys.exit(main())
