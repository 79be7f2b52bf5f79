"""Changes the program in small ways, one at a time, and tells which changes no test notices.

    python tests/mutate.py [MODULE…]

Works on a copy in a temporary folder. Every mutant meets the unit tests of its module in a fork of
one warm process, and those that survive meet the enumeration of `test_crash.py` with one fault at
a time. What survives both has to stand in MUTANTS.md with a reason. Constants of decorators,
annotations and texts are left alone.
"""

import argparse
import ast
import copy
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LISTED = ROOT / "tests/MUTANTS.md"
COPIED = ("daemon", "tests", "config", "pyproject.toml", "README.md")

UNIT_TESTS = {
    "rules": ("rules",),
    "holds": ("rules",),
    "steps": ("rules", "perform"),
    "requests": ("requests",),
    "model": ("rules", "requests", "perform"),
    "reconcile": ("reconcile",),
    "perform": ("perform",),
    "store": ("store",),
    "seal": ("seal",),
}
ENUMERATION = ("crash", "-k", "every_call or every_kind")
WORLD = set(UNIT_TESTS) - {"store", "seal"}
"""What the world of tests/world runs. It has a store and a seal of its own."""

LONGEST = 20
"""Seconds after which a mutant counts as killed: it does not come to an end."""

LEAST = 0.9
"""Score below which this fails."""

SWAPS: dict[type, tuple[type, ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.And: (ast.Or,),
    ast.Or: (ast.And,),
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div,),
    ast.Div: (ast.Mult,),
    ast.BitOr: (ast.BitAnd,),
    ast.BitAnd: (ast.BitOr,),
    ast.Pow: (ast.Mult,),
}
UNTOUCHED = {"decorator_list", "annotation", "returns"}
REMOVABLE = (ast.Expr, ast.Assign, ast.AugAssign, ast.Raise, ast.Continue, ast.Break)

Place = tuple[tuple[str, int | None], ...]


@dataclass(frozen=True)
class Mutant:
    """One change: where it is, and the source of the module with it."""

    module: str
    line: int
    function: str
    change: str
    source: str

    @property
    def key(self) -> tuple[str, str, str]:
        return self.module, self.function, self.change


def mutants(module: str, source: str) -> Iterator[Mutant]:
    """Make every change to a module, each alone."""
    tree = ast.parse(source)
    for place, function in _places(tree):
        before = _at(tree, place)
        for after in _changes(before):
            changed = copy.deepcopy(tree)
            _put(changed, place, after)
            told = f"{_shown(before)} → {_shown(after)}"
            line = getattr(before, "lineno", 0)
            text = ast.unparse(ast.fix_missing_locations(changed))
            yield Mutant(module, line, function, told, text)


def _places(node: ast.AST, place: Place = (), function: str = "") -> Iterator[tuple[Place, str]]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        function = f"{function}.{node.name}".lstrip(".")
    for name, value in ast.iter_fields(node):
        if name in UNTOUCHED:
            continue
        many = value if isinstance(value, list) else [value]
        for number, child in enumerate(many):
            if isinstance(child, ast.AST):
                here = (*place, (name, number if isinstance(value, list) else None))
                yield here, function
                yield from _places(child, here, function)


def _at(tree: ast.AST, place: Place) -> Any:
    found: Any = tree
    for name, number in place:
        found = getattr(found, name) if number is None else getattr(found, name)[number]
    return found


def _put(tree: ast.AST, place: Place, new: ast.AST) -> None:
    name, number = place[-1]
    parent = _at(tree, place[:-1])
    if number is None:
        setattr(parent, name, new)
    else:
        getattr(parent, name)[number] = new


def _changes(node: Any) -> Iterator[ast.AST]:
    yield from _other_values(node)
    yield from _other_courses(node)


def _other_values(node: Any) -> Iterator[ast.expr]:
    """Change what an expression comes to."""
    match node:
        case ast.Compare(ops=[first, *rest]):
            for other in SWAPS[type(first)]:
                yield ast.Compare(node.left, [other(), *rest], node.comparators)
        case ast.BoolOp():
            yield ast.BoolOp(SWAPS[type(node.op)][0](), node.values)
        case ast.BinOp() if type(node.op) in SWAPS:
            yield ast.BinOp(node.left, SWAPS[type(node.op)][0](), node.right)
        case ast.UnaryOp(op=ast.Not()):
            yield node.operand
        case ast.Constant(value=bool()):
            yield ast.Constant(not node.value)
        case ast.Constant(value=int() | float()):
            yield ast.Constant(node.value + 1)
            yield ast.Constant(node.value - 1)


def _other_courses(node: Any) -> Iterator[ast.AST]:
    """Change what is done next."""
    if isinstance(node, ast.Return) and node.value and not _is_none(node.value):
        yield ast.Return(ast.Constant(None))
    if isinstance(node, ast.If | ast.IfExp | ast.While) and _is_plain(node.test):
        changed = copy.copy(node)
        changed.test = ast.UnaryOp(ast.Not(), node.test)
        yield changed
    is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    if isinstance(node, REMOVABLE) and not is_text:
        yield ast.Pass()


def _is_plain(test: ast.expr) -> bool:
    """Tell whether no other change negates this test."""
    return not isinstance(test, ast.Compare) and not (
        isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)
    )


