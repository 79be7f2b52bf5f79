"""What the sinks that are files share: where the file is, whose it is, and how a pair gets into it.

A file sink is a `Format`: how one kind of text holds a pair. The rest is the same for all.
"""

import re
from typing import Annotated, Protocol

from pydantic import AfterValidator, BeforeValidator, Field

from rekeyd.errors import Refused
from rekeyd.secret import AccessPair, Secret
from rekeyd.sinks._atomic import AtomicFile
from rekeyd.sinks.base import SinkSettings

SPECIMEN = AccessPair("AKIAIOSFODNN7EXAMPLE", Secret("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"))
"""The pair of AWS's own documentation, which is nobody's: for rehearsals that are never written."""


class Format(Protocol):
    """How one kind of text holds a pair.

    Both methods raise `ValueError` with what is wrong, to be read after the file's name; it never
    quotes the text, in which a secret may stand.
    """

    def held(self, text: str) -> AccessPair | None:
        """Return the pair that a consumer would read from it, or None when there is none."""

    def holding(self, text: str, pair: AccessPair) -> str:
        """Return the text with this pair, all else in it as it was."""


class FileSink:
    """A file that holds a pair: `rekeyd.ports.Sink`."""

    def __init__(self, settings: SinkSettings, file: AtomicFile, form: Format) -> None:
        self.name = settings.label
        self._settings = settings
        self._file = file
        self._format = form

    @property
    def mark(self) -> str:
        return self._settings.mark

    @property
    def readable(self) -> bool:
        return True

    def check(self) -> None:
        self._file.check(lambda content: self._edited(content, SPECIMEN))

    def read(self) -> AccessPair | None:
        content = self._file.read()
        return None if content is None else self._held(_text(content))

    def put(self, pair: AccessPair) -> None:
        self._file.update(lambda content: self._edited(content, pair))

    def _edited(self, content: bytes | None, pair: AccessPair) -> bytes:
        """Put the pair in, and prove on the result that a consumer would read just this pair."""
        before = _text(content or b"")
        readable = self.readable
        if readable:
            self._held(before)
        try:
            after = self._format.holding(before, pair)
        except ValueError as error:
            raise self._refused(error) from None
        if readable:
            held = self._held(after)
            if held is None or held.fingerprint() != pair.fingerprint():
                raise self._refused(
                    ValueError("cannot hold this pair so that it is read unchanged")
                )
        return _bytes(after)

    def _held(self, text: str) -> AccessPair | None:
        try:
            return self._format.held(text)
        except ValueError as error:
            raise self._refused(error) from None

    def _refused(self, error: ValueError) -> Refused:
        return Refused(
            f"{self._file.path} {error}",
            "mend the file by hand, or point the sink elsewhere; rekeyd has not touched it",
            reason="sink",
        )


def whole(key_id: str | None, secret: str | None, token: str | None = None) -> AccessPair | None:
    """Return what a consumer would sign with, or None when it could not sign.

    A key of an IAM user (AKIA) together with the session token of an earlier, temporary one (ASIA)
    is refused by every AWS service, so it counts as no pair and is put right.
    """
    if not key_id or not secret or (token and not key_id.startswith("ASIA")):
        return None
    return AccessPair(key_id, Secret(secret))


def _text(content: bytes) -> str:
    """Decode so that every byte comes back, whatever the file's encoding."""
    return content.decode("utf-8", "surrogateescape")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def absolute(path: str) -> str:
    """Accept the plain absolute path of a file. Raises `ValueError` for any other."""
    if path.startswith("~"):
        raise ValueError(
            "`~` is not expanded, as the daemon's home is not the consumer's: write the whole path"
        )
    if not path.startswith("/"):
        raise ValueError("must be an absolute path")
    if path.endswith("/") or "\0" in path or any(p in {"", ".", ".."} for p in path[1:].split("/")):
        raise ValueError("must name a file, without `.`, `..` or empty parts")
    return path


def _quoted(mode: object) -> object:
    if not isinstance(mode, str):
        raise ValueError('must be quoted, as in "0640": YAML reads 0640 as the number 416')  # noqa: TRY004
    return mode


def _private(mode: str) -> str:
    if not re.fullmatch("0?[0-7]{3}", mode):
        raise ValueError('must be octal, as in "0640"')
    if int(mode, 8) & 0o007:
        raise ValueError("gives every user of this machine a right: the last digit must be 0")
    if not int(mode, 8) & 0o400:
        raise ValueError("must let the owner read the file")
    return mode


class FileSettings(SinkSettings):
    """The settings that all file sinks have."""

    path: Annotated[str, AfterValidator(absolute)] = Field(
        description="The file, as an absolute path. Its folder must exist.",
        examples=["/srv/backup/.aws/credentials"],
    )
    mode: Annotated[str, BeforeValidator(_quoted), AfterValidator(_private)] | None = Field(
        None,
        description="Who may read it, octal and quoted. Others never may. Left out: as it is"
        " without the rights of others, and 0600 for a new file. An ACL stays, and gives nobody"
        " whom it names more than a mode that is set gives the group.",
        examples=["0640"],
    )
    owner: str | None = Field(
        None,
        min_length=1,
        description="The user it belongs to, by name or number. Left out: as is, or the daemon's.",
    )
    group: str | None = Field(
        None,
        min_length=1,
        description="Its group, by name or number. Left out: as it is, or the daemon's.",
    )

    @property
    def place(self) -> str:
        return self.path

    def file(self) -> AtomicFile:
        mode = int(self.mode, 8) if self.mode else None
        return AtomicFile(self.path, mode, self.owner, self.group)
