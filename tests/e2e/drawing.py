"""Draws a Grafana dashboard as an SVG, from its JSON and what its queries were answered.

It knows what `deploy/grafana/rekeyd.json` has of panels and settings, and looks like Grafana's dark
theme. What it does not know is an error: a panel is drawn as it is, or not at all.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rekeyd.markup import Markup, join, tag

WIDTH, COLUMN, ROW, GAP, HEAD = 1200, 50, 38, 8, 52
"""Pixels: of the picture, of a cell of the grid and between two panels, and of the top line."""

LETTER = 6.4
"""Pixels that a character of the small text takes, as far as can be told without its font."""

PALETTE = ("#73bf69", "#f2cc0c", "#8ab8ff", "#ff780a", "#f2495c", "#5794f2", "#b877d9", "#96d98d")
NAMED = {
    "green": "#56a64b",
    "red": "#e02f44",
    "yellow": "#f2cc0c",
    "blue": "#5794f2",
    "orange": "#ff780a",
}
STYLE = """
text { font: 12px Inter, Roboto, 'Helvetica Neue', 'DejaVu Sans', Arial, sans-serif; fill: #9fa7b3 }
.paper { fill: #111217 } .panel { fill: #181b1f; stroke: #25272c } .head { fill: #202328 }
.title { font-size: 13px; font-weight: 500; fill: #ccccdc } .name { font-size: 18px; fill: #ccccdc }
.cell { fill: #ccccdc } .big { font-size: 34px; font-weight: 500; fill: #fff; text-anchor: middle }
.grid { stroke: #2b2e34 } .event { stroke: #5794f2; stroke-dasharray: 2 3; stroke-opacity: .7 }
.y { text-anchor: end } .x { text-anchor: middle } path { stroke-linejoin: round }
"""

SCALES = {
    "s": ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"), (0.001, "ms")),
    "bytes": ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")),
    "reqps": ((1, "req/s"),),
    "": ((1, ""),),
}
"""How a unit of Grafana's is said: the largest of these that a value reaches."""


@dataclass(frozen=True, slots=True)
class Series:
    """One answer to a query."""

    labels: dict[str, str]
    points: Sequence[tuple[float, float]]

    @property
    def last(self) -> float:
        return self.points[-1][1]


@dataclass(frozen=True, slots=True)
class Span:
    """The time that is shown, in Unix seconds, and the seconds between two points."""

    start: float
    end: float
    step: float


@dataclass(frozen=True, slots=True)
class Box:
    """Where something is drawn."""

    left: float
    top: float
    width: float
    height: float

    @property
    def right(self) -> float:
        return self.left + self.width

    @property
    def bottom(self) -> float:
        return self.top + self.height


Ask = Callable[[dict[str, Any]], list[Series]]
"""Answers a target of a panel."""


def draw(dashboard: dict[str, Any], ask: Ask, span: Span) -> str:
    """Draw every panel with what its targets are answered."""
    annotations = [series for each in dashboard["annotations"]["list"] for series in ask(each)]
    told = {value / 1000 for series in annotations for _, value in series.points}
    events = sorted(at for at in told if span.start < at < span.end)
    canvas = Canvas(ask, span, events)
    height = HEAD + ROW * max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in dashboard["panels"])
    shown = f"{_clock(span.start)} to {_clock(span.end)} UTC"
    picture = tag(
        "svg",
        tag("title", f"The dashboard {dashboard['title']}, {shown}"),
        tag("style", Markup(STYLE)),
        tag("rect", width="100%", height="100%", class_="paper"),
        tag("text", dashboard["title"], x="12", y="33", class_="name"),
        tag("text", shown, x=str(WIDTH - 12), y="33", class_="y"),
        *(canvas.panel(panel) for panel in dashboard["panels"]),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDTH} {height}",
        role="img",
    )
    return f"{picture}\n"


class Canvas:
    """Draws panels over one span of time."""

    def __init__(self, ask: Ask, span: Span, events: Sequence[float]) -> None:
        self._ask = ask
        self._span = span
        self._events = events

    def panel(self, panel: dict[str, Any]) -> Markup:
        grid = panel["gridPos"]
        box = Box(
            grid["x"] * COLUMN + GAP / 2,
            grid["y"] * ROW + HEAD,
            grid["w"] * COLUMN - GAP,
            grid["h"] * ROW - GAP,
        )
        inside = {
            "stat": self._stat,
            "table": self._table,
            "timeseries": self._timeseries,
            "state-timeline": self._states,
        }[panel["type"]]
        title = tag("text", panel["title"], x=_n(box.left + 12), y=_n(box.top + 23), class_="title")
        return tag("g", _rect(box, class_="panel", rx="3"), inside(panel, box), title)

    def _stat(self, panel: dict[str, Any], box: Box) -> Markup:
        (series,) = self._ask(panel["targets"][0])
        defaults = panel["fieldConfig"]["defaults"]
        steps = defaults["thresholds"]["steps"]
        colour = [s["color"] for s in steps if s["value"] is None or series.last >= s["value"]][-1]
        words, _ = _mapped(series.last, defaults)
        middle = {"x": _n(box.left + box.width / 2), "y": _n(box.top + box.height / 2 + 24)}
        ground = _rect(box, fill=NAMED[colour], fill_opacity=".85", rx="3")
        return join(ground, tag("text", words, class_="big", **middle))

    def _table(self, panel: dict[str, Any], box: Box) -> Markup:
        columns, rows = _tabulated(panel, [self._ask(target) for target in panel["targets"]])
        cells = [[(name, "") for name in columns], *rows]
        widths = [max(len(row[n][0]) for row in cells) + 3 for n in range(len(columns))]
        lefts = [sum(widths[:n]) * (box.width - 16) / sum(widths) for n in range(len(columns))]
        lines = [_rect(Box(box.left + 8, box.top + 36, box.width - 16, 30), class_="head")]
        for place, row in enumerate(cells):
            for left, (words, colour) in zip(lefts, row, strict=True):
                x, y = box.left + 18 + left, box.top + 56 + 32 * place
                fill = {"style": f"fill: {NAMED[colour]}"} if colour else {"class_": "cell"}
                lines.append(tag("text", words, x=_n(x), y=_n(y), **fill))
        return join(*lines)

    def _timeseries(self, panel: dict[str, Any], box: Box) -> Markup:
        found = [(target, series) for target in panel["targets"] for series in self._ask(target)]
        names = [_name(target, series) for target, series in found]
        colours = [_colour(panel, name, place) for place, name in enumerate(names)]
        legend, used = _legend(names, colours, box)
        defaults = panel["fieldConfig"]["defaults"]
        custom = defaults["custom"]
        lines = [series.points for _, series in found]
        stacked = custom["drawStyle"] == "bars"
        stack = list(_stacked(lines)) if stacked else [[(t, 0.0, v) for t, v in p] for p in lines]
        largest = max((top for points in stack for _, _, top in points), default=0) or 1
        axis = _Axis(largest, defaults.get("unit", ""))
        plot = Box(box.left + 62, box.top + 38, box.width - 80, box.height - 66 - used)
        marks = [self._bars] if stacked else [self._line]
        if custom.get("showPoints") == "always":
            marks.append(self._dots)
        drawn = [
            mark(points, plot, axis.top, colour)
            for points, colour in zip(stack, colours, strict=True)
            for mark in marks
        ]
        return join(self._grid(plot, axis), *drawn, legend)

    def _states(self, panel: dict[str, Any], box: Box) -> Markup:
        found = [(target, series) for target in panel["targets"] for series in self._ask(target)]
        defaults = panel["fieldConfig"]["defaults"]
        values = defaults["mappings"][0]["options"]
        legend, used = _legend(
            [value["text"] for value in values.values()],
            [NAMED[value["color"]] for value in values.values()],
            box,
        )
        widest = LETTER * max(len(_name(*each)) for each in found)
        left = box.left + 20 + widest
        plot = Box(left, box.top + 38, box.right - 18 - left, box.height - 66 - used)
        height = plot.height / len(found)
        rows = []
        for place, (target, series) in enumerate(found):
            top = plot.top + place * height
            middle = _n(top + height / 2 + 4)
            rows.append(tag("text", _name(target, series), x=_n(left - 10), y=middle, class_="y"))
            for value, start, end in self._runs(series):
                _, colour = _mapped(value, defaults)
                x, right = self._x(start, plot), self._x(end, plot)
                bar = Box(x, top + height * 0.08, right - x, height * 0.84)
                rows.append(_rect(bar, fill=NAMED[colour], fill_opacity=".8"))
        return join(self._clocks(plot), *rows, legend)

    def _x(self, at: float, plot: Box) -> float:
        share = (at - self._span.start) / (self._span.end - self._span.start)
        return plot.left + plot.width * max(0.0, min(1.0, share))

    def _runs(self, series: Series) -> Iterator[tuple[float, float, float]]:
        """Yield each value with the time in which it did not change."""
        points = series.points
        start = 0
        for place in range(1, len(points) + 1):
            over = place == len(points)
            if over or points[place][1] != points[start][1] or self._gap(points, place):
                end = points[place - 1][0] + self._span.step
                yield points[start][1], points[start][0], min(end, self._span.end)
                start = place

    def _gap(self, points: Sequence[tuple[float, ...]], place: int) -> bool:
        return points[place][0] - points[place - 1][0] > 1.5 * self._span.step

    def _line(self, points: Any, plot: Box, top: float, colour: str) -> Markup:
        moves = []
        for place, (at, _, value) in enumerate(points):
            begin = place == 0 or self._gap(points, place)
            y = plot.bottom - plot.height * value / top
            moves.append(f"{'M' if begin else 'L'}{_n(self._x(at, plot))} {_n(y)}")
        return tag("path", d="".join(moves), fill="none", stroke=colour, stroke_width="1.6")

    def _dots(self, points: Any, plot: Box, top: float, colour: str) -> Markup:
        places = ((self._x(at, plot), plot.bottom - plot.height * y / top) for at, _, y in points)
        dots = "".join(f"M{_n(x)} {_n(y)}h0" for x, y in places)
        return tag("path", d=dots, stroke=colour, stroke_width="4", stroke_linecap="round")

    def _bars(self, points: Any, plot: Box, top: float, colour: str) -> Markup:
        width = plot.width * self._span.step / (self._span.end - self._span.start) * 0.8
        bars = []
        for at, low, high in points:
            if high > low:
                y, height = (plot.height * each / top for each in (high, high - low))
                x = self._x(at, plot) - width / 2
                bars.append(
                    f"M{_n(x)} {_n(plot.bottom - y)}h{_n(width)}v{_n(height)}h-{_n(width)}z"
                )
        return tag("path", d="".join(bars), fill=colour, fill_opacity=".75")

    def _grid(self, plot: Box, axis: "_Axis") -> Markup:
        lines = []
        for value, words in axis.ticks():
            y = plot.bottom - plot.height * value / axis.top
            lines.append(_rule(plot.left, y, plot.right, y, "grid"))
            lines.append(tag("text", words, x=_n(plot.left - 8), y=_n(y + 4), class_="y"))
        for at in self._events:
            x = self._x(at, plot)
            lines.append(_rule(x, plot.top, x, plot.bottom, "event"))
        return join(*lines, self._clocks(plot))

    def _clocks(self, plot: Box) -> Markup:
        most = plot.width / 64
        step = 60 * math.ceil((self._span.end - self._span.start) / 60 / most)
        first = math.ceil(self._span.start / step) * step
        minutes = range(first, int(self._span.end) + 1, step)
        return join(
            *(
                tag(
                    "text",
                    _clock(at)[:5],
                    x=_n(self._x(at, plot)),
                    y=_n(plot.bottom + 18),
                    class_="x",
                )
                for at in minutes
            )
        )


class _Axis:
    """From 0 to a round value above the largest, in four or five steps."""

    def __init__(self, largest: float, unit: str) -> None:
        self._size, self._word = next(
            (each for each in SCALES[unit] if largest >= each[0]), SCALES[unit][-1]
        )
        raw = largest / self._size / 4
        magnitude = 10 ** math.floor(math.log10(raw))
        self._step = next(n for n in (1, 2, 2.5, 5, 10) if n * magnitude >= raw) * magnitude
        self._steps = math.ceil(largest / self._size / self._step)
        self.top = self._steps * self._step * self._size

    def ticks(self) -> Iterator[tuple[float, str]]:
        for number in range(self._steps + 1):
            value = number * self._step
            yield value * self._size, f"{value:.10g} {self._word}".strip()


def _stacked(lines: Sequence[Any]) -> Iterator[list[tuple[float, float, float]]]:
    reached: dict[float, float] = {}
    for points in lines:
        layer = []
        for at, value in points:
            low = reached.get(at, 0.0)
            reached[at] = low + value
            layer.append((at, low, low + value))
        yield layer


def _legend(names: Sequence[str], colours: Sequence[str], box: Box) -> tuple[Markup, float]:
    """Return the names in lines from the bottom up, and the height that they take."""
    lines: list[list[tuple[float, str, str]]] = [[]]
    x = 0.0
    for name, colour in zip(names, colours, strict=True):
        width = 34 + LETTER * len(name)
        if lines[-1] and x + width > box.width - 24:
            lines.append([])
            x = 0.0
        lines[-1].append((x, name, colour))
        x += width
    drawn = []
    for place, line in enumerate(reversed(lines)):
        y = box.bottom - 12 - 18 * place
        for x, name, colour in line:
            left = box.left + 14 + x
            drawn.append(_rect(Box(left, y - 6, 14, 4), fill=colour, rx="1"))
            drawn.append(tag("text", name, x=_n(left + 20), y=_n(y)))
    return join(*drawn), 18.0 * len(lines)


def _name(target: dict[str, Any], series: Series) -> str:
    wanted = re.sub(r"{{(\w+)}}", lambda m: series.labels.get(m[1], ""), target["legendFormat"])
    return wanted or ", ".join(series.labels.values())


def _colour(panel: dict[str, Any], name: str, place: int) -> str:
    for override in panel["fieldConfig"]["overrides"]:
        matcher = override["matcher"]
        assert matcher["id"] == "byRegexp", matcher
        if re.search(matcher["options"].strip("/"), name):
            return NAMED[override["properties"][0]["value"]["fixedColor"]]
    return PALETTE[place % len(PALETTE)]


def _mapped(value: float, settings: dict[str, Any]) -> tuple[str, str]:
    """Return how a value is said, and the name of its colour, if its mappings give it one."""
    for mapping in settings.get("mappings", ()):
        if found := mapping["options"].get(f"{value:g}"):
            return found["text"], found.get("color", "")
    return _said(value, settings.get("unit", "")), ""


def _said(value: float, unit: str) -> str:
    if unit == "dateTimeFromNow":
        distance = value / 1000 - datetime.now(UTC).timestamp()
        words = _said(abs(distance), "s")
        return f"in {words}" if distance > 0 else f"{words} ago"
    size, word = next((each for each in SCALES[unit] if value >= each[0]), SCALES[unit][-1])
    return f"{round(value / size, 1):g} {word}".strip()


def _tabulated(
    panel: dict[str, Any], answers: Sequence[Sequence[Series]]
) -> tuple[list[str], list[list[tuple[str, str]]]]:
    """Join the answers by their labels and name the columns, as the panel's transformations say."""
    (organised,) = [t["options"] for t in panel["transformations"] if t["id"] == "organize"]
    joined: dict[tuple[str, ...], dict[str, Any]] = {}
    for target, answer in zip(panel["targets"], answers, strict=True):
        value = f"Value #{target['refId']}" if len(answers) > 1 else "Value"
        for series in answer:
            row = joined.setdefault(tuple(series.labels.values()), dict(series.labels))
            row[value] = series.last
    shown = [name for name in next(iter(joined.values())) if name not in organised["excludeByName"]]
    columns = [organised.get("renameByName", {}).get(name, name) for name in shown]
    settings = [_settings(panel, name) for name in columns]
    return columns, [
        [
            (cell, "") if isinstance(cell := row[name], str) else _mapped(cell, how)
            for name, how in zip(shown, settings, strict=True)
        ]
        for _, row in sorted(joined.items())
    ]


def _settings(panel: dict[str, Any], column: str) -> dict[str, Any]:
    overrides = panel["fieldConfig"]["overrides"]
    own = [o["properties"] for o in overrides if o["matcher"]["options"] == column]
    return {each["id"]: each["value"] for properties in own for each in properties}


def _clock(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%H:%M:%S}"


def _rect(box: Box, **attributes: str) -> Markup:
    place = {"x": box.left, "y": box.top, "width": box.width, "height": box.height}
    return tag("rect", **{name: _n(value) for name, value in place.items()}, **attributes)


def _rule(x: float, y: float, to_x: float, to_y: float, kind: str) -> Markup:
    return tag("line", x1=_n(x), y1=_n(y), x2=_n(to_x), y2=_n(to_y), class_=kind)


def _n(number: float) -> str:
    """Write a length as short as half a pixel allows."""
    return f"{number:.1f}".removesuffix(".0")
