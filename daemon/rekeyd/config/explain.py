"""Says what pydantic found in the operator's words: what is wrong, and what would be right."""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from pydantic_core import ErrorDetails
from yaml import Node, ScalarNode, SequenceNode

from rekeyd.config.document import Path, printable, read_as

Schema = dict[str, Any]

_WANTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}
_UNQUOTED = {
    "a whole number": r"[-+]?\d+",
    "a number": r"[-+]?\d+(\.\d+)?",
    "true or false": r"true|false",
}
_SENSITIVE = re.compile(
    r"pass|secret|token|key|cred|auth|users|state|url|header|env|command|seal", re.IGNORECASE
)


def explain(error: ErrorDetails, path: Path, node: Node | None, schema: Schema) -> str:
    """Say what is wrong with the setting at `path`, written as `node`, under a JSON Schema."""
    kind, context = error["type"], error.get("ctx", {})
    if kind in {"value_error", "assertion_error"}:
        return str(context["error"])
    if kind == "extra_forbidden":
        return unknown("setting", str(path[-1]), _names(within(schema, path[:-1])))
    described = within(schema, path)
    if kind == "missing":
        return f"is missing; write {_example(described)}"
    if kind == "literal_error":
        return unknown("choice", _raw(path, node), _choices(described))
    if kind in {"union_tag_invalid", "union_tag_not_found"}:
        which = context["discriminator"].strip("'")
        return f"needs a {which} that says which; one of {', '.join(_tags(described))}"
    if kind == "too_short":
        return f"is empty; write at least {context['min_length']}"
    if kind == "string_pattern_mismatch" and (form := _form(described)):
        return f"is not as it must be: {form}; write {_example(described)}"
    if kind in _WANTED:
        return _another_type(_WANTED[kind], path, node, described)
    _, should, rest = error["msg"].partition(" should ")
    return f"{'should ' + rest if should else error['msg']}; write {_example(described)}"


def unknown(what: str, name: str | None, known: Iterable[str]) -> str:
    """Say that a name is not known, and which is meant, or which there are."""
    names = sorted(known)
    close = get_close_matches((name or "").lower(), names, 1)
    right = f"did you mean {close[0]}?" if close else f"there are: {', '.join(names)}"
    called = f" {printable(name)}" if name and what != "setting" else ""
    return f"there is no such {what}{called}; {right}"


def setting(schema: Schema, loc: Path) -> Path:
    """Return the path of a setting as it is written: pydantic names the alternative in it too."""
    path: Path = ()
    named = False
    for step in loc:
        named = not named and step in _tags(within(schema, path))
        if not named:
            path = (*path, step)
    return path


def within(schema: Schema, path: Path) -> list[Schema]:
    """Return what a JSON Schema says of a setting: one schema for each form it may have."""
    found = _forms(schema, schema)
    for step in path:
        below = (form for parent in found for form in _step(parent, step))
        found = [form for child in below for form in _forms(schema, child)]
    return found


def _step(schema: Schema, step: str | int) -> list[Schema]:
    if isinstance(step, int):
        below = schema.get("items")
    else:
        below = schema.get("properties", {}).get(step, schema.get("additionalProperties"))
    return [below] if isinstance(below, dict) else []


def _forms(root: Schema, schema: Schema) -> list[Schema]:
    """Follow references and alternatives. What is said beside them holds for each."""
    rest = {key: value for key, value in schema.items() if key not in {"$ref", "anyOf", "oneOf"}}
    others = [*schema.get("anyOf", []), *schema.get("oneOf", [])]
    if "$ref" in schema:
        others.append(root["$defs"][schema["$ref"].rpartition("/")[2]])
    if not others:
        return [schema]
    return [{**form, **rest} for other in others for form in _forms(root, other)]


def _names(forms: list[Schema]) -> set[str]:
    return {name for form in forms for name in form.get("properties", {})}


def _choices(forms: list[Schema]) -> list[str]:
    fixed = (form.get("enum") or [form["const"]] for form in forms if {"enum", "const"} & {*form})
    return [str(choice) for choices in fixed for choice in choices]


def _tags(forms: list[Schema]) -> list[str]:
    """The values by which alternatives are told apart: the constants among their properties."""
    properties = (p for form in forms for p in form.get("properties", {}).values())
    return [str(p["const"]) for p in properties if "const" in p] if len(forms) > 1 else []


def _form(forms: list[Schema]) -> str:
    """What a text must be in words, where its description says that and there is an example."""
    told = (form["description"] for form in forms if {"description", "examples"} <= {*form})
    text = next(told, "").removesuffix(".")
    return text[:1].lower() + text[1:]


def _example(forms: list[Schema]) -> str:
    for form in forms:
        if form.get("examples"):
            return f"for example {form['examples'][0]}"
        if "enum" in form:
            return f"one of {', '.join(map(str, form['enum']))}"
    types = {
        "string": "text",
        "integer": "a whole number",
        "number": "a number",
        "boolean": "true or false",
        "array": "a list, each entry behind a dash",
        "object": "a mapping, each setting on a line of its own",
    }
    return next((types[f["type"]] for f in forms if f.get("type") in types), "another value")


def _another_type(wanted: str, path: Path, node: Node | None, forms: list[Schema]) -> str:
    if not isinstance(node, ScalarNode):
        stands = "a list" if isinstance(node, SequenceNode) else "a mapping"
        return f"is {stands}, and {wanted} is wanted; write {_example(forms)}"
    what = f"is {read_as(node)}, and {wanted} is wanted"
    raw = _raw(path, node)
    if wanted == "text":
        shown = f': "{raw}"' if raw else ""
        return f"{what}; put it in quotes{shown}"
    if raw and re.fullmatch(_UNQUOTED.get(wanted, "(?!)"), raw):
        return f"{what}; write it without quotes: {raw}"
    if raw and wanted == "a list" and read_as(node) == "text":
        return f"{what}; write it in brackets: [{raw}]"
    return f"{what}; write {_example(forms)}"


def _raw(path: Path, node: Node | None) -> str | None:
    """What is written, unless it could be a secret."""
    if not isinstance(node, ScalarNode) or any(_SENSITIVE.search(str(step)) for step in path):
        return None
    return printable(node.value)
