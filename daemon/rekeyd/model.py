"""The vocabulary of a rotation: what IAM says, and what custody knows.

Frozen data without I/O. Every instant is an aware UTC `datetime` of the server's clock; every
duration is a `timedelta`. The invariants that all of rekeyd serves:

S1  At every instant every sink holds an Active key of the right user.
S2  No key is deleted that a sink holds, that was lately in use, or that is not ours; every deletion
    is preceded by Inactive and a grace.
S3  Never a mint with two keys listed, never two rotations of one identity at once.
S4  No secret leaves custody but to a sink.
L1  Once faults cease: exactly one Active key, held by every sink, or a Hold that says why.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any


@dataclass(frozen=True, slots=True)
class Key:
    """One access key as IAM lists it. `last_used` lags, by hours at times."""

    id: str
    active: bool
    created: datetime | None  # None: a store that is not AWS may not tell
    last_used: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """What custody knows of one key of ours.

    Without a `sealed` secret it is an orphan (the mint's answer was lost), or it was `adopted`.
    """

    key_id: str
    minted: datetime
    sealed: str | None = None
    fingerprint: str = ""
    adopted: bool = False
    refused: datetime | None = None  # a probe with it was last refused
    verified: datetime | None = None  # it was proved to work as the consumer uses it
    delivered: Mapping[str, datetime] = field(default_factory=dict)  # mark: first handed to it
    arrived: datetime | None = None  # every sink held it for the first time
    current: datetime | None = None  # since when every sink was seen to hold it
    given_up: datetime | None = None  # it shall not be delivered any more
    retiring: datetime | None = None  # it was decided to deactivate it
    deactivated: datetime | None = None
    restored: datetime | None = None  # it was made Active, current or ours again
    revoked: datetime | None = None  # it leaked: retired without overlap and grace
    missing: datetime | None = None  # IAM was first seen not to list it
    deleted: datetime | None = None

    @property
    def born(self) -> datetime:
        """The instant from which its age counts."""
        return max(self.minted, self.restored or self.minted)

    @property
    def orphan(self) -> bool:
        return self.sealed is None and not self.adopted

    @property
    def handed_out(self) -> bool:
        """Whether anybody but custody can know its secret."""
        return self.adopted or bool(self.delivered)


@dataclass(frozen=True, slots=True)
class Intent:
    """Written before the call that cannot be repeated: when, and which keys there were.

    Only once a look finds it open is that call known to be over: a process can be stopped in it.
    """

    at: datetime
    known: frozenset[str]
    found: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Custody:
    """What rekeyd durably knows of an identity, beyond what IAM can tell."""

    user_id: str | None = None  # a user deleted and made again has another one
    intent: Intent | None = None
    pairs: tuple[Pair, ...] = ()  # in the order in which they became ours
    asked: datetime | None = None  # a rotation was asked for
    rotated: datetime | None = None  # a new pair last reached every sink
    ledger: Mapping[str, str] = field(default_factory=dict)  # mark: key id last put, "" in doubt
    gone: tuple[str, ...] = ()  # ids that were ours

    def with_pair(self, key_id: str, **changes: Any) -> "Custody":
        """Return this custody with one pair changed."""
        return replace(
            self,
            pairs=tuple(replace(p, **changes) if p.key_id == key_id else p for p in self.pairs),
        )

    def without_pair(self, key_id: str) -> "Custody":
        """Return this custody without a pair, whose id is remembered as once ours."""
        return replace(
            self,
            pairs=tuple(p for p in self.pairs if p.key_id != key_id),
            gone=(*self.gone, key_id)[-16:],
        )

    def promote(self, pair: Pair, key: Key, now: datetime) -> "Custody":
        """Return this custody with `pair` chosen again, and every newer one given up."""
        newer = [p for p in self.pairs[self.pairs.index(pair) + 1 :] if not p.given_up]
        off = pair.deactivated or pair.retiring or (None if key.active else now)
        chosen = self.with_pair(
            pair.key_id,
            **dict.fromkeys(("given_up", "verified", "refused", "current", "retiring")),
            restored=now,
            deactivated=off,  # a listing may be stale: better activate it once too often
        )
        for other in newer:
            chosen = chosen.with_pair(other.key_id, given_up=now)
        return chosen


@dataclass(frozen=True, slots=True)
class SinkView:
    """What a look at one sink found: the key id that it holds, or why that cannot be told."""

    name: str
    holds: str | None = None  # "" in doubt: a put to a write-only sink was interrupted
    problem: str | None = None
    mark: str = ""  # what custody calls it


@dataclass(frozen=True, slots=True)
class Timing:
    """An identity's rotation times. `due` gives the instant at which a key of that birth is due."""

    due: Callable[[datetime], datetime]
    overlap: timedelta
    grace: timedelta
    settle: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One look at everything that a decision depends on. `now` is the Date of IAM's listing."""

    now: datetime
    user_id: str | None  # None: IAM knows no such user
    taken: float = 0.0  # seconds since this machine started, when IAM was asked
    root: bool = False  # the caller signs as the account's root user
    keys: tuple[Key, ...] = ()
    custody: Custody = field(default_factory=Custody)
    sinks: tuple[SinkView, ...] = ()

    @property
    def listed(self) -> dict[str, Key]:
        return {key.id: key for key in self.keys}

    @property
    def target(self) -> Pair | None:
        """The pair that every sink should hold: the newest whose secret we have."""
        return next(iter(self._candidates(lambda p: p.given_up is None)), None)

    @property
    def fallback(self) -> Pair | None:
        """The pair to go back to when the target is dead: proved once, and still listed."""
        fit = self._candidates(lambda p: p.verified and not p.revoked and p.key_id in self.listed)
        return next((pair for pair in fit if pair != self.target), None)

    def _candidates(self, fit: Callable[[Pair], object]) -> list[Pair]:
        usable = [p for p in self.custody.pairs if p.sealed and not p.deleted and fit(p)]
        return usable[::-1]

    def back_to(self, pair: Pair) -> Custody:
        """Return custody with a pair that is listed chosen to be current again."""
        return self.custody.promote(pair, self.listed[pair.key_id], self.now)

    @property
    def ours(self) -> set[str]:
        """Every key id that is or was ours."""
        return {pair.key_id for pair in self.custody.pairs} | set(self.custody.gone)

    @property
    def foreign(self) -> tuple[Key, ...]:
        return tuple(key for key in self.keys if key.id not in self.ours)

    def holders(self, key_id: str) -> list[str]:
        return [sink.name for sink in self.sinks if sink.holds == key_id]

    @property
    def strangers(self) -> list[SinkView]:
        """The sinks that hold a key which is not ours."""
        return [sink for sink in self.sinks if sink.holds and sink.holds not in self.ours]

    def dead(self, pair: Pair, timing: Timing) -> bool:
        """Whether somebody else ended it. While it is younger than `settle`, a listing may lie."""
        key = self.listed.get(pair.key_id)
        gone = key is None or (not key.active and pair.deactivated is None)
        return gone and self.now >= pair.born + timing.settle
