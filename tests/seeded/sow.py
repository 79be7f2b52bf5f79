"""Changes the program in place, for a while: the code of functions is swapped, nothing is reloaded.

So the change is seen wherever a function was imported to, and every class stays the one it was.
"""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from importlib import import_module
from types import CodeType, FunctionType, ModuleType
from typing import Any

from seeded.bugs import Bug


class SeedError(Exception):
    """A bug changes nothing, or its text is not there or there twice: the program has moved on."""


@contextmanager
def sown(bug: Bug) -> Iterator[None]:
    """Run with a bug in the program."""
    with ExitStack() as stack:
        for name, changes in _by_module(bug).items():
            module = import_module(f"rekeyd.{name}")
            differences = [*_differences(module, changed_source(module, changes))]
            if not differences:
                raise SeedError(f"{module.__name__} is the same with the bug that {bug.name}")
            for owner, attribute, value in differences:
                stack.callback(setattr, owner, attribute, getattr(owner, attribute))
                setattr(owner, attribute, value)
        yield


def changed_source(module: ModuleType, changes: list[tuple[str, str]]) -> str:
    """Return the source of a module with the changes made."""
    source = inspect.getsource(module)
    for old, new in changes:
        if source.count(old) != 1:
            raise SeedError(f"{module.__name__} has {source.count(old)} times: {old}")
        source = source.replace(old, new)
    return source


def _by_module(bug: Bug) -> Mapping[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {}
    for module, old, new in bug.changes:
        found.setdefault(module, []).append((old, new))
    return found


def _differences(module: ModuleType, source: str) -> Iterator[tuple[Any, str, Any]]:
    other: dict[str, Any] = {"__name__": module.__name__}
    exec(compile(source, f"<{module.__name__} with a bug>", "exec"), other)
    for name, value in other.items():
        mine = getattr(module, name, None)
        if isinstance(mine, type) and mine.__module__ == module.__name__:
            yield from _members(mine, value)
        elif _is_own(mine, module):
            yield from _code(mine, value)
        elif isinstance(mine, int | float | timedelta) and mine != value:
            yield module, name, value


def _members(mine: type, other: type) -> Iterator[tuple[Any, str, Any]]:
    for name, member in vars(other).items():
        own = vars(mine).get(name)
        if isinstance(own, property) and isinstance(member, property):
            yield from _code(own.fget, member.fget)
        elif isinstance(own, FunctionType) and own.__module__ == mine.__module__:
            yield from _code(own, member)


def _code(mine: Any, other: Any) -> Iterator[tuple[Any, str, Any]]:
    mine, other = inspect.unwrap(mine), inspect.unwrap(other)
    if _body(mine.__code__) != _body(other.__code__):
        yield mine, "__code__", other.__code__


def _body(code: CodeType) -> tuple[Any, ...]:
    constants = [_body(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]
    return (code.co_code, code.co_names, *constants)


def _is_own(value: Any, module: ModuleType) -> bool:
    return isinstance(value, FunctionType) and value.__module__ == module.__name__
