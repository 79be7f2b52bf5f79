"""The lives of an identity's pairs, pieced together from its history and its last look."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from rekeyd.ports import Event
from rekeyd.view import KeyStatus, Status

MOST = 4
"""How many lives are told, the newest: what a person sees at a glance."""

_KEY = re.compile(r"…\w{4}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """One pair from its mint to its deletion, as far as it got and as far as is known."""

    key: str
    created: datetime
    seen: datetime  # it was last seen to exist
    current: datetime | None = None  # every sink held it
    replaced: datetime | None = None  # every sink held the next one
    deactivated: datetime | None = None
    deleted: datetime | None = None
    state: str = "gone"

    @property
    def exists(self) -> bool:
        """Whether the last look saw it."""
        return self.deleted is None and self.state != "gone"

    def phases(self) -> Iterator[tuple[str, datetime, datetime]]:
        """Yield what it was, from when, until when: new, current, superseded, inactive, foreign."""
        end = self.deleted or self.seen
        if self.state in {"foreign", "orphan"}:
            yield self.state, self.created, end
            return
        turns = [
            ("new", self.created),
            ("current", self.current),
            ("superseded", self.replaced),
            ("inactive", self.deactivated),
        ]
        known = [(name, at) for name, at in turns if at]
        ends = [*(at for _, at in known[1:]), end]
        yield from ((name, at, until) for (name, at), until in zip(known, ends, strict=True))


def lives(status: Status, events: Sequence[Event]) -> list[Life]:
    """Tell the newest lives, oldest first. Events too are oldest first; gaps in them do no harm."""
    told = _from_history(events)
    for key in status.keys:
        if key.created:
            told[key.key] = _from_look(key, key.created, told.get(key.key), status.at)
    found = sorted(told.values(), key=lambda life: life.created)[-MOST:]
    return [
        replace(life, replaced=_replaced(life, [n.current for n in found[place + 1 :]]))
        for place, life in enumerate(found)
    ]


def _replaced(life: Life, later: Sequence[datetime | None]) -> datetime | None:
    if life.current is None or life.state == "current":
        return None
    return min((at for at in later if at and at >= life.current), default=None)


def _from_history(events: Sequence[Event]) -> dict[str, Life]:
    told: dict[str, Life] = {}
    minted: datetime | None = None
    last = ""
    for event in events:
        if event.outcome != "done":
            continue
        if event.step == "mint":
            minted = event.at
        elif event.step == "rotated" and last in told:
            told[last] = replace(told[last], current=event.at)
        elif named := _KEY.search(event.detail):
            last = named[0]
            if last not in told and minted:
                told[last] = Life(key=last, created=minted, seen=event.at)
                minted = None
            if last in told:
                told[last] = _went_on(told[last], event)
    return told


def _went_on(life: Life, event: Event) -> Life:
    life = replace(life, seen=event.at)
    match event.step:
        case "deactivate":
            return replace(life, deactivated=event.at)
        case "activate":
            return replace(life, deactivated=None)
        case "delete":
            return replace(life, deleted=event.at)
    return life


def _from_look(key: KeyStatus, created: datetime, told: Life | None, at: datetime) -> Life:
    return Life(
        key=key.key,
        created=created,
        seen=at,
        current=key.current_since or (told.current if told else None),
        deactivated=key.deactivated,
        state=key.state,
    )
