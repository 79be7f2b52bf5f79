"""Strict YAML: text to plain data, every mistake at its line, and lines for mistakes to come.

Stricter than YAML where YAML surprises: a key is said once, every setting has a value, tags and
merges are not followed, and aliases cannot expand without end.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, cast

import yaml
from yaml import CSafeLoader, MappingNode, Node, ScalarNode, SequenceNode

Path = tuple[str | int, ...]

DEEPEST = 64
"""Levels of nesting. libyaml recurses without a limit of its own: 20,000 levels end the process."""

MOST = 300_000
"""Values, aliases counted as often as they are used."""

_STRING = "tag:yaml.org,2002:str"
_NULL = "tag:yaml.org,2002:null"
_MERGE = "tag:yaml.org,2002:merge"
_READ_AS = {
    "tag:yaml.org,2002:int": "a number",
    "tag:yaml.org,2002:float": "a number",
    "tag:yaml.org,2002:bool": "true or false",
    "tag:yaml.org,2002:timestamp": "a date",
    "tag:yaml.org,2002:value": "YAML's own sign",
    _NULL: "nothing",
}
_UNREADABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_HINTS = (
    ("tab character", "indent with spaces"),
    ("cannot start any token", "put the value in quotes, and indent with spaces, not with tabs"),
    (
        "mapping values are not allowed",
        "look at the indentation, put a value that holds `: ` in quotes, a space behind each colon",
    ),
    ("found unexpected end of stream", "close the quotes"),
    ("undefined alias", "put a value that begins with * in quotes"),
    ("another document", "keep one document, without a second ---"),
    ("unknown escape character", "use single quotes, in which a backslash is just a backslash"),
    ("incompatible YAML", "leave the line %YAML out"),
    ("sequence entries are not allowed", "begin the list on a line of its own"),
    ("second occurrence", "give each anchor a name of its own"),
    ("did not find expected node content", "put a value that holds brackets or commas in quotes"),
    (
        "did not find expected",
        "look at the indentation, brackets and quotes of this line and the one before",
    ),
)


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing that is wrong, where, and what would be right."""

    line: int
    path: Path
    text: str

    def __str__(self) -> str:
        where = f"{path_text(self.path)}: " if self.path else ""
        return f"{self.line}: {where}{self.text}"


@dataclass(slots=True)
class Document:
    """What a text says. Values that are mistakes stand in `data` as None."""

    data: Any = None
    mistakes: list[Mistake] = field(default_factory=list)
    root: Node | None = None
    voids: set[Path] = field(default_factory=set)

    def locate(self, path: Path) -> tuple[Path, int, Node | None]:
        """Find a setting: the part of its path that is written, its line, and its node."""
        node, line = self.root, 1
        for depth, step in enumerate(path):
            found = _child(node, step)
            if found is None:
                return path[:depth], line, node
            at, node = found
            line = at.start_mark.line + 1
        return path, line, node

    def add(self, path: Path, text: str) -> None:
        """Note a mistake once, unless the value was found unusable already.

        What is said of a sink that others made can have any form: it becomes one line.
        """
        mistake = Mistake(self.locate(path)[1], path, printable(text, 1000))
        if path not in self.voids and mistake not in self.mistakes:
            self.mistakes.append(mistake)


def read(text: str) -> Document:
    """Read a YAML text. A mistake that hides what follows is the only one then."""
    try:
        _refuse_binary(text)
        _refuse_depth(text)
        loader = CSafeLoader(text)
        document = Document(root=loader.get_single_node())
        document.data = _Reader(loader, document).value(document.root)
    except _HopelessError as hopeless:
        return Document(mistakes=[hopeless.mistake])
    except yaml.YAMLError as error:
        return Document(mistakes=[_syntax(error)])
    return document


def path_text(path: Iterable[str | int]) -> str:
    """Write the path of a setting as people do: `identities[0].sinks[1].path`."""
    text = ""
    for step in path:
        name = printable(step) or '""' if isinstance(step, str) else step
        text += f".{name}" if isinstance(step, str) else f"[{name}]"
    return text.removeprefix(".")


def printable(text: str, most: int = 40) -> str:
    """Shorten a text to one line without anything that a terminal would act on."""
    clean = "".join(c if c.isprintable() else "?" for c in text[: most + 1])
    return clean if len(clean) <= most else clean[: most - 1] + "…"


def read_as(node: Node) -> str:
    """Say what YAML takes a scalar for."""
    return _READ_AS.get(node.tag, "text")


