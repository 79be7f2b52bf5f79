"""`env_file`: two variables in a file of variables, as systemd, docker or a shell reads it.

The three look alike and are not: systemd and shells unquote each in its own way, docker not at all.
All three read the file when the consumer starts: `overlap` must outlast its longest run.
Other variables and comments stay as they are, to the byte. One thing is removed beside variables of
the standard names: an `AWS_SESSION_TOKEN`, with which AWS refuses the pair of an IAM user.

    - {type: env_file, path: /srv/backup/backup.env, dialect: systemd}   # EnvironmentFile=
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rekeyd.ports import Sink
from rekeyd.secret import AccessPair
from rekeyd.sinks._file import FileSettings, FileSink, whole
from rekeyd.sinks.base import SinkContext

TOKENS = ("AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN")

VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", examples=["S3_KEY"])]


class Variables(BaseModel):
    """The names under which the consumer reads the pair."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)

    access_key_id: VariableName = Field(
        "AWS_ACCESS_KEY_ID",
        description="The name for the key id, of letters, digits and _, no digit first.",
    )
    secret_access_key: VariableName = Field(
        "AWS_SECRET_ACCESS_KEY", description="The name for the secret, alike."
    )

    @model_validator(mode="after")
    def _differ(self) -> "Variables":
        if self.access_key_id == self.secret_access_key:
            raise ValueError("the id and the secret need variables of their own")
        return self

    @property
    def tokens(self) -> tuple[str, ...]:
        """The variables that would spoil the pair: only AWS's own names have such companions."""
        return TOKENS if self.access_key_id == "AWS_ACCESS_KEY_ID" else ()


class EnvFile(FileSettings):
    """Variables in a file that systemd, docker or a shell reads."""

    type: Literal["env_file"]
    dialect: Literal["systemd", "docker", "shell"] = Field(
        description="Who reads it: systemd's EnvironmentFile=, docker's (and podman's) "
        "`run --env-file`, or a POSIX shell's `. FILE`."
    )
    variables: Variables = Field(
        default_factory=Variables, description="The names of the two variables."
    )

    def open(self, context: SinkContext) -> Sink:  # noqa: ARG002 - a file needs no surroundings
        form = VariablesText(DIALECTS[self.dialect], self.variables)
        return FileSink(self, self.file(), form)


@dataclass(frozen=True, slots=True)
class Assignment:
    """One variable that a text sets: its value as the reader gets it, and where both stand."""

    name: str
    value: str
    start: int
    value_start: int
    value_end: int
    end: int


class Dialect(Protocol):
    """How one reader takes a file of variables. Raises `ValueError` for what it cannot take."""

    prefix: str
    """What stands before the name of a variable that is new."""

    def assignments(self, text: str, ours: set[str]) -> Iterator[Assignment]:
        """Find every variable that is set, in order; the last of a name wins."""

    def quote(self, value: str) -> str:
        """Write a value so that the reader gets it back."""


