"""The dashboard is what Grafana's schema allows, by Grafana's own library.

That library takes anything of any type, and forgets what it does not know: both are looked for.
"""

import json
from enum import Enum
from html import escape
from pathlib import Path
from types import NoneType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

DEPLOY = Path(__file__).parents[1] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana/rekeyd.json").read_text())
LARGEST = 150_000
"""Bytes of a picture that a page of documentation loads gladly."""

PLUGIN = {"definition", "titleFormat", "textFormat", "useValueForTime"}
"""What Grafana's Prometheus plugin writes and reads beyond the schema of a dashboard."""


def misfits(value: Any, hint: Any, place: str) -> list[str]:
    """Name what is not of the type that the schema declares."""
    kind, parts = get_origin(hint) or hint, get_args(hint)
    anything = kind in {Any, object}
    if value is None and NoneType in parts:
        return []
    if kind is Union:
        tries = [misfits(value, part, place) for part in parts if part is not NoneType]
        return [] if [] in tries else max(tries, key=lambda faults: faults[0].index(": "))
    if isinstance(value, dict) and hasattr(kind, "from_json"):
        value = kind.from_json(value)  # the library leaves some parts as they are
    if kind is list and isinstance(value, list):
        inner = [(each, parts[0], f"{place}[{n}]") for n, each in enumerate(value)]
    elif kind is dict and isinstance(value, dict):
        inner = [(value[key], parts[1], f"{place}.{key}") for key in value]
    elif hasattr(value, "to_json") and (anything or isinstance(value, kind)):
        hints = get_type_hints(type(value))
        inner = [(getattr(value, name), hints[name], f"{place}.{name}") for name in hints]
    else:
        return (
            [] if anything or _fits(value, kind, parts) else [f"{place}: {value!r} is not {hint}"]
        )
    return [fault for each in inner for fault in misfits(*each)]


def _fits(given: Any, kind: Any, parts: tuple[Any, ...]) -> bool:
    value = given.value if isinstance(given, Enum) else given
    if kind is Literal:
        return value in parts
    if issubclass(kind, Enum):
        return value in [member.value for member in kind]
    return type(value) in ((int, float) if kind is float else (kind,))


def lost(given: Any, understood: Any, place: str) -> list[str]:
    """Name what is given and not understood. Defaults may have been added."""
    if isinstance(given, dict):
        keys = given.keys() - PLUGIN
        inner = [(given[key], understood.get(key), f"{place}.{key}") for key in keys]
    elif isinstance(given, list):
        pairs = zip(given, understood, strict=True)
        inner = [(*pair, f"{place}[{n}]") for n, pair in enumerate(pairs)]
    else:
        return [] if given == understood else [f"{place}: {given!r}"]
    return [fault for each in inner for fault in lost(*each)]


def test_every_part_of_the_dashboard_is_in_grafana_s_schema_and_of_its_type() -> None:
    register_default_plugins()
    understood = Dashboard.from_json(DASHBOARD)
    faults = misfits(understood, Dashboard, "dashboard")
    faults += lost(DASHBOARD, json.loads(JSONEncoder().encode(understood)), "dashboard")
    assert not faults, "\n".join(faults)


def test_its_picture_shows_each_panel_and_is_light() -> None:
    picture = (DEPLOY / "grafana/dashboard.svg").read_text()
    titles = [escape(panel["title"]) for panel in DASHBOARD["panels"]]
    assert [title for title in titles if f">{title}</text>" not in picture] == []
    for path in (DEPLOY / "grafana/dashboard.svg", DEPLOY / "status-page.png"):
        assert path.stat().st_size < LARGEST
