"""The places in which `test_contract` tries every sink. Each `cases_*.py` beside it adds its own.

Such a module has a list `CASES`. A case opens a place of its own, empty, for one test.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from rekeyd.ports import Sink
from rekeyd.secret import AccessPair, Secret

OLD = AccessPair("AKIAOLDOLDOLDOLDOLD1", Secret("oldOLD/old+old=OLDoldOLDoldOLDoldOLDold1"))
NEW = AccessPair("AKIANEWNEWNEWNEWNEW2", Secret("newNEW/new+new=NEWnewNEWnewNEWnewNEWnew2"))


@dataclass(frozen=True)
class Place:
    """One place that holds a pair, seen from all sides."""

    open: Callable[[], Sink]
    """Open the sink as a freshly started daemon does."""

    consumer: Callable[[], AccessPair | None]
    """Read the pair as the consumer does, without the sink."""

    look: Callable[[], object]
    """Return all that a consumer could notice, versions and modes too."""

    deny: Callable[[], None]
    """Take away the right to write."""

    check_notices: bool = True
    """Whether `check` can find that out without writing."""


@dataclass(frozen=True)
class Case:
    name: str
    place: Callable[[Path], AbstractContextManager[Place]]


def cases() -> list[Case]:
    """Collect every case there is, whatever else the modules keep."""
    modules = sorted(path.stem for path in Path(__file__).parent.glob("cases_*.py"))
    found = [case for module in modules for case in import_module(module).CASES]
    return [case for case in found if isinstance(case, Case)]
