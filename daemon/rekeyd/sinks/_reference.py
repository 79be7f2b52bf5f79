"""References to tokens: a configuration says where a token stands, and never holds it.

`file:/path` is read anew each time, so that a token that another program renews is picked up;
`env:NAME` is a variable of the daemon's environment; `credential:NAME` is what systemd's
`LoadCredential=NAME:…` put into the folder `$CREDENTIALS_DIRECTORY` (systemd.exec(5)).
"""

import os
import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from rekeyd.errors import Refused
from rekeyd.secret import Secret

LARGEST = 64 * 1024
"""Bytes; the largest token in use, a service account key of Google, has about 2,400."""

FORM = re.compile(r"file:/.+|env:[A-Za-z_][A-Za-z0-9_]*|credential:[A-Za-z0-9_][A-Za-z0-9._-]*")

TOKEN = re.compile(r"[!-~]+")
"""What can stand in a header."""


def _well_formed(reference: str) -> str:
    if not FORM.fullmatch(reference):
        raise ValueError(
            "is not file:/absolute/path, env:NAME or credential:NAME: "
            "the configuration holds no token itself"
        )
    return reference


Reference = Annotated[
    str,
    AfterValidator(_well_formed),
    Field(description="file:/path, env:NAME or credential:NAME (systemd)."),
]


def dereference(reference: str) -> Secret:
    """Read what a reference points at, without the white space around it.

    Raises `Refused` when nothing is there, or something that can be no token.
    """
    kind, _, name = reference.partition(":")
    text = (os.environ.get(name, "") if kind == "env" else _read(_path(kind, name))).strip()
    if not text:
        raise Refused(
            f"there is no token at {reference}, so the sink cannot be used",
            "put the token there, readable for rekeyd",
        )
    return Secret(text)


def token(reference: str) -> Secret:
    """Read a token that goes into a header. Raises `Refused` also when it could not stand there."""
    found = dereference(reference)
    if not TOKEN.fullmatch(found.reveal()):
        raise Refused(
            f"what stands at {reference} is no token: it has blanks, line ends or odd characters",
            "put the token there and nothing else",
        )
    return found


def _path(kind: str, name: str) -> Path:
    if kind == "file":
        return Path(name)
    return Path(os.environ.get("CREDENTIALS_DIRECTORY", "/run/credentials")) / name


def _at_once(path: str, flags: int) -> int:
    """Open it without waiting for a writer, as a pipe that has none would make one do."""
    return os.open(path, flags | os.O_NONBLOCK)


def _read(path: Path) -> str:
    try:
        with open(path, "rb", opener=_at_once) as file:
            return file.read(LARGEST).decode("utf-8")
    except UnicodeDecodeError:
        return ""
    except OSError as error:
        raise Refused(
            f"{path} cannot be read ({error.strerror}), so the sink cannot be used",
            "put the token there, readable for rekeyd",
        ) from None
