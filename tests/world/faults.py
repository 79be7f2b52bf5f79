"""What can go wrong at one call of the program to the world around it, and who decides when."""

import random
from collections.abc import Callable, Sequence
from enum import Enum
from functools import cache
from typing import TypeVar

from rekeyd.errors import Propagating, Refused, RekeydError, Transient, Unanswered

Option = TypeVar("Option")


class Crash(BaseException):
    """The process is killed here: no handler of the program may run on, as after SIGKILL."""


class Fault(Enum):
    """What happens to one call. The value is how a story tells it."""

    CRASH_BEFORE = "killed before it is sent"
    CRASH_COMMITTED = "it takes effect, and the process is killed before it reads the answer"
    LOST_BEFORE = "the connection drops before it arrives"
    LOST_COMMITTED = "it takes effect and the answer is lost"
    TRUNCATED = "it takes effect and the answer is cut short"
    UNREADABLE = "the answer is cut short"
    THROTTLED = "Throttling"
    SERVICE_FAILURE = "ServiceFailure, and nothing was done"
    SERVICE_FAILURE_COMMITTED = "ServiceFailure, although it took effect"
    UNMODIFIABLE = "EntityTemporarilyUnmodifiable"
    CONCURRENT = "ConcurrentModification"
    DENIED = "AccessDenied"
    UNKNOWN_KEY = "InvalidAccessKeyId"
    DISK_FULL = "no space left on device"
    DISK_FULL_BUT_DURABLE = "an error is reported although the change is on the disk"
    SLOW = "the process sleeps for an hour, then it is sent"

    __hash__ = object.__hash__  # there is one of each, and they are asked for often

    @property
    def commits(self) -> bool:
        """Whether the call takes effect all the same."""
        return self in COMMITTING

    @property
    def kills(self) -> bool:
        return self in (Fault.CRASH_BEFORE, Fault.CRASH_COMMITTED)


COMMITTING = frozenset(
    {
        Fault.SLOW,
        Fault.CRASH_COMMITTED,
        Fault.LOST_COMMITTED,
        Fault.TRUNCATED,
        Fault.SERVICE_FAILURE_COMMITTED,
        Fault.DISK_FULL_BUT_DURABLE,
    }
)

UNCERTAIN = frozenset(
    {
        Fault.LOST_BEFORE,
        Fault.LOST_COMMITTED,
        Fault.TRUNCATED,
        Fault.SERVICE_FAILURE,
        Fault.SERVICE_FAILURE_COMMITTED,
    }
)
"""Those after which the caller cannot know whether it took effect."""

KILLS = (Fault.CRASH_BEFORE, Fault.CRASH_COMMITTED)
LOSSES = (Fault.LOST_BEFORE, Fault.LOST_COMMITTED, Fault.TRUNCATED)
FAILURES = (Fault.THROTTLED, Fault.SERVICE_FAILURE, Fault.DENIED)
READING = (Fault.CRASH_BEFORE, Fault.LOST_BEFORE, Fault.UNREADABLE, *FAILURES)
CHANGING = (*KILLS, *LOSSES, *FAILURES, Fault.SERVICE_FAILURE_COMMITTED, Fault.SLOW)
CHANGING_IAM = (*CHANGING, Fault.UNMODIFIABLE, Fault.CONCURRENT)
ON_DISK = (*KILLS, Fault.DISK_FULL, Fault.DISK_FULL_BUT_DURABLE)

POSSIBLE: dict[str, tuple[Fault, ...]] = {
    "iam.caller_is_root": READING,
    "iam.user_id": READING,
    "iam.list_keys": READING,
    "iam.last_used": READING,
    "iam.create_key": CHANGING_IAM,
    "iam.set_active": CHANGING_IAM,
    "iam.delete_key": CHANGING_IAM,
    "consumer.probe": (*KILLS, *LOSSES, *FAILURES, Fault.UNKNOWN_KEY),
    "sink.check": READING,
    "sink.read": READING,
    "sink.put": CHANGING,
    "store.load": (Fault.CRASH_BEFORE, Fault.LOST_BEFORE),
    "store.save": ON_DISK,
    "store.log": (*KILLS, Fault.DISK_FULL),
    "store.claim": (*KILLS, Fault.LOST_BEFORE),
    "store.renew": (Fault.CRASH_BEFORE, Fault.LOST_BEFORE),
    "store.release": KILLS,
    "store.ask": (*KILLS, Fault.DISK_FULL),
    "store.requests": (Fault.CRASH_BEFORE, Fault.LOST_BEFORE),
    "store.settle": ON_DISK,
    "sealer.seal": (Fault.CRASH_BEFORE,),
    "sealer.unseal": (Fault.CRASH_BEFORE,),
}
"""Every call that the program can make, and what can go wrong with each."""


def error(call: str, fault: Fault) -> RekeydError:
    """Return what the adapter of this call raises for a fault (see rekeyd.ports and rekeyd.aws)."""
    if fault is Fault.DENIED:
        return Refused(f"{call}: {fault.value}", reason="permission")
    if fault is Fault.UNKNOWN_KEY:
        return Propagating(f"{call}: {fault.value}")
    if call == "iam.create_key" and fault in UNCERTAIN:
        return Unanswered(f"{call}: {fault.value}")
    return Transient(f"{call}: {fault.value}")


@cache
def told_alike(call: str) -> list[tuple[Fault, ...]]:
    """Group what can go wrong with a call: all of a group do and tell the program the same.

    They differ in the words for people alone, so that to strike with one of them strikes with all.
    """
    groups: dict[object, list[Fault]] = {}
    for fault in POSSIBLE[call]:
        told = error(call, fault)
        alike = (fault.commits, type(told), getattr(told, "reason", None))
        groups.setdefault(fault if fault.kills or fault is Fault.SLOW else alike, []).append(fault)
    return [tuple(group) for group in groups.values()]


FaultPlan = Callable[[int, str], Fault | None]
"""Names the fault of a call, if any, from its number since the start and its name."""


def no_faults(_number: int, _call: str) -> None:
    pass


class Chooser:
    """Decides what the world leaves open: here always the freshest answer, the first option."""

    def choose(self, options: Sequence[Option]) -> Option:
        return options[0]


class Stalest(Chooser):
    """Every front shows the oldest truth that it may still show."""

    def choose(self, options: Sequence[Option]) -> Option:
        return options[-1]


class Dice(Chooser):
    """Any answer that may be shown, from a seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def choose(self, options: Sequence[Option]) -> Option:
        return self._random.choice(options)
