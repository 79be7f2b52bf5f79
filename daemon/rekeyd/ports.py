"""What the core needs from the world. The docstrings are the contract that every adapter keeps.

All methods raise only `rekeyd.errors`: `Transient` when trying again may help, `Refused` when a
person must change something first. All calls return or fail within a bounded time.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TypeVar

from rekeyd.errors import RekeydError
from rekeyd.model import Custody, Key, Snapshot, Timing
from rekeyd.secret import AccessPair, Secret
from rekeyd.steps import Decision


@dataclass(frozen=True, slots=True)
class Listing:
    """All keys of a user, and IAM's own clock (the Date header of the answer)."""

    now: datetime
    keys: tuple[Key, ...]


@dataclass(frozen=True, slots=True)
class NewKey:
    """CreateAccessKey's answer: the only place where the secret ever stands."""

    pair: AccessPair
    created: datetime


class Iam(Protocol):
    """The control plane of one IAM user, signed with the daemon's own credentials."""

    def caller_is_root(self) -> bool:
        """Tell whether the daemon signs as the account's root user."""

    def user_id(self) -> str | None:
        """Return the user's unique id, or None when there is no such user."""

    def list_keys(self) -> Listing:
        """List the user's keys without their last use."""

    def last_used(self, key_id: str) -> datetime | None:
        """Return when a key last signed a request, as far as IAM tells yet."""

    def create_key(self) -> NewKey:
        """Make a key: one request, sent once and never again.

        Raises `Unanswered` when nobody knows whether it was made; anything else means it was not.
        """

    def set_active(self, key_id: str, active: bool) -> datetime:
        """Switch a key; return IAM's clock. Raises `Gone` when it does not exist."""

    def delete_key(self, key_id: str) -> datetime:
        """Delete a key; return IAM's clock. A key that does not exist is success."""


class Consumer(Protocol):
    """The data plane as the backup program meets it."""

    def probe(self, pair: AccessPair) -> None:
        """Use the pair once as a backup would, over fresh connections.

        Raises `Propagating` when the key is not known yet or any more, `Refused` when it is known
        and may not do what a backup needs.
        """


class Sink(Protocol):
    """A place where a consumer reads the pair.

    A pair is written as one object: a reader sees the old pair or the new one, never half of each.
    """

    name: str
    """Unique within the identity: its type and what it points at, as people read it."""

    @property
    def mark(self) -> str:
        """What custody calls it, whatever its name.

        It changes when the sink points elsewhere, or writes in another form.
        """

    @property
    def readable(self) -> bool:
        """Whether `read` works. A write-only sink is followed by custody's ledger instead."""

    def check(self) -> str | None:
        """Prove that `put` would work, without writing anything a consumer could notice.

        Returns what only a delivery can show, to be read after the sink's name; usually nothing.
        """

    def read(self) -> AccessPair | None:
        """Return the pair that the sink holds, or None. Not for write-only ones."""

    def put(self, pair: AccessPair) -> None:
        """Make the sink hold this pair, durably. Doing it twice is the same as doing it once."""


class Sealer(Protocol):
    """Encrypts secrets at rest, bound to the identity and the key id that they belong to."""

    def seal(self, identity: str, pair: AccessPair) -> str:
        """Encrypt the secret of a pair."""

    def unseal(self, identity: str, key_id: str, sealed: str) -> Secret:
        """Decrypt it. Raises `Misconfigured` when the seal or what it is bound to differs."""


@dataclass(frozen=True, slots=True)
class Event:
    """One line of an identity's history: what was done, by which rule, and how it ended."""

    at: datetime
    identity: str
    rule: str
    step: str
    outcome: str  # done | retry | refused | asked
    detail: str = ""


class Channel(Protocol):
    """One way to reach people."""

    name: str

    def check(self) -> None:
        """Prove what can be proved without telling anybody. Raises `rekeyd.errors`."""

    def deliver(self, event: Event) -> None:
        """Hand one event over. Raises `Transient` when trying again may help, else `Refused`."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for: `rotate`, `revoke`, `rollback`, `adopt` an id, `redeliver` to a mark."""

    kind: str
    argument: str = ""


class CustodyStore(Protocol):
    """Custody that outlives a crash: when `save` has returned, the change is on the disk.

    Whoever acts on an identity claims it first, where replicas share a state. `claim`, `renew`,
    `save` and `settle` raise `Elsewhere` when another one has the right to act.
    """

    def claim(self, identity: str) -> None:
        """Take the right to act on an identity until `release`, or keep it."""

    def renew(self, identity: str) -> None:
        """Keep the right to act, as the last thing before an effect leaves this process."""

    def release(self, identity: str) -> None:
        """Give the right to act back. Never fails."""

    def load(self, identity: str) -> Custody:
        """Return what is known; an empty custody for an identity never seen."""

    def save(self, identity: str, custody: Custody) -> None:
        """Replace custody durably. `Transient` (disk full) means: most likely unchanged."""

    def log(self, event: Event) -> None:
        """Append to the history. Best effort: a lost line loses no key."""

    def ask(self, identity: str, request: Request) -> int:
        """Leave a request for whoever has the right to act; return its number."""

    def requests(self, identity: str) -> Sequence[tuple[int, Request]]:
        """Return what people asked for and was not settled yet, oldest first, with its number."""

    def settle(self, identity: str, numbers: Sequence[int], custody: Custody | None) -> None:
        """Take requests off the list, with the custody that they led to, in one transaction."""


T = TypeVar("T")
R = TypeVar("R")


class Each(Protocol):
    """Runs something for each sink, side by side or in turn, and gives the results in order."""

    def __call__(self, function: Callable[[T], R], items: Iterable[T], /) -> Iterable[R]: ...


@dataclass(frozen=True, slots=True)
class Identity:
    """One IAM user that rekeyd looks after, and all that it takes to do so."""

    name: str
    timing: Timing
    iam: Iam
    consumer: Consumer
    sinks: tuple[Sink, ...]
    store: CustodyStore
    sealer: Sealer
    each: Each


class Witness(Protocol):
    """Is told what happens, as it happens: for logs, metrics, history and people who wait."""

    def saw(self, who: Identity, snapshot: Snapshot, decision: Decision) -> None:
        """A look led to a decision."""

    def did(self, identity: str, decision: Decision, detail: str, seconds: float) -> None:
        """A step was performed and its fact recorded."""

    def failed(self, identity: str, rule: str, error: RekeydError, retry: float) -> None:
        """A look or a step failed, and will be tried again after `retry` seconds."""

    def rotated(self, identity: str) -> None:
        """A new pair has reached every sink for the first time."""

    def granted(self, identity: str, kind: str, refusal: RekeydError | None) -> None:
        """What a person asked for was taken into custody, or refused."""