@dataclass(frozen=True, slots=True)
class VariablesText:
    """The pair as two variables in a text of some dialect."""

    dialect: Dialect
    variables: Variables

    def held(self, text: str) -> AccessPair | None:
        found = {a.name: a.value for a in self._assignments(text)}
        token = next(filter(None, map(found.get, self.variables.tokens)), None)
        names = self.variables
        return whole(found.get(names.access_key_id), found.get(names.secret_access_key), token)

    def holding(self, text: str, pair: AccessPair) -> str:
        values = {
            self.variables.access_key_id: self.dialect.quote(pair.key_id),
            self.variables.secret_access_key: self.dialect.quote(pair.secret.reveal()),
        }
        after = self._appended(self._replaced(text, values), values)
        if self._others(text) != self._others(after):
            raise ValueError("is laid out so that two variables cannot be changed by themselves")
        return after

    def _replaced(self, text: str, values: dict[str, str]) -> str:
        for found in reversed(self._assignments(text)):
            if found.name in values:
                text = text[: found.value_start] + values[found.name] + text[found.value_end :]
            elif found.name in self.variables.tokens:
                text = text[: found.start] + text[found.end :]
        return text

    def _appended(self, text: str, values: dict[str, str]) -> str:
        present = {found.name for found in self._assignments(text)}
        end = "\r\n" if text.endswith("\r\n") else "\n"
        new = [
            f"{self.dialect.prefix}{name}={value}{end}"
            for name, value in values.items()
            if name not in present
        ]
        gap = end if new and text and not text.endswith("\n") else ""
        return text + gap + "".join(new)

    def _others(self, text: str) -> list[tuple[str, str]]:
        """All that the file sets besides our own."""
        return [(a.name, a.value) for a in self._assignments(text) if a.name not in self._ours]

    def _assignments(self, text: str) -> list[Assignment]:
        return list(self.dialect.assignments(text, self._ours))

    @property
    def _ours(self) -> set[str]:
        names = self.variables
        return {names.access_key_id, names.secret_access_key, *names.tokens}


class Systemd:
    """systemd's EnvironmentFile= (systemd.exec(5); the grammar is parse_env_file_internal's).

    Quotes count only at the beginning of a value; quoted pieces may follow one another there.
    """

    prefix = ""

    _BLANK = re.compile(r"[ \t\r\n]+")
    _COMMENT = re.compile(r"[#;](?:\\.|[^\\\r\n])*(?:[\r\n]|\Z)", re.DOTALL)
    _NO_VALUE = re.compile(r"[^\r\n][^=\r\n]*(?:[\r\n]|\Z)")
    _SET = re.compile(
        r"""(?P<name>[^\r\n][^=\r\n]*)=[ \t]*
        (?P<value>
          (?P<quoted>(?:'[^']*'[ \t]*|"(?:\\.|[^"\\])*"[ \t]*)*)
          (?P<bare>(?:\\.|[^\\\r\n])*))
        (?:[\r\n]|\Z)""",
        re.DOTALL | re.VERBOSE,
    )
    _PIECE = re.compile(r"""'(?P<plain>[^']*)'|"(?P<rich>(?:\\.|[^"\\])*)\"""", re.DOTALL)

    def assignments(self, text: str, ours: set[str]) -> Iterator[Assignment]:  # noqa: ARG002
        at = 0
        while at < len(text):
            if text[at] in "#;":
                at = self._after_comment(text, at)
                continue
            if passed := self._BLANK.match(text, at) or self._NO_VALUE.match(text, at):
                at = passed.end()
                continue
            found = self._SET.match(text, at)
            if found is None or found["bare"].startswith(("'", '"')):
                raise ValueError("has a quote that is never closed")
            yield Assignment(
                found["name"].strip(),
                self._unquoted(found["quoted"]) + self._unescaped(found["bare"]),
                at,
                found.start("value"),
                found.end("value"),
                found.end(),
            )
            at = found.end()

    def _after_comment(self, text: str, at: int) -> int:
        comment = self._COMMENT.match(text, at)
        if comment is None or re.search(r"\\[\r\n]", comment[0]):
            raise ValueError(
                "has a comment that ends in a backslash, so systemd before 254 skips the next line"
            )
        return comment.end()

    def _unquoted(self, pieces: str) -> str:
        return "".join(
            piece["plain"] if piece["rich"] is None else _unescaped_rich(piece["rich"])
            for piece in self._PIECE.finditer(pieces)
        )

    def _unescaped(self, bare: str) -> str:
        tokens = re.findall(r"\\.|[^\\]", bare, re.DOTALL)
        while tokens and tokens[-1] in " \t":
            tokens.pop()
        return "".join(token[-1] for token in tokens if token not in {"\\\n", "\\\r"})

    def quote(self, value: str) -> str:
        return shlex.quote(value)  # quoted pieces side by side, which systemd joins as shells do