class _HopelessError(Exception):
    """Reading any further would be of no use, or would never end."""

    def __init__(self, line: int, text: str, path: Path = ()) -> None:
        super().__init__(text)
        self.mistake = Mistake(line, path, text)


def _refuse_binary(text: str) -> None:
    found = _UNREADABLE.search(text)
    if found:
        line = text.count("\n", 0, found.start()) + 1
        raise _HopelessError(line, f"holds the character U+{ord(found[0]):04X}; write plain text")


def _refuse_depth(text: str) -> None:
    depth = 0
    for event in yaml.parse(text, CSafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            start: Any = event.start_mark
            raise _HopelessError(
                start.line + 1, f"is nested more than {DEEPEST} levels deep; flatten it"
            )


def _syntax(error: yaml.YAMLError) -> Mistake:
    problem = getattr(error, "problem", None) or "this is not YAML"
    mark = getattr(error, "problem_mark", None)
    context = getattr(error, "context_mark", None)
    # Something left open is noticed where the text ends; it is mended where it begins.
    if context and "end of stream" in problem:
        mark = context
    hint = next((hint for sign, hint in _HINTS if sign in problem), "look at this line")
    line = mark.line + 1 if mark else 1
    return Mistake(line, (), f"this is not YAML: {printable(problem, 80)}; {hint}")


class _Reader:
    """Turns nodes into plain data, noting mistakes on the way."""

    def __init__(self, loader: CSafeLoader, document: Document) -> None:
        self._loader = loader
        self._document = document
        self._read = 0

    def value(self, node: Node | None, path: Path = ()) -> Any:
        """Return what a node says, or None with a mistake noted."""
        self._read += 1
        if node is None:
            return None
        line = node.start_mark.line + 1
        if len(path) > DEEPEST:
            raise _HopelessError(line, "refers to itself; write the value out", path[:1])
        if self._read > MOST:
            raise _HopelessError(line, f"has more than {MOST} values; use fewer aliases", path[:1])
        if isinstance(node, MappingNode) and node.tag == "tag:yaml.org,2002:map":
            return self._mapping(node, path)
        if isinstance(node, SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
            return [self.value(item, (*path, n)) for n, item in enumerate(node.value)]
        if isinstance(node, ScalarNode) and node.tag in (_STRING, *_READ_AS):
            return self._scalar(node, path)
        return self._wrong(path, f"has the tag {printable(node.tag)}; write the value itself")

    def _mapping(self, node: MappingNode, path: Path) -> dict[str, Any]:
        data: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            name = self._name(key, path)
            if name is None:
                continue
            if name in lines:
                again = f"is said twice, first in line {lines[name]}; keep one of the two"
                self._document.mistakes.append(Mistake(line, (*path, name), again))
                continue
            lines[name] = line
            data[name] = self.value(value, (*path, name))
        return data

    def _name(self, key: Node, path: Path) -> str | None:
        if key.tag == _STRING and isinstance(key, ScalarNode):
            return cast("str", key.value)
        if key.tag == _MERGE:
            wrong = "merges with << are not read; write the settings out"
        elif key.tag in _READ_AS:
            raw = printable(key.value)
            wrong = f'the name {raw} is read as {read_as(key)}; put it in quotes: "{raw}"'
        else:
            wrong = "a name is a single word; put a name that holds brackets in quotes"
        self._document.mistakes.append(Mistake(key.start_mark.line + 1, path, wrong))
        return None

    def _scalar(self, node: ScalarNode, path: Path) -> Any:
        if node.tag == _STRING:
            return node.value
        if node.tag == _NULL:
            return self._wrong(path, "has no value; write one, or leave the line out")
        try:
            return self._loader.construct_object(node)
        except (ValueError, LookupError, AttributeError, OverflowError):
            # What looks like a date or a number and is none: 2026-02-30, 0b, a digit too many.
            return self._wrong(path, f"looks like {read_as(node)} and is none; put it in quotes")

    def _wrong(self, path: Path, text: str) -> None:
        self._document.add(path, text)
        self._document.voids.add(path)


def _child(node: Node | None, step: str | int) -> tuple[Node, Node] | None:
    """Return where a child begins (its key, or itself in a list), and the child."""
    if isinstance(node, MappingNode):
        return next(((k, v) for k, v in node.value if k.value == step), None)
    if isinstance(node, SequenceNode) and isinstance(step, int) and step < len(node.value):
        return node.value[step], node.value[step]
    return None
