"""The status page: one self-contained document that needs no script and no other address."""

import re
from base64 import b64encode
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import sha256
from importlib.resources import files

from rekeyd import __version__
from rekeyd.lives import Life, lives
from rekeyd.markup import Markup, join, raw, tag
from rekeyd.ports import Event
from rekeyd.view import SinkStatus, Status

TOGETHER = "\N{NO-BREAK SPACE}"

ROW = 38
"""Pixels that one pair takes in the picture."""

TOP = 22
"""Pixels above the first one, for the word `now`."""

THINNEST = 0.4
"""Per cent of the picture's width that a bar has at least, so that it is seen."""

FEW = 3
"""How many identities are seen at a glance without a list of them."""

PHASES = {
    "new": "new: being proved and delivered",
    "current": "current: every sink holds it",
    "superseded": "superseded, still Active",
    "inactive": "Inactive, can be brought back",
    "orphan": "its secret is lost",
    "foreign": "not ours",
}

_UNITS = (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1))


@cache
def style() -> str:
    """Return the page's style sheet."""
    return files("rekeyd").joinpath("page.css").read_text("utf-8")


@cache
def policy() -> str:
    """Return the Content-Security-Policy under which the page shows as it should, and no more."""
    digest = b64encode(sha256(style().encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def page(
    statuses: Sequence[Status], timeline: Callable[[str], Sequence[Event]], now: datetime
) -> bytes:
    """Draw how every identity stands. Those that wait for a person come first."""
    ordered = sorted(statuses, key=lambda s: (s.hold is None, s.failing is None, s.identity))
    cards = [
        _card(f"identity-{place}", status, timeline(status.identity), now)
        for place, status in enumerate(ordered)
    ]
    head = tag(
        "head",
        raw('<meta charset="utf-8">'),
        raw('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        raw('<meta name="color-scheme" content="light dark">'),
        tag("title", f"rekeyd: {_summary(ordered)}"),
        tag("style", raw(style())),
    )
    body = tag(
        "body",
        tag("header", tag("h1", "rekeyd"), _headline(ordered), _overview(ordered)),
        tag("main", *cards) if cards else tag("main", tag("p", "Nothing has been looked at yet.")),
        _legend() if cards else None,
        tag(
            "footer",
            tag("p", f"rekeyd {__version__}, as of ", _instant(now)),
            tag("nav", _link("/metrics"), _link("/api/v1/status"), aria_label="For machines"),
        ),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n".encode()


def _link(path: str) -> Markup:
    return tag("a", path, href=path)


def _headline(statuses: Sequence[Status]) -> Markup:
    worst = _mood(statuses[0]) if statuses else ("busy", "…")
    return tag("p", _icon(worst[1]), _summary(statuses), class_=f"summary {worst[0]}")


def _overview(statuses: Sequence[Status]) -> Markup | None:
    """List the identities, those that wait for a person first, where there are many."""
    if len(statuses) <= FEW:
        return None
    items = []
    for place, status in enumerate(statuses):
        mood, icon = _mood(status)
        link = tag("a", _icon(icon), status.identity, href=f"#identity-{place}", class_=mood)
        items.append(tag("li", link))
    return tag("nav", tag("ul", *items), class_="overview", aria_label="Identities")


def _summary(statuses: Sequence[Status]) -> str:
    held = sum(status.hold is not None for status in statuses)
    failing = sum(status.hold is None and status.failing is not None for status in statuses)
    total = _many(len(statuses), "identity", "identities")
    if held:
        return f"{held} of {total} {'waits' if held == 1 else 'wait'} for you"
    if failing:
        return f"{failing} of {total} {'is' if failing == 1 else 'are'} being tried again"
    if not statuses:
        return "starting"
    return f"{total}, {'all ' if len(statuses) > 1 else ''}in order"


def _card(place: str, status: Status, events: Sequence[Event], now: datetime) -> Markup:
    told = lives(status, events)
    return tag(
        "article",
        tag("div", tag("h2", status.identity), _badge(status), class_="title"),
        _hold(status) or _failing(status, now) or tag("p", _sentence(status.message), class_="now"),
        _facts(status, now),
        _sinks(status.sinks),
        tag("section", tag("h3", "Pairs in time"), *_timeline(status, told, now)) if told else None,
        tag("p", "last look ", _ago(status.at, now), f" · rule {status.rule}", class_="look"),
        id=place,
    )


def _badge(status: Status) -> Markup:
    mood, icon = _mood(status)
    said = {"bad": "on hold", "warn": "trying again", "good": "in order", "busy": status.stage}
    return tag("p", _icon(icon), said[mood], class_=f"badge {mood}")


def _mood(status: Status) -> tuple[str, str]:
    """Tell how an identity does: a class of the style sheet, and a sign that needs no colour."""
    if status.hold:
        return "bad", "!"
    if status.failing:
        return "warn", "↻"
    return ("good", "✓") if status.stage == "resting" else ("busy", "→")


def _icon(character: str) -> Markup:
    return tag("span", character, class_="icon", aria_hidden="true")


def _hold(status: Status) -> Markup | None:
    if status.hold is None:
        return None
    return tag(
        "div",
        tag("p", _sentence(status.hold.what)),
        tag("p", tag("strong", "What to do: "), _words(_addressed(status.hold.do, status))),
        class_="notice bad",
    )


def _addressed(text: str, status: Status) -> str:
    """Name the identity in a command, so that it can be copied as it is."""
    return text.replace("IDENTITY", status.identity)


def _failing(status: Status, now: datetime) -> Markup | None:
    if status.failing is None:
        return None
    again = tag("p", "Tried again ", _until(status.retry_at, now)) if status.retry_at else None
    return tag("div", tag("p", _sentence(status.failing)), again, class_="notice warn")


def _sentence(text: str) -> Markup:
    """Begin with a capital, unless the first word is a name."""
    name = not text.split(" ", maxsplit=1)[0].isalpha() or text.startswith("rekeyd")
    return _words(text if name else text[0].upper() + text[1:])


def _words(text: str) -> Markup:
    """Write what stands in backquotes as code."""
    parts = re.split(r"`([^`]*)`", text)
    return join(*(tag("code", part) if odd % 2 else part for odd, part in enumerate(parts)))


def _facts(status: Status, now: datetime) -> Markup:
    key = status.current
    facts: list[tuple[str, Markup]] = [
        ("Current key", join(key.key) if key else join("none yet")),
        ("Its age", _age(key.created, now) if key and key.created else join("not known")),
        ("Next rotation", _next(status, now)),
        ("Last rotation", _ago(status.last_rotation, now)),
    ]
    return tag(
        "dl",
        *(tag("div", tag("dt", name), tag("dd", value)) for name, value in facts),
        class_="facts",
    )


def _next(status: Status, now: datetime) -> Markup:
    waiting = status.asked or (status.next_rotation and status.next_rotation <= now)
    if waiting and status.hold:
        return join("waits for you")
    if status.asked:
        return join("asked for, now")
    return _until(status.next_rotation, now)


def _sinks(sinks: Sequence[SinkStatus]) -> Markup | None:
    if not sinks:
        return None
    return tag(
        "section", tag("h3", "Sinks"), tag("ul", *(_sink(sink) for sink in sinks), class_="sinks")
    )


def _sink(sink: SinkStatus) -> Markup:
    kind, icon, words = "bad", "✗", "does not hold the current pair"
    if sink.current:
        kind, icon, words = "good", "✓", "holds the current pair"
    if sink.problem:
        kind, icon, words = "warn", "?", sink.problem
    said = tag("span", _icon(icon), words, class_=f"state {kind}")
    return tag("li", tag("span", sink.name, class_="name"), said)


def _timeline(status: Status, told: Sequence[Life], now: datetime) -> list[Markup]:
    own = [life.created for life in told if life.state != "foreign"] or [told[0].created]
    start, due = min(own), status.next_rotation or now
    past = max(now - start, timedelta(seconds=1))
    scale = _Scale(start, max(start + past, min(due, now + past / 2)))
    words = [_life_in_words(life) for life in told]
    return [
        _picture(told, scale, now, due),
        tag("details", tag("summary", "In words"), tag("ol", *(tag("li", said) for said in words))),
    ]


class _Scale:
    """Where an instant stands between two others, in per cent."""

    def __init__(self, start: datetime, end: datetime) -> None:
        self.start, self.end = start, end

    def place(self, at: datetime) -> float:
        return max(0.0, min(100.0, 100 * ((at - self.start) / (self.end - self.start))))

    def name(self, at: datetime) -> str:
        """Say an instant no finer than this scale can show it."""
        span = self.end - self.start
        if span < timedelta(hours=1):
            return f"{at.astimezone(UTC):%H:%M:%S}"
        if span < timedelta(days=5):
            return f"{at.astimezone(UTC):%-d %b %H:%M}"
        return f"{at.astimezone(UTC):%-d %b %Y}"


def _picture(told: Sequence[Life], scale: _Scale, now: datetime, due: datetime) -> Markup:
    bottom = TOP + ROW * len(told)
    marks = [_mark(scale.place(now), bottom, "now", "now")]
    labels = [_text(0, bottom + 16, scale.name(scale.start), "axis")]
    if now < due <= scale.end:
        marks.append(_mark(100, bottom, "due", None))
        labels.append(_text(100, bottom + 16, f"next {scale.name(due)}", "axis"))
    elif due > scale.end:
        far = _Scale(scale.start, due).name(due)
        labels.append(_text(100, bottom + 16, f"next {far} \N{RIGHTWARDS ARROW}", "axis"))
    rows = [_row(life, TOP + ROW * place, scale, now) for place, life in enumerate(told)]
    return tag(
        "svg",
        tag("line", x1="0", x2="100%", y1=str(bottom), y2=str(bottom), class_="base"),
        *marks,
        *rows,
        *labels,
        role="img",
        width="100%",
        height=str(bottom + 24),
        aria_label=f"{_many(len(told), 'pair', 'pairs')} in time; the words below say the same",
    )


def _mark(place: float, bottom: int, kind: str, word: str | None) -> Markup:
    x = f"{place:.2f}%"
    line = tag("line", x1=x, x2=x, y1=str(TOP - 6), y2=str(bottom), class_=kind)
    return join(line, _text(place, TOP - 10, word, "axis") if word else None)


def _row(life: Life, top: int, scale: _Scale, now: datetime) -> Markup:
    phases = list(life.phases())
    bars = [_bar(*phase, top + 18, scale) for phase in phases]
    if life.exists and scale.place(now) - scale.place(life.seen) > THINNEST:
        bars.append(_bar(f"{phases[-1][0]} since", life.seen, now, top + 18, scale))
    end = scale.place(life.deleted or life.seen)
    deleted = _cross(end, top + 24) if life.deleted else None
    start = scale.place(life.created)
    place = start if start < 50 else max(end, start)
    return tag(
        "g",
        *bars,
        deleted,
        _text(place, top + 12, f"{life.key} {_state(life)}", "key", start >= 50),
    )


def _bar(kind: str, start: datetime, end: datetime, top: int, scale: _Scale) -> Markup:
    phase, _, since = kind.partition(" ")
    left = scale.place(start)
    width = max(scale.place(end) - left, THINNEST)
    return tag(
        "rect",
        tag("title", PHASES[phase] + (", at the last look" if since else "")),
        x=f"{left:.2f}%",
        width=f"{width:.2f}%",
        y=str(top),
        height="12",
        rx="2",
        class_=f"bar {kind}",
        fill="url(#stripes)" if phase == "superseded" else None,
    )


def _cross(place: float, middle: int) -> Markup:
    return tag("text", "✕", x=f"{place:.2f}%", y=str(middle + 5), dx="3", class_="cross")


def _text(place: float, y: int, words: str, kind: str, end: bool | None = None) -> Markup:
    anchor = "end" if (place > 85 if end is None else end) else "start"
    if end is None and 15 < place <= 85:
        anchor = "middle"
    dx = "-5" if end else None  # clear of the line that says now
    return tag("text", words, x=f"{place:.2f}%", y=str(y), text_anchor=anchor, dx=dx, class_=kind)


def _life_in_words(life: Life) -> Markup:
    steps = [
        ("made ", life.created),
        ("current ", life.current),
        ("replaced ", life.replaced),
        ("deactivated ", life.deactivated),
        ("deleted ", life.deleted),
    ]
    told = [join(word, _instant(at)) for word, at in steps if at]
    between = [part for step in told for part in (step, ", ")][:-1]
    return join(tag("strong", life.key), f" ({_state(life)}): ", *between)


def _state(life: Life) -> str:
    if life.deleted:
        return "deleted"
    return "no longer there" if life.state == "gone" else life.state


def _legend() -> Markup:
    """Explain the bars, and hold the stripes that all pictures use."""
    stripes = tag(
        "pattern",
        tag("rect", width="6", height="6", class_="stripe-ground"),
        tag("rect", width="3", height="6", class_="stripe"),
        id="stripes",
        width="6",
        height="6",
        patternUnits="userSpaceOnUse",
        patternTransform="rotate(45)",
    )
    samples = [
        tag("li", _sample(phase, stripes if phase == "superseded" else None), words)
        for phase, words in PHASES.items()
    ]
    return tag("aside", tag("ul", *samples), class_="legend", aria_label="What the bars mean")


def _sample(phase: str, definitions: Markup | None) -> Markup:
    bar = tag(
        "rect",
        x="1",
        y="1",
        width="26",
        height="10",
        rx="2",
        class_=f"bar {phase}",
        fill="url(#stripes)" if phase == "superseded" else None,
    )
    return tag("svg", definitions, bar, width="28", height="12", aria_hidden="true")


def _instant(at: datetime) -> Markup:
    utc = at.astimezone(UTC)
    return tag("time", f"{utc:%-d %b %Y %H:%M:%S} UTC", datetime=f"{utc:%Y-%m-%dT%H:%M:%SZ}")


def _relative(at: datetime, words: str) -> Markup:
    utc = at.astimezone(UTC)
    exact = tag("span", f"{utc:%-d %b %Y %H:%M}{TOGETHER}UTC", class_="exact")
    return tag("time", words, " ", exact, datetime=f"{utc:%Y-%m-%dT%H:%M:%SZ}")


def _age(at: datetime, now: datetime) -> Markup:
    return _relative(at, _span(now - at))


def _ago(at: datetime | None, now: datetime) -> Markup:
    return _relative(at, f"{_span(now - at)} ago") if at else join("none yet")


def _until(at: datetime | None, now: datetime) -> Markup:
    if at is None:
        return join("not known")
    return _relative(at, f"in {_span(at - now)}" if at > now else "now")


def _span(duration: timedelta) -> str:
    """Say a duration in its largest unit of which there are two or more."""
    seconds = max(0, int(duration.total_seconds()))
    for unit, size in _UNITS:
        if seconds >= 2 * size or size == 1:
            return _many(seconds // size, unit, f"{unit}s")
    raise AssertionError("the last unit always fits")


def _many(count: int, one: str, more: str) -> str:
    return f"{count} {one if count == 1 else more}"
