"""The JSON Schema of the configuration file, and the tables of config/README.md made from it."""

import json
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from rekeyd import notify, sinks
from rekeyd.config.settings import Settings
from rekeyd.times import duration_text

Schema = dict[str, Any]

_REFS = "#/$defs/"

BEGIN = "<!-- tables: made by `python -m rekeyd.config FOLDER` -->\n"
END = "<!-- end of tables -->\n"


def json_schema() -> Schema:
    """Return the JSON Schema of the file, with every sink and channel that comes with rekeyd."""
    families: dict[str, list[type[BaseModel]]] = {
        "SinkSettings": [sinks.settings_class(kind) for kind in sorted(sinks.BUILT_IN)],
        "ChannelSettings": [notify.settings_class(kind) for kind in notify.types()],
    }
    wanted: list[tuple[type[BaseModel], Literal["validation"]]] = [(Settings, "validation")]
    wanted += [(model, "validation") for models in families.values() for model in models]
    names, schema = models_json_schema(wanted, schema_generator=_Generator)
    parts = schema["$defs"]
    for family, models in families.items():
        references = [names[model, "validation"] for model in models]
        parts[family] = {"description": _summary(parts[family]), "oneOf": references}
        for reference in references:
            part = parts[reference["$ref"].removeprefix(_REFS)]
            part["required"] = sorted({"type", *part.get("required", [])})
    top = parts.pop(names[Settings, "validation"]["$ref"].removeprefix(_REFS))
    whole: Schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **top,
        "title": "rekeyd.yaml",
        "$defs": dict(sorted(parts.items())),
    }
    plain: Schema = _plain(whole)
    return plain


class _Generator(GenerateJsonSchema):
    """Writes durations as the file does."""

    def encode_default(self, dft: Any) -> Any:
        return duration_text(dft) if isinstance(dft, timedelta) else super().encode_default(dft)


def schema_text() -> str:
    """Return the JSON Schema as its file holds it."""
    return json.dumps(json_schema(), indent=2) + "\n"


def write(folder: str) -> None:
    """Bring the schema's file and the tables of the README in a folder up to date."""
    Path(folder, "rekeyd.schema.json").write_text(schema_text(), encoding="utf-8")
    readme = Path(folder, "README.md")
    readme.write_text(with_tables(readme.read_text(encoding="utf-8")), encoding="utf-8")


def tables() -> str:
    """Return every setting in Markdown tables, one table for each mapping of the file."""
    schema = json_schema()
    return "\n".join(_table(title, part) for title, part in _mappings(schema, "", schema, set()))


def with_tables(readme: str) -> str:
    """Put the tables between their marks in a text that has them."""
    before, _, rest = readme.partition(BEGIN)
    return before + BEGIN + "\n" + tables() + "\n" + END + rest.partition(END)[2]


def _plain(schema: Any) -> Any:
    """Leave out what a file cannot say: null. And titles, which only repeat names."""
    if isinstance(schema, list):
        return [_plain(item) for item in schema if item != {"type": "null"}]
    if not isinstance(schema, dict):
        return schema
    plain = {key: _plain(value) for key, value in schema.items() if not _needless(key, value)}
    if len(plain.get("anyOf", [])) == 1:
        return {**plain.pop("anyOf")[0], **plain}
    return plain


def _needless(key: str, value: Any) -> bool:
    return (key == "title" and value != "rekeyd.yaml" and isinstance(value, str)) or (
        key == "default" and value is None
    )


def _mappings(
    schema: Schema, title: str, part: Schema, seen: set[str]
) -> Iterator[tuple[str, Schema]]:
    """Walk through the mappings of the file in its own order, each once."""
    if "properties" in part:
        yield title, part
    for name, value in part.get("properties", {}).items():
        for suffix, reference in _references(value):
            key = reference.removeprefix(_REFS)
            if key not in seen:
                seen.add(key)
                below = schema["$defs"][key]
                yield from _mappings(schema, f"{title}.{name}{suffix}".lstrip("."), below, seen)
    for kind in part.get("oneOf", []) if title.endswith("[]") else []:
        below = schema["$defs"][kind["$ref"].removeprefix(_REFS)]
        name = below["properties"]["type"]["const"]
        of = "" if title.endswith("sinks[]") else f"{title} "
        yield from _mappings(schema, of + name, below, seen)


def _references(value: Schema) -> Iterator[tuple[str, str]]:
    """Find the mappings that a setting may be, or may be a list of."""
    if "$ref" in value:
        yield "", value["$ref"]
    for other in [*value.get("anyOf", []), *value.get("oneOf", [])]:
        yield from _references(other)
    if "items" in value:
        yield from (("[]", reference) for _, reference in _references(value["items"]))


def _table(title: str, part: Schema) -> str:
    constants = (f"{k}: {v['const']}" for k, v in part["properties"].items() if "const" in v)
    choice = next(constants, "")
    head = f"### `{title}`" if title else "### Top level"
    head += f", `{choice}`" if choice and not choice.startswith("type:") else ""
    rows = [
        f"| `{name}` | {_meaning(value)} | {_default(name, value, part)} |"
        for name, value in part["properties"].items()
    ]
    about = _sink_pages().get(title) or _summary(part)
    return "\n".join(
        [
            head,
            *([about] if about else []),
            "",
            "| setting | meaning | default |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


def _sink_pages() -> dict[str, str]:
    """What the module of each sink says of it: who reads it, its least rights, an example."""
    modules = {kind: place.partition(":")[0] for kind, place in sinks.BUILT_IN.items()}
    return {kind: (sys.modules[name].__doc__ or "").strip() for kind, name in modules.items()}


def _summary(part: Schema) -> str:
    return " ".join(part.get("description", "").split("\n\n")[0].split())


def _meaning(value: Schema) -> str:
    said = [value.get("description", ""), _limits(value)]
    return " ".join(" ".join(said).replace("|", "\\|").split())


def _limits(value: Schema) -> str:
    if "const" in value:
        return f"Always `{value['const']}`."
    choices = value.get("enum") or value.get("items", {}).get("enum")
    if choices:
        return f"One of {', '.join(f'`{choice}`' for choice in choices)}."
    if value.get("examples") and "default" not in value:
        return f"Example: `{value['examples'][0]}`."
    return ""


def _default(name: str, value: Schema, part: Schema) -> str:
    if name in part.get("required", []):
        return "**required**"
    if "default" not in value:
        return ""
    default = value["default"]
    return f"`{default if isinstance(default, str) else json.dumps(default)}`"
