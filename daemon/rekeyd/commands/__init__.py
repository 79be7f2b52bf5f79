"""What the commands do, and how they show it: tables for people, one JSON document for programs."""

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from shutil import get_terminal_size
from textwrap import wrap
from typing import Any

import click

from rekeyd.exits import CONFIG, DONE, FAILED, HELD, UNREACHABLE
from rekeyd.ports import Event

MARKS = {"done": ("✓", "green"), "retry": ("…", "yellow"), "refused": ("✗", "red")}

NARROWEST = 20
"""Characters that a text gets beside what stands before it; a terminal breaks it below that."""


def worst(codes: Iterable[int]) -> int:
    """Return the one exit code of several that a person has to know of first."""
    found = set(codes)
    return next((code for code in (CONFIG, FAILED, HELD, UNREACHABLE) if code in found), DONE)


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay rows out in columns as wide as they need to be; the last one fits the terminal."""
    lines = [list(headings), *(list(row) for row in rows)]
    widths = [max(len(click.unstyle(line[i])) for line in lines) for i in range(len(headings) - 1)]
    shown = []
    for *cells, last in lines:
        padded = [c + " " * (w - len(click.unstyle(c))) for c, w in zip(cells, widths, strict=True)]
        shown.append(hanging("".join(f"{cell}  " for cell in padded), last).rstrip())
    return "\n".join([click.style(shown[0], bold=True), *shown[1:]])


def hanging(lead: str, text: str, *, err: bool = False) -> str:
    """Put a text behind its lead; on a terminal its further lines begin below its first."""
    indent = len(click.unstyle(lead))
    room = get_terminal_size().columns - indent
    stream = sys.stderr if err else sys.stdout
    if not stream.isatty() or room < NARROWEST:
        return lead + text
    lines = [piece for line in text.splitlines() for piece in _wrapped(line, room)]
    return lead + f"\n{' ' * indent}".join(lines)


def _wrapped(line: str, room: int) -> list[str]:
    if len(click.unstyle(line)) <= room:
        return [line]
    return wrap(line, room, break_long_words=False, break_on_hyphens=False)


def say(what: str, do: str = "", *, lead: str = "", err: bool = False) -> None:
    """Say what happened and, below it, what to do."""
    click.echo(hanging(lead, what, err=err), err=err)
    if do:
        indent = " " * (len(lead) - len(lead.lstrip()))
        click.echo(hanging(f"{indent}  → ", do, err=err), err=err)


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
    return hanging(f"{event.at.astimezone():%H:%M:%S}  {name}{step}  ", event.detail)


def print_json(document: Any) -> None:
    """Print a document as UTF-8 in every locale, since programs read it (RFC 8259, 8.1)."""
    text = json.dumps(document, indent=2, default=_plain, ensure_ascii=False)
    click.echo(text.encode(errors="replace"))


def _plain(value: Any) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return str(value)