class Docker:
    """`docker run --env-file` and podman's: NAME=VALUE, where every character stands for itself."""

    prefix = ""

    _LINE = re.compile(
        r"(?P<head>[ \t]*(?P<name>[^#=\s][^=\n]*)=)?(?P<value>[^\n]*?)(?:\r?\n|\r?\Z)"
    )

    def assignments(self, text: str, ours: set[str]) -> Iterator[Assignment]:  # noqa: ARG002
        at = 0
        while at < len(text) and (line := self._LINE.match(text, at)):
            if line["name"] is not None:
                if re.search(r"\s", line["name"]):
                    raise ValueError("has a name with a space in it, which docker refuses")
                yield Assignment(
                    line["name"],
                    line["value"],
                    at,
                    line.start("value"),
                    line.end("value"),
                    line.end(),
                )
            at = line.end()

    def quote(self, value: str) -> str:
        if re.search(r"[\r\n\0]", value):
            raise ValueError(
                "cannot hold this pair: docker's env files know no line breaks in a value"
            )
        return value


class Shell:
    """A file that POSIX shells read by `. FILE`.

    A whole shell grammar is not followed: only plain assignments of our variables are changed, and
    whatever else would set them is refused.
    """

    prefix = "export "

    _LINE = re.compile(
        r"""(?:'[^']*'|"(?:\\.|[^"\\])*"|\\.|(?<![^\s;&|()])\#[^\n]*|[^'"\\\n])*(?:\n|\Z)""",
        re.DOTALL | re.VERBOSE,
    )
    _SET = re.compile(
        r"""(?P<head>[ \t]*(?:export[ \t]+)?(?P<name>[A-Za-z_][A-Za-z0-9_]*)=)
        (?P<value>(?:'[^']*'|"(?:\\.|[^"\\$`])*"|\\[^\n]|[^\s'"\\;&|()<>`$\#~])*)
        (?P<tail>(?:[ \t]+(?:\#[^\n]*)?)?\n?)""",
        re.DOTALL | re.VERBOSE,
    )
    _PIECE = re.compile(
        r"""'(?P<plain>[^']*)'|"(?P<rich>(?:\\.|[^"\\])*)"|\\?(?P<bare>.)""", re.DOTALL
    )
    _COMMENT = re.compile(r"\s*#")

    def assignments(self, text: str, ours: set[str]) -> Iterator[Assignment]:
        at = 0
        while at < len(text):
            line = self._LINE.match(text, at)
            if line is None:
                raise ValueError("has a quote that is never closed")
            if found := self._SET.fullmatch(line[0]):
                value = found.span("value")
                yield Assignment(
                    found["name"],
                    self._unquoted(found["value"]),
                    at,
                    at + value[0],
                    at + value[1],
                    line.end(),
                )
            elif not self._COMMENT.match(line[0]):
                self._refuse_unclear(line[0], ours)
            at = line.end()

    def _refuse_unclear(self, line: str, ours: set[str]) -> None:
        if "<<" in line:
            raise ValueError("has a here-document, which rekeyd does not follow")
        for name in ours:
            if re.search(rf"\b{name}=|\bunset\b.*\b{name}\b", line):
                raise ValueError(f"sets {name} otherwise than by {name}=VALUE on a line of its own")

    def _unquoted(self, word: str) -> str:
        return "".join(
            _unescaped_rich(piece["rich"])
            if piece["rich"] is not None
            else piece[piece.lastgroup or 0]
            for piece in self._PIECE.finditer(word)
        )

    def quote(self, value: str) -> str:
        return shlex.quote(value)


def _unescaped_rich(text: str) -> str:
    """What stands between double quotes: there systemd and shells agree."""
    return re.sub(r"\\([\"\\`$])|\\\n", r"\1", text)


DIALECTS: dict[str, Dialect] = {"systemd": Systemd(), "docker": Docker(), "shell": Shell()}
