"""`aws_credentials`: a profile in the credentials file of the AWS SDKs and the AWS CLI.

Who reads it: every AWS SDK, the AWS CLI, restic and whatever else is built on an SDK, when it
starts; restic also while it runs. Everything else in the file stays as it is, to the byte:
comments, other profiles, other settings of this profile, line ends.

One thing is removed from the profile: an `aws_session_token`. It belongs to a temporary pair, and
AWS refuses every request that is signed with it and the pair of an IAM user.

    - {type: aws_credentials, path: /srv/backup/.aws/credentials, profile: backup}
"""

import io
import re
from collections.abc import Iterator
from configparser import Error, RawConfigParser
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from rekeyd.ports import Sink
from rekeyd.secret import AccessPair
from rekeyd.sinks._file import FileSettings, FileSink, whole
from rekeyd.sinks.base import SinkContext

ID = "aws_access_key_id"
SECRET = "aws_secret_access_key"  # noqa: S105 - the name of a setting
TOKENS = ("aws_session_token", "aws_security_token")
OURS = {ID, SECRET, *TOKENS}

_HEADER = re.compile(r"\[(?P<name>.+)\]")
_OPTION = re.compile(r"(?P<head>\s*(?P<key>[^=:]*?)\s*[=:][^\S\r\n]*)[^\r\n]*(?P<end>[\r\n]*)")


def _profile(name: str) -> str:
    if name != name.strip() or not name.isprintable() or "]" in name or name in {"", "DEFAULT"}:
        raise ValueError("cannot be the name of a profile")
    return name


class AwsCredentials(FileSettings):
    """A profile in an AWS credentials file (INI)."""

    type: Literal["aws_credentials"]
    profile: Annotated[str, AfterValidator(_profile)] = Field(
        "default", description="The profile that consumers name, as in `aws --profile`."
    )

    @property
    def place(self) -> str:
        return f"{self.path}[{self.profile}]"

    def open(self, context: SinkContext) -> Sink:  # noqa: ARG002 - a file needs no surroundings
        return FileSink(self, self.file(), Profile(self.profile))


@dataclass(frozen=True, slots=True)
class Profile:
    """One profile in the text of a credentials file.

    Two lines are changed, and the result is proved with the reader that botocore uses. A general
    INI library (configupdater 4.1 was tried) gives them its own spacing and line ends.
    """

    name: str

    def held(self, text: str) -> AccessPair | None:
        profile = _parse(text).get(self.name, {})
        token = next(filter(None, map(profile.get, TOKENS)), None)
        return whole(profile.get(ID), profile.get(SECRET), token)

    def holding(self, text: str, pair: AccessPair) -> str:
        values = {ID: pair.key_id, SECRET: pair.secret.reveal()}
        if not all(map(str.isprintable, values.values())):
            raise ValueError("cannot hold this pair: a value has line breaks or control characters")
        lines = list(_lines(text))
        if any(line.section == self.name for line in lines):
            after = "".join(self._replaced(lines, values))
        else:
            after = self._appended(text, values)
        if self._others(text) != self._others(after):
            raise ValueError("is laid out so that the profile cannot be changed by itself")
        return after

    def _replaced(self, lines: list["_Line"], values: dict[str, str]) -> Iterator[str]:
        present = {line.key for line in lines if line.section == self.name}
        missing = {key: value for key, value in values.items() if key not in present}
        for number, line in enumerate(lines):
            if line.section != self.name or line.key not in OURS:
                yield line.text
            elif line.option and line.key in values:
                yield line.option["head"] + values[line.key] + line.option["end"]
            if line.section == self.name and line.opens:
                yield from self._new(line, lines[number + 1 :], missing)

    def _new(self, header: "_Line", after: list["_Line"], values: dict[str, str]) -> Iterator[str]:
        """New lines below the header, indented as the next: one indented more continues them."""
        indent = next((line.indent for line in after if line.option), "")
        end = _end(header.text)
        if values and not header.text.endswith(end):
            yield end
        for key, value in values.items():
            yield f"{indent}{key} = {value}{end}"

    def _appended(self, text: str, values: dict[str, str]) -> str:
        end = _end(text)
        gap = "" if not text else end if text.endswith(("\n", "\r")) else end * 2
        new = [f"[{self.name}]", *(f"{key} = {value}" for key, value in values.items())]
        return text + gap + "".join(line + end for line in new)

    def _others(self, text: str) -> dict[str, dict[str, str]]:
        """All that the file says besides our own settings."""
        found = _parse(text)
        ours = found.pop(self.name, {})
        found[self.name] = {key: value for key, value in ours.items() if key not in OURS}
        return found


@dataclass(frozen=True, slots=True)
class _Line:
    """One line as the reader takes it. A continuation has its option's key, a comment has none."""

    text: str
    section: str | None
    key: str | None = None
    option: re.Match[str] | None = None
    opens: bool = False

    @property
    def indent(self) -> str:
        return self.text[: len(self.text) - len(self.text.lstrip())]


def _lines(text: str) -> Iterator[_Line]:
    """Follow configparser: a line indented more than the option above it continues that option."""
    section = key = None
    depth = 0
    for line in io.StringIO(text, newline=""):
        content = line.strip()
        indent = len(line) - len(line.lstrip())
        if not content or content.startswith(("#", ";")):
            yield _Line(line, section)
        elif key is not None and indent > depth:
            yield _Line(line, section, key)
        elif header := _HEADER.match(content):
            section, key, depth = header["name"], None, indent
            yield _Line(line, section, opens=True)
        elif option := _OPTION.fullmatch(line):
            key, depth = option["key"].lower(), indent
            yield _Line(line, section, key, option)
        else:
            raise ValueError("has a line that is no setting")


def _parse(text: str) -> dict[str, dict[str, str]]:
    """Read as botocore does (botocore.configloader). Raises `ValueError`, quoting nothing."""
    parser = RawConfigParser()
    try:
        parser.read_file(io.StringIO(text, newline=None))
    except Error as error:
        line = getattr(error, "lineno", None)
        where = f", line {line}" if line else ""
        raise ValueError(f"is no AWS credentials file ({type(error).__name__}{where})") from None
    return {name: dict(parser[name]) for name in parser}


def _end(text: str) -> str:
    """The line end that the text uses."""
    return "\r\n" if "\r\n" in text else "\n"