def _is_none(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is None


def _shown(node: Any) -> str:
    if isinstance(node, ast.If | ast.While):
        return f"if {ast.unparse(node.test)}"
    return " ".join(ast.unparse(ast.fix_missing_locations(node)).split())


# running


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
    sys.dont_write_bytecode = True


def warm_up() -> None:
    """Import what the tests need of others, once for all forks."""
    import boto3  # noqa: F401
    import cryptography.hazmat.primitives.ciphers.aead  # noqa: F401
    import pydantic  # noqa: F401
    import pytest  # noqa: F401
    import structlog  # noqa: F401
    import yaml  # noqa: F401


class Attempt:
    """A fork in which tests meet one mutant."""

    def __init__(self, mutant: Mutant | None, tests: tuple[str, ...], options: tuple[str, ...]):
        self.mutant, self.tests = mutant, tests
        self._told, telling = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._told)
            os.setsid()
            signal.alarm(LONGEST)
            code = 3
            try:
                code = _run(mutant, tests, options, telling)
            finally:
                os._exit(code)
        os.close(telling)

    def killer(self, status: int) -> str:
        """Return which test failed, or nothing."""
        with os.fdopen(self._told) as pipe:
            told = pipe.read()
        if os.WIFSIGNALED(status):
            return "did not end"
        return told or ("cannot be imported" if os.WEXITSTATUS(status) else "")


def _run(
    mutant: Mutant | None, tests: tuple[str, ...], options: tuple[str, ...], telling: int
) -> int:
    import pytest

    if mutant:
        _import_instead(mutant)

    class Failures:
        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            if report.failed:
                os.write(telling, report.nodeid.rpartition("::")[2].encode())

    paths = [f"tests/test_{name}.py" for name in tests]
    fixed = ["-x", "-q", "-o", "addopts=", "-p", "no:cacheprovider", "-p", "no:xdist"]
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        return int(pytest.main([*paths, *fixed, *options], plugins=[Failures()]))


def _import_instead(mutant: Mutant) -> None:
    path = str(Path("daemon/rekeyd", f"{mutant.module}.py").resolve())
    usual = SourceFileLoader.get_code

    def get_code(self: SourceFileLoader, fullname: str) -> Any:
        if self.path == path:
            return compile(mutant.source, path, "exec", dont_inherit=True)
        return usual(self, fullname)

    SourceFileLoader.get_code = get_code  # type: ignore[method-assign]


def met(todo: list[Mutant], stage: str, jobs: int) -> dict[Mutant, str]:
    """Let every mutant meet the tests of a stage; return what killed each, or nothing."""
    waiting, running, killers = todo[::-1], {}, {}
    while waiting or running:
        while waiting and len(running) < jobs:
            mutant = waiting.pop()
            unit = stage == "unit tests"
            tests = UNIT_TESTS[mutant.module] if unit else ENUMERATION[:1]
            attempt = Attempt(mutant, tests, () if unit else ENUMERATION[1:])
            running[attempt.pid] = attempt
        pid, status = os.wait()
        attempt = running.pop(pid)
        mutant = attempt.mutant
        killers[mutant] = attempt.killer(status)
        done = f"{len(killers)}/{len(todo)}"
        verdict = killers[mutant] or "SURVIVED"
        where = f"{mutant.module}.py:{mutant.line} {mutant.change}"
        print(f"  {stage} {done:>9}  {where[:90]:90}  {verdict[:60]}", flush=True)
    return killers


def excused() -> dict[tuple[str, str, str], str]:
    """Return the survivors that are listed, with their reasons."""
    row = re.compile(r"\| (\w+)\.py:\d+ \| `([^`]*)` \| `([^`]*)` \| (.+) \|")
    rows = [row.fullmatch(line) for line in LISTED.read_text().splitlines()]
    return {(m[1], m[2], m[3]): m[4] for m in rows if m}


def table(all_of_them: list[Mutant], unit: dict[Mutant, str], crash: dict[Mutant, str]) -> str:
    lines = ["file          mutants  killed by unit tests  by enumeration  survived   score"]
    for module in dict.fromkeys(mutant.module for mutant in all_of_them):
        own = [mutant for mutant in all_of_them if mutant.module == module]
        by_unit = sum(bool(unit[mutant]) for mutant in own)
        by_crash = sum(bool(crash.get(mutant)) for mutant in own)
        left = len(own) - by_unit - by_crash
        score = 1 - left / max(len(own), 1)
        lines.append(
            f"{module + '.py':13} {len(own):7}  {by_unit:20}  {by_crash:14}  {left:8}  {score:6.1%}"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modules", nargs="*", default=list(UNIT_TESTS), metavar="MODULE")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    given = parser.parse_args()
    began = time.monotonic()
    known = excused()
    with tempfile.TemporaryDirectory(prefix="rekeyd-mutants-") as folder:
        copied(Path(folder))
        warm_up()
        every = [
            mutant
            for module in given.modules
            for mutant in mutants(module, Path(f"daemon/rekeyd/{module}.py").read_text())
        ]
        used = sorted({name for module in given.modules for name in UNIT_TESTS[module]})
        whole = Attempt(None, tuple(used), ())
        if broken := whole.killer(os.waitpid(whole.pid, 0)[1]):
            print(f"without any change {broken} fails", file=sys.stderr)
            return 1
        unit = met(every, "unit tests", given.jobs)
        rest = [m for m in every if not unit[m] and m.module in WORLD]
        crash = met(rest, "enumeration", given.jobs)
        os.chdir(ROOT)
    survivors = [m for m in every if not unit[m] and not crash.get(m)]
    score = 1 - len(survivors) / max(len(every), 1)
    print(f"\n{table(every, unit, crash)}")
    print(f"{len(every)} mutants in {time.monotonic() - began:.0f} s, score {score:.1%}")
    print("most kills:", Counter(k for k in [*unit.values(), *crash.values()] if k).most_common(5))
    unknown = [mutant for mutant in survivors if mutant.key not in known]
    for mutant in unknown:
        print(f"| {mutant.module}.py:{mutant.line} | `{mutant.function}` | `{mutant.change}` | ? |")
    return int(bool(unknown) or score < LEAST)


if __name__ == "__main__":
    sys.exit(main())
