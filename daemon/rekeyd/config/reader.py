"""From a file to `Settings`, or to the list of everything that is wrong with it."""

import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path as File
from posixpath import basename, dirname, join, normpath, realpath
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, ValidationError
from yaml import Node, SequenceNode

from rekeyd import sinks
from rekeyd.config.document import Document, Mistake, Path, path_text, printable, read
from rekeyd.config.settings import NO_STS, Settings
from rekeyd.errors import Misconfigured, Mistaken
from rekeyd.sinks.base import SinkSettings

Model = TypeVar("Model", bound=BaseModel)

DEFAULT = "/etc/rekeyd/rekeyd.yaml"

_DO = "correct the file; `rekeyd check --offline` reads it again"

LARGEST = 8 * 2**20
"""Bytes. Ten thousand identities take half of it."""


class Family(Protocol):
    """Settings of one family, told apart by their `type`. Its classes are imported when named."""

    KIND: str
    """What one of them is called in messages."""

    def types(self) -> list[str]:
        """Return every type that can be named."""

    def settings_class(self, kind: str) -> type[BaseModel]:
        """Import the settings of a type. Raises `Misconfigured` for one that nobody provides."""


def load(path: File | None = None) -> Settings:
    """Read the configuration: this file, else $REKEYD_CONFIG, else /etc/rekeyd/rekeyd.yaml.

    Raises `Mistaken`, which has one line for each mistake:
    `FILE:LINE: setting.path: what is wrong; what would be right`; `Misconfigured` without a file.
    """
    file = path or File(os.environ.get("REKEYD_CONFIG") or DEFAULT)
    try:
        with file.open("rb") as stream:
            content = stream.read(LARGEST + 1)
    except (OSError, ValueError) as error:
        problem = error.strerror if isinstance(error, OSError) else "no such name is possible"
        raise Misconfigured(
            f"{printable(str(file), 400)}: the configuration cannot be read: {problem}",
            "name another file with --config or $REKEYD_CONFIG, or see its permissions",
        ) from None
    return parse(_decoded(content, str(file)), str(file))


def parse(text: str, source: str) -> Settings:
    """Read a configuration that stands in `text`; `source` names it in messages.

    Raises `Mistaken` as `load` does.
    """
    document = read(text)
    settings = None
    if document.root is None and not document.mistakes:
        document.add((), "holds no settings; write at least one identity with a sink")
    elif document.root is not None:
        settings = _validated(document)
    if settings is None or document.mistakes:
        raise _mistaken(source, document.mistakes)
    return settings


def _decoded(content: bytes, source: str) -> str:
    if len(content) > LARGEST:
        raise _refused(source, 1, f"is larger than {LARGEST} bytes; is it the right file?")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _refused(source, line, "is not UTF-8 text; save the file as UTF-8") from None


def _mistaken(source: str, mistakes: Iterable[Mistake]) -> Mistaken:
    name = printable(source, 400)
    ordered = sorted(mistakes, key=lambda mistake: mistake.line)
    return Mistaken([f"{name}:{mistake}" for mistake in ordered], _DO)


def _refused(source: str, line: int, text: str) -> Mistaken:
    return _mistaken(source, [Mistake(line, (), text)])


def _validated(document: Document) -> Settings | None:
    written = _identities(document.data)
    opened: dict[Path, dict[Path, SinkSettings]] = {}
    for path, identity in written:
        if isinstance(identity.get("sinks"), list):
            listed = enumerate(identity["sinks"])
            found = {
                (*path, "sinks", n): _typed(document, (*path, "sinks", n), s, sinks)
                for n, s in listed
            }
            opened[path] = {where: sink for where, sink in found.items() if sink}
            identity["sinks"] = list(opened[path].values())
    _find_conflicts(document, written, opened)
    _read_channels(document)
    return _model(document, (), Settings, document.data)


def _identities(data: Any) -> list[tuple[Path, dict[str, Any]]]:
    """Return the identities that are written as mappings, each with its path."""
    listed = data.get("identities") if isinstance(data, dict) else None
    entries = enumerate(listed if isinstance(listed, list) else [])
    return [(("identities", n), entry) for n, entry in entries if isinstance(entry, dict)]


def _read_channels(document: Document) -> None:
    listed = document.data.get("notify") if isinstance(document.data, dict) else None
    if listed and isinstance(listed, list):
        from rekeyd import notify  # noqa: PLC0415 (for those who want to be told)

        read = [_typed(document, ("notify", n), raw, notify) for n, raw in enumerate(listed)]
        document.data["notify"] = [channel for channel in read if channel]


def _typed(document: Document, path: Path, raw: Any, family: Family) -> Any:
    """Have the class of its `type` read some settings; None when that is a mistake."""
    kind = raw.get("type") if isinstance(raw, dict) else None
    if not isinstance(kind, str):
        there = f"write {{type: …}} with one of {', '.join(family.types())}"
        if not isinstance(raw, dict):
            document.add(path, f"is no mapping; {there}")
        else:
            document.add(
                (*path, "type"), f"is {'not text' if 'type' in raw else 'missing'}; {there}"
            )
        return None
    try:
        return _model(document, path, family.settings_class(kind), raw)
    except Misconfigured:
        from rekeyd.config.explain import unknown  # noqa: PLC0415 (only for a mistake)

        document.add((*path, "type"), unknown(family.KIND, kind, family.types()))
    except ImportError as error:
        document.add((*path, "type"), f"cannot be used: {printable(str(error), 120)}; install it")
    except Exception as error:  # noqa: BLE001 - a third party's class may raise anything
        document.add(path, f"its settings could not be read ({type(error).__name__}); look at them")
    return None


