"""What the commands do, and how they show it: tables for people, one JSON document for programs."""

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import click

from rekeyd.ports import Event

MARKS = {"done": ("✓", "green"), "retry": ("…", "yellow"), "refused": ("✗", "red")}


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay rows out in columns as wide as they need to be, without trailing blanks."""
    lines = [list(headings), *(list(row) for row in rows)]
    widths = [max(len(click.unstyle(line[i])) for line in lines) for i in range(len(headings))]
    shown = []
    for line in lines:
        cells = [c + " " * (w - len(click.unstyle(c))) for c, w in zip(line, widths, strict=True)]
        shown.append("  ".join(cells).rstrip())
    return "\n".join([click.style(shown[0], bold=True), *shown[1:]])


def ago(instant: datetime | None, now: datetime | None = None) -> str:
    """Say how far an instant is from now, as people would: `3 d ago`, `in 12 h`, `-` for none."""
    if instant is None:
        return "-"
    seconds = (instant - (now or datetime.now(UTC))).total_seconds()
    length = _length(abs(seconds))
    return f"in {length}" if seconds > 0 else f"{length} ago"


def _length(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def event_line(event: Event, *, named: bool = True) -> str:
    """Show one event of the history on a line."""
    mark, colour = MARKS.get(event.outcome, ("·", "white"))
    name = f"{event.identity}  " if named else ""
    step = click.style(f"{mark} {event.step:<10}", fg=colour)
    return f"{event.at.astimezone():%H:%M:%S}  {name}{step}  {event.detail}"


def print_json(document: Any) -> None:
    click.echo(json.dumps(document, indent=2, default=_plain, ensure_ascii=False))


def _plain(value: Any) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return str(value)
