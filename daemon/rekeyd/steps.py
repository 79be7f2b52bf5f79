"""What can be done next. A rule names one of these; `perform` does it."""

from dataclasses import dataclass
from datetime import datetime

from rekeyd.model import Custody


@dataclass(frozen=True, slots=True)
class Hold:
    """rekeyd will not go on by itself: a reason for machines, what happened, and what to do."""

    reason: str
    what: str
    do: str


@dataclass(frozen=True, slots=True)
class Rest:
    """Nothing to do before this instant."""

    until: datetime


@dataclass(frozen=True, slots=True)
class Record:
    """A fact was seen: custody changes, nothing else does."""

    what: str
    custody: Custody
    rotated: bool = False  # a new pair has just reached every sink


@dataclass(frozen=True, slots=True)
class Mint:
    known: frozenset[str]


@dataclass(frozen=True, slots=True)
class Verify:
    key_id: str


@dataclass(frozen=True, slots=True)
class Deliver:
    key_id: str
    sinks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Activate:
    key_id: str


@dataclass(frozen=True, slots=True)
class Deactivate:
    key_id: str


@dataclass(frozen=True, slots=True)
class Delete:
    key_id: str


Step = Hold | Rest | Record | Mint | Verify | Deliver | Activate | Deactivate | Delete


@dataclass(frozen=True, slots=True)
class Decision:
    """The one next step, and the name of the rule that asks for it."""

    rule: str
    step: Step