def _model(document: Document, path: Path, model: type[Model], raw: Any) -> Model | None:
    try:
        return model.model_validate(raw)
    except ValidationError as invalid:
        _note(document, path, model, invalid)
        return None


def _note(document: Document, path: Path, model: type[BaseModel], invalid: ValidationError) -> None:
    from rekeyd.config.explain import explain, setting  # noqa: PLC0415 (only for a mistake)

    schema = _schema(model)
    for error in invalid.errors(include_url=False, include_input=False):
        loc = (*path, *setting(schema, error["loc"]))
        written, _, node = document.locate(loc)
        if _follows(error["type"], node):
            continue
        where = loc if error["type"] == "missing" else written
        document.add(where, explain(error, where[len(path) :], node, schema))


@cache
def _schema(model: type[BaseModel]) -> dict[str, Any]:
    return model.model_json_schema()


def _follows(kind: str, node: Node | None) -> bool:
    """Whether it follows from another mistake: a list is too short for its entries are mistakes."""
    hidden = kind == "too_short" and isinstance(node, SequenceNode) and node.value
    return bool(hidden) or kind == "default_factory_not_called"


def _find_conflicts(
    document: Document,
    written: list[tuple[Path, dict[str, Any]]],
    opened: dict[Path, dict[Path, SinkSettings]],
) -> None:
    """Note what no single setting shows: two that claim the same name, user, label or place."""
    claims = _Claims(document)
    for path, identity in written:
        account = _account(document.data.get("aws"), identity.get("aws"))
        if "external_id" in account and "role_arn" not in account:
            own = path if isinstance(identity.get("aws"), dict) else ()
            document.add(
                (*own, "aws"), "has an external_id, and no role_arn that asks for it; add one"
            )
        if account.get("endpoint_url_sts") == NO_STS:
            _note_needs_of_sts(document, path, identity, account)
        everywhere = {setting: one for setting, one in account.items() if setting != "region"}
        name = "name" if "name" in identity else "user"
        claims.claim((*path, name), "name", identity.get(name), right="give each its own `name`")
        claims.claim(
            (*path, "user"),
            "user",
            identity.get("user"),
            everywhere,  # IAM has no regions
            right="keep one identity for it, or say with `aws` how the accounts differ",
        )
        claims.claim(
            (*path, "group"),
            "group",
            identity.get("group"),
            everywhere,
            right="members of one group have one `policy`; name another group",
            alike=repr(identity.get("policy")),
        )
        for where, sink in opened.get(path, {}).items():
            if not _claim_place(claims, where, sink, account):
                right = "give one of them another `name`"
                claims.claim(where, "label", sink.label, path, right=right)


def _note_needs_of_sts(
    document: Document, path: Path, identity: dict[str, Any], account: dict[str, Any]
) -> None:
    """Note what cannot be where `aws.endpoint_url_sts` is none."""
    if "role_arn" in account:
        own = path if isinstance(identity.get("aws"), dict) else ()
        document.add((*own, "aws"), "has a role_arn, and no STS to assume it with; drop one")
    verify = identity.get("verify")
    if isinstance(verify, list) and "sts" in verify:
        document.add((*path, "verify"), "has sts, and aws.endpoint_url_sts is none; write [s3]")
    if "verify" not in identity and "policy" not in identity:
        document.add(
            path, "needs a policy with its bucket: a pair can be proved by S3 only, without STS"
        )


def _claim_place(
    claims: "_Claims", path: Path, sink: SinkSettings, account: dict[str, Any]
) -> bool:
    """Claim what a sink writes to; tell whether another sink had it."""
    right = "let one of them write elsewhere"
    file = str(getattr(sink, "path", ""))
    if file.startswith("/") and sink.place.startswith(file):
        place = sink.place.replace(file, _normal(file), 1)
        same = claims.claim(path, "place", sink.type, place, right=right)
        return same or claims.claim(path, "file", _normal(file), right=right, alike=sink.type)
    inside = account if sink.per_account else {}
    return claims.claim(path, "place", sink.type, sink.place, inside, right=right)


def _normal(file: str) -> str:
    """Return where a file is, however its path is written and whatever leads to its folder."""
    return join(realpath(dirname(file)), basename(normpath(file)))


def _account(top: Any, own: Any) -> dict[str, Any]:
    """Return what an identity's `aws` comes to, as written."""
    return {**(top if isinstance(top, dict) else {}), **(own if isinstance(own, dict) else {})}


class _Claims:
    """Remembers what may be claimed once, and who was first."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._first: dict[str, tuple[Path, str]] = {}

    def claim(self, path: Path, what: str, *claimed: Any, right: str, alike: str = "") -> bool:
        """Claim something; note and tell when another has it that is not alike."""
        if claimed[0] is None:
            return False
        first, kind = self._first.setdefault(repr((what, claimed)), (path, alike))
        if first == path or (alike and kind == alike):
            return False
        line = self._document.locate(first)[1]
        taken = f"has the same {what} as {path_text(first)} in line {line}; {right}"
        self._document.add(path, taken)
        return True
