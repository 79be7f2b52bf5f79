"""Changes the program in small ways, one at a time, and tells which changes no test notices.

    python tests/mutate.py [MODULE…]

Works on copies in a temporary folder. Every mutant meets the unit tests of its module in a fork of
one warm process, and those that survive meet the enumeration of `test_crash.py` with the faults of
one look. What survives both has to stand in MUTANTS.md with a reason, and nothing else may.

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
from importlib.util import cache_from_source
from pathlib import Path

from mutators import Mutant, mutants

ROOT = Path(__file__).parents[1]
LISTED = ROOT / "tests/MUTANTS.md"
COPIED = ("daemon", "tests", "config", "pyproject.toml", "README.md")

UNIT_TESTS = {
    "rules": ("rules",),
    "holds": ("rules",),
    "steps": ("rules", "perform", "reconcile"),
    "requests": ("requests",),
    "model": ("rules", "requests", "perform", "reconcile"),
    "reconcile": ("reconcile", "loop"),
    "perform": ("perform",),
    "state": ("store",),
    "store": ("store",),
    "seal": ("seal",),
    "durable": ("store", "seal"),
}
ENUMERATION = ("tests/test_crash.py", "-k", "every_call")
WORLD = set(UNIT_TESTS) - {"state", "store", "seal", "durable"}
"""What the world of tests/world runs. It has a state and a seal of its own."""

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
    """Copy the tree."""
    for name in COPIED:
        source, target = ROOT / name, folder / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", ".cache")
            shutil.copytree(source, target, ignore=ignored)
        else:
            shutil.copy(source, target)


def import_from(folder: Path) -> None:
    """Run in a copy, with what is imported from now on."""
    os.chdir(folder)
    sys.path[:0] = [str(folder / "daemon"), str(folder / "tests")]


def warm_up() -> None:
    """Import what the tests need of others, once for all forks, and forget what is ours again."""
    paths = sys.path[:]
    import_from(ROOT)
    for name in ("pytest", "conftest", "replica_check"):
        import_module(name)
    for name, module in [*sys.modules.items()]:
        path = Path(getattr(module, "__file__", None) or "/")
        if {ROOT / "daemon", ROOT / "tests"} & {*path.parents}:
            del sys.modules[name]
    sys.path[:] = paths


class Attempt:
    """A fork in which tests meet one mutant, or none, in a copy of its own."""

    def __init__(self, mutant: Mutant | None, tests: Tests, seconds: int, folder: Path) -> None:
        """Begin. `seconds` of the processor are what it may take, 0: any."""
        self.mutant, self.tests, self.folder = mutant, tests, folder
        self._file = folder / f"daemon/rekeyd/{mutant.module if mutant else '__init__'}.py"
        self._original = self._file.read_text()
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
                code = self._run(telling)
            finally:
                os._exit(code)
        os.close(telling)

    def _run(self, telling: int) -> int:
        import pytest

        class Failures:
            def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
                if report.failed:
                    os.write(telling, report.nodeid.rpartition("::")[2].encode())

            def pytest_collectreport(self, report: pytest.CollectReport) -> None:
                if report.failed:
                    os.write(telling, b"it cannot be imported")

        import_from(self.folder)
        if self.mutant:  # the file itself, for tests that read the source
            self._file.write_text(self.mutant.source)
            Path(cache_from_source(str(self._file))).unlink(missing_ok=True)
            sys.dont_write_bytecode = True
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # one of them fails what takes long
        fixed = ["-xq", "-oaddopts=", "-pno:cacheprovider", "-Wignore::pytest.PytestConfigWarning"]
        with Path(os.devnull).open("w") as none, redirect_stdout(none), redirect_stderr(none):
            return int(pytest.main([*self.tests, *fixed], plugins=[Failures()]))

    def end(self, status: int) -> None:
        """Take down how it ended, and leave the copy as it was."""
        self._file.write_text(self._original)
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


def side_by_side(
    todo: Iterable[tuple[Mutant | None, Tests, int]],
    copies: Iterable[Path],
    done: Callable[[Attempt, float], None],
) -> None:
    """Make attempts, one a copy at a time; tell of each that is done, and its processor time."""
    waiting, free = iter(todo), [*copies]
    running: dict[int, Attempt] = {}
    while True:
        while free and (given := next(waiting, None)):
            attempt = Attempt(*given, free.pop())
            running[attempt.pid] = attempt
        if not running:
            return
        pid, status, used = os.wait4(-1, 0)
        attempt = running.pop(pid)
        attempt.end(status)
        free.append(attempt.folder)
        done(attempt, used.ru_utime + used.ru_stime)


def unchanged(all_tests: Iterable[Tests], copies: list[Path]) -> dict[Tests, float]:
    """Run tests without any change in each copy, side by side; return their seconds."""
    seconds: dict[Tests, float] = {}

    def done(attempt: Attempt, used: float) -> None:
        if attempt.verdict != "SURVIVED":
            sys.exit(f"without any change, {' '.join(attempt.tests)}: {attempt.verdict}")
        seconds[attempt.tests] = max(used, seconds.get(attempt.tests, 0))

    every = [(None, tests, 0) for tests in dict.fromkeys(all_tests) for _ in copies]
    side_by_side(every, copies, done)
    return seconds


def met(
    todo: list[tuple[Mutant, Tests]], usual: dict[Tests, float], copies: list[Path]
) -> set[Mutant]:
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

    limits = {tests: max(10, int(seconds * ENDLESS)) for tests, seconds in usual.items()}
    side_by_side([(mutant, tests, limits[tests]) for mutant, tests in todo], copies, done)
    return killed


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
        copies = [Path(folder, str(number)) for number in range(given.jobs)]
        for copy in copies:
            copied(copy)
        every = [
            mutant
            for module in given.modules
            for mutant in mutants(module, (copies[0] / f"daemon/rekeyd/{module}.py").read_text())
        ]
        warm_up()
        all_tests = [*map(unit_tests, given.modules), ENUMERATION]
        usual = unchanged(all_tests, copies)
        print(f"without any change, {len(usual)} sets of tests pass: {len(every)} mutants to meet")
        units = met([(m, unit_tests(m.module)) for m in every], usual, copies)
        rest = [m for m in every if m not in units and m.module in WORLD]
        crash = met([(m, ENUMERATION) for m in rest], usual, copies)
        unchanged(all_tests, copies)
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
