"""Durations and crontab lines, as people write them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

UNITS = {"w": 604_800, "d": 86_400, "h": 3_600, "m": 60, "s": 1}
DURATION = r"^(?=\d)(\d{1,9}w)?(\d{1,9}d)?(\d{1,9}h)?(\d{1,9}m)?(\d{1,9}s)?$"
"""What a duration looks like, in the regular expressions of JSON Schema and of Python."""

LONGEST = timedelta(days=3660)
_PARTS = re.compile(DURATION, re.ASCII)

MACROS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
}
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_EPOCH = date(2024, 1, 1)
_HORIZON = 366 * 9
"""Days. Nothing that fires at all waits longer: 29 February is at most 8 years away."""


def duration(text: object) -> timedelta:
    """Read a duration such as `30s`, `15m`, `12h`, `90d` or `1h30m`.

    Raises `ValueError` for anything else, and for more than ten years.
    """
    if not isinstance(text, str) or "\n" in text or not (parts := _PARTS.match(text)):
        raise ValueError("is not a duration with its unit; write it as 30s, 15m, 12h, 90d or 1h30m")
    seconds = sum(int(part[:-1]) * UNITS[part[-1]] for part in parts.groups() if part)
    if seconds > LONGEST.total_seconds():
        raise ValueError("is longer than ten years; write at most 3660d")
    return timedelta(seconds=seconds)


def duration_text(length: timedelta) -> str:
    """Write a duration of whole seconds so that `duration` reads it back."""
    left = int(length.total_seconds())
    text = ""
    for unit, size in UNITS.items():
        count, left = divmod(left, size)
        if count and unit != "w":
            text += f"{count}{unit}"
        else:
            left += count * size
    return text or "0s"


Duration = Annotated[
    timedelta,
    BeforeValidator(duration),
    PlainSerializer(duration_text),
    WithJsonSchema({"type": "string", "pattern": DURATION, "examples": ["30s", "15m", "12h"]}),
]
"""A setting that is a duration."""


@dataclass(frozen=True, slots=True)
class Crontab:
    """The five time fields of crontab(5), in UTC. Weekdays count from Sunday, 0 or 7."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    either_day: bool
    """Day of the month and weekday are both restricted, so that either is enough (crontab(5))."""

    @classmethod
    def parse(cls, text: str) -> "Crontab":
        """Read a line such as `0 3 * * sun`. Raises `ValueError` saying which field is wrong."""
        fields = MACROS.get(text.strip(), text).split()
        if len(fields) != 5:
            raise ValueError(
                "is not the five fields of a crontab, minute hour day month weekday, but"
                f' {len(fields)}; write for example "0 3 * * sun"'
            )
        minute, hour, day, month, weekday = fields
        crontab = cls(
            minutes=_field("minute", minute, 0, 59),
            hours=_field("hour", hour, 0, 23),
            days=_field("day", day, 1, 31),
            months=_field("month", month, 1, 12, _MONTHS),
            weekdays=frozenset(d % 7 for d in _field("weekday", weekday, 0, 7, _WEEKDAYS)),
            either_day=not day.startswith("*") and not weekday.startswith("*"),
        )
        if next(crontab._days_from(_EPOCH), None) is None:
            raise ValueError("never fires, for no such month has that day; write another day")
        return crontab

    def next_after(self, instant: datetime) -> datetime:
        """Return the first time that it fires after an instant."""
        instant = instant.astimezone(UTC)
        return next(
            fires
            for day in self._days_from(instant.date())
            for minutes in self._times()
            if (fires := datetime.combine(day, time(*divmod(minutes, 60)), UTC)) > instant
        )

    def smallest_gap(self) -> timedelta:
        """Return the shortest time from one firing to the next."""
        times = self._times()
        within = [later - sooner for sooner, later in pairwise(times)]
        nights = [(later - sooner).days for sooner, later in pairwise(self._days_from(_EPOCH))]
        across = min(nights, default=_HORIZON) * 1440 - times[-1] + times[0]
        return timedelta(minutes=min([*within, across]))

    def _times(self) -> list[int]:
        return sorted(hour * 60 + minute for hour in self.hours for minute in self.minutes)

    def _days_from(self, first: date) -> Iterator[date]:
        days = (first + timedelta(days=n) for n in range(_HORIZON))
        return (day for day in days if self._fires_on(day))

    def _fires_on(self, day: date) -> bool:
        in_month = day.day in self.days
        in_week = day.isoweekday() % 7 in self.weekdays
        fits = (in_month or in_week) if self.either_day else (in_month and in_week)
        return fits and day.month in self.months


def _field(
    name: str, text: str, lowest: int, highest: int, names: tuple[str, ...] = ()
) -> frozenset[int]:
    values: set[int] = set()
    for part in text.lower().split(","):
        span, slash, step = part.partition("/")
        first, dash, last = span.partition("-")
        if span == "*":
            start, stop = lowest, highest
        else:
            start = _number(name, first, lowest, highest, names)
            stop = _number(name, last, lowest, highest, names) if dash else start
            if slash and not dash:
                stop = highest
        if stop < start:
            raise ValueError(
                f"has the {name}s {span!r} the wrong way round; begin with the smaller"
            )
        values.update(range(start, stop + 1, _step(name, step) if slash else 1))
    return frozenset(values)


def _number(name: str, text: str, lowest: int, highest: int, names: tuple[str, ...]) -> int:
    if text in names:
        return names.index(text) + (lowest if highest == 12 else 0)
    if re.fullmatch(r"[0-9]{1,2}", text) and lowest <= int(text) <= highest:
        return int(text)
    known = f", or {names[0]} to {names[-1]}" if names else ""
    raise ValueError(f"has no {name} {text[:20]!r}; write {lowest} to {highest}{known}")


def _step(name: str, text: str) -> int:
    if re.fullmatch(r"[1-9][0-9]?", text):
        return int(text)
    raise ValueError(f"has no step {text[:20]!r} of {name}s; write a number above 0, as in */15")
