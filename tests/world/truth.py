"""What is true, as nobody in the program can see it: keys, sinks, custody, and who did what.

Nothing here changes and every container is replaced instead of changed, so a `Truth` can be kept,
compared, and gone back to for the price of a reference. Tuples are what can be made fastest, and
proofs make one a call.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from rekeyd.model import Custody
from rekeyd.ports import Request
from rekeyd.secret import AccessPair, Secret

START = datetime(2026, 3, 1, 3, 0, tzinfo=UTC)

ACTIVE = "Active"
INACTIVE = "Inactive"
ABSENT = "absent"

US = "rekeyd"
PERSON = "a person"


class Change(NamedTuple):
    at: datetime
    status: str
    by: str


class TrueKey(NamedTuple):
    """One access key through its whole life. Its uses are kept as far back as IAM's lag reaches."""

    id: str
    secret: str
    user_id: str
    changes: tuple[Change, ...]
    uses: tuple[datetime, ...] = ()

    @property
    def created(self) -> datetime:
        return self.changes[0].at

    @property
    def maker(self) -> str:
        return self.changes[0].by

    @property
    def pair(self) -> AccessPair:
        return AccessPair(self.id, Secret(self.secret))

    @property
    def status(self) -> str:
        return self.changes[-1].status

    @property
    def exists(self) -> bool:
        return self.changes[-1].status != ABSENT

    def became(self, at: datetime, status: str, by: str) -> "TrueKey":
        return self._replace(changes=(*self.changes, Change(at, status, by)))

    def used(self, at: datetime, lag: timedelta) -> "TrueKey":
        recent = [use for use in self.uses if use > at - lag]
        older = [use for use in self.uses if use <= at - lag][-1:]
        return self._replace(uses=(*older, *recent, at))

    def shown(self, now: datetime, delay: timedelta) -> tuple[str, ...]:
        """Return what a front of this delay may show now, the truth first, the oldest last."""
        seen: list[str] = []
        for change in reversed(self.changes):
            if change.status not in seen:
                seen.append(change.status)
            if change.at <= now - delay:
                return tuple(seen)
        return tuple(seen) if ABSENT in seen else (*seen, ABSENT)

    def uses_shown(self, now: datetime, lag: timedelta) -> tuple[datetime | None, ...]:
        """Return what GetAccessKeyLastUsed may answer now, the truth first."""
        recent = [use for use in reversed(self.uses) if use > now - lag]
        older = next((use for use in reversed(self.uses) if use <= now - lag), None)
        return (*recent, older)


class Lease(NamedTuple):
    """Who may act, where replicas share a state: whoever knows the fence, while it is held."""

    held: bool = False
    fence: int = 0
    renewed: datetime = START


class TrueSink(NamedTuple):
    """What a sink holds, who put it there, and whether it works.

    `trouble` is None, or `down` (nothing works), `denied` (everything is refused), `read_only` (it
    says so when asked), `full` (only `put` fails, and nothing says so before), or `forgetful` (a
    `put` seems to succeed and changes nothing).
    """

    readable: bool = True
    pair: AccessPair | None = None
    by: str = PERSON
    noticed: bool = True
    """Whether the program has read it, or tried to, since a person last wrote it."""
    trouble: str | None = None
    held: Mapping[str, datetime] = {}
    """Until when it held which other key."""


class Truth(NamedTuple):
    """The whole world at one instant."""

    now: datetime = START
    users: tuple[tuple[datetime, str | None], ...] = ((START, "AIDAUSER1"),)
    keys: Mapping[str, TrueKey] = {}
    sinks: Mapping[str, TrueSink] = {}
    unnamed: Mapping[str, TrueSink] = {}
    """The sinks that the configuration does not name any more."""
    custody: Custody = Custody()
    lease: Lease = Lease()
    requests: tuple[tuple[int, Request], ...] = ()
    asked: int = 0
    revoked: frozenset[str] = frozenset()
    """The keys that a person has called leaked."""
    seen_used: Mapping[str, datetime] = {}
    """The last use of each key that the program was told of."""
    intents: tuple[datetime, ...] = ()
    """When the last mints were begun."""
    minted: str | None = None
    """The key of the last CreateAccessKey, until custody knows it or it is deleted."""

    def after(self, duration: timedelta) -> "Truth":
        """Return the same so much later."""
        return Truth(self.now + duration, *self[1:])

    @property
    def user_id(self) -> str | None:
        return self.users[-1][1]

    @property
    def living(self) -> list[TrueKey]:
        """The keys that the user has, in the order of their making."""
        return [k for k in self.keys.values() if k.exists and k.user_id == self.user_id]

    @property
    def active(self) -> list[TrueKey]:
        return [key for key in self.living if key.status == ACTIVE]

    def holders(self, key_id: str) -> list[str]:
        return [n for n, sink in self.sinks.items() if sink.pair and sink.pair.key_id == key_id]
