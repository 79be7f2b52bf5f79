"""`exec`: a program that is given the pair as JSON on its standard input.

    {"Version": 1, "Identity": "…", "AccessKeyId": "…", "SecretAccessKey": "…"}

It runs without a shell, in a clean environment, in `/`, in a session of its own and for a limited
time. Exit status 0 says that the pair is where it belongs, 75 (EX_TEMPFAIL of sysexits.h) that it
could not be put there just now, anything else that a person must look. It may be given the same
pair again, and must then leave things as they are.

With `read`, a second program prints what the sink holds, as `{"AccessKeyId": "…",
"SecretAccessKey": "…"}`, or nothing; without it the sink is write-only. With `check`, a third one
proves that the first would work, and changes nothing; without it only a delivery shows. Both say
how it went in the same way. A program that anybody could replace is not run.

    - type: exec
      command: [/usr/local/bin/hand-over, --to, tape]
      read: [/usr/local/bin/hand-over, --show]
"""

import errno
import json
import os
import re
import shlex
import stat
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import quote

from pydantic import AfterValidator, Field

from rekeyd.errors import Permanent, Refused, RekeydError, Transient
from rekeyd.ports import Sink
from rekeyd.secret import AccessPair, short
from rekeyd.sinks._run import Outcome, run
from rekeyd.sinks._value import object_in, pick
from rekeyd.sinks.base import SinkContext, SinkSettings
from rekeyd.times import Duration

TEMPORARY_FAILURE = 75

PASSING = {errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ETXTBSY}
"""Why a program cannot be started just now, though later it can."""

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

SHOWN = 400
"""Characters of a program's output that an error repeats."""

SECRET_LIKE = re.compile(r"[A-Za-z0-9+/=_-]{40,}")
"""What could be a secret access key (40 characters of base64), or hold one."""


def _program(command: list[str]) -> list[str]:
    if not command or not command[0].startswith("/"):
        raise ValueError("does not begin with the absolute path of a program; no shell looks it up")
    if any("\0" in word for word in command):
        raise ValueError("holds a NUL character, which no argument can")
    return command


def _variables(environment: dict[str, str]) -> dict[str, str]:
    for name, value in environment.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) or "\0" in value:
            raise ValueError(f"has {name!r}, which can be no variable of an environment")
    return environment


Command = Annotated[list[str], AfterValidator(_program)]


class Exec(SinkSettings):
    """A program of one's own, for every consumer that has no sink of its own."""

    type: Literal["exec"]
    command: Command = Field(
        description="Program, by its absolute path, and arguments. Gets the pair on its input."
    )
    read: Command | None = Field(
        None, description="Prints the pair that the sink holds as JSON. Left out: write-only."
    )
    check: Command | None = Field(
        None, description="Proves that the command would work, without changing anything."
    )
    timeout: Duration = Field(
        timedelta(seconds=30),
        ge=timedelta(seconds=1),
        le=timedelta(minutes=10),
        description="After this the program and its children are ended.",
    )
    environment: Annotated[dict[str, str], AfterValidator(_variables)] = Field(
        {}, description="Variables besides PATH, HOME and LANG. Not for secrets."
    )

    @property
    def place(self) -> str:
        """As a shell would be told. The same program may be told by a variable where to write."""
        variables = (f"{name}={value}" for name, value in sorted(self.environment.items()))
        return shlex.join([*variables, *self.command])

    @property
    def label(self) -> str:
        """Without the variables, which are nobody's to read in a log."""
        return self.name or f"{self.type}:{shlex.join(self.command)}"

    @property
    def slowness(self) -> timedelta:
        return 2 * self.timeout

    def open(self, context: SinkContext) -> Sink:
        return _ExecSink(self, context)


class _ExecSink:
    def __init__(self, settings: Exec, context: SinkContext) -> None:
        self.name, self.mark = settings.label, settings.mark
        self.readable = settings.read is not None
        self._settings = settings
        self._context = context

    def check(self) -> str | None:
        for command in (self._settings.command, self._settings.read, self._settings.check):
            if command:
                _trust(command[0])
        if not self._settings.check:
            return "without a `check` command only a delivery shows whether the program works"
        self._run(self._settings.check)
        return None

    def read(self) -> AccessPair | None:
        if not self._settings.read:
            raise Permanent(f"{self.name} is write-only", "give it a `read` command")
        printed = self._run(self._settings.read)
        found = object_in(printed) if printed.strip() else {}
        if found is None:
            raise Refused(
                f"{self._settings.read[0]} printed something else than one JSON object, so nobody "
                "knows which pair the sink holds",
                'let it print {"AccessKeyId": "…", "SecretAccessKey": "…"}, or nothing',
                reason="sink",
            )
        return pick(found, "AccessKeyId", "SecretAccessKey")

    def put(self, pair: AccessPair) -> None:
        document = {
            "Version": 1,
            "Identity": self._context.identity,
            "AccessKeyId": pair.key_id,
            "SecretAccessKey": pair.secret.reveal(),
        }
        self._run(self._settings.command, json.dumps(document) + "\n", pair)

    def _run(self, command: Sequence[str], given: str = "", pair: AccessPair | None = None) -> str:
        """Run a program that can be trusted with the pair; return what it printed."""
        _trust(command[0])
        program, timeout = command[0], self._settings.timeout.total_seconds()
        try:
            outcome = run(command, given.encode(), _environment(self._settings), timeout)
        except TimeoutError:
            raise Transient(
                f"{program} was not done within {timeout:g} s and was ended, so nobody knows which "
                "pair the sink holds",
                "see what it waits for, or give it a longer `timeout`",
            ) from None
        except OSError as error:
            raise _not_started(program, error) from None
        if outcome.status != 0:
            raise _failed(program, outcome, pair)
        return outcome.output


def _environment(settings: Exec) -> dict[str, str]:
    """Nothing of the daemon's own: it holds credentials, and the notify socket."""
    home = os.environ.get("HOME", "/")
    lang = os.environ.get("LANG", "C.UTF-8")
    return {"PATH": PATH, "HOME": home, "LANG": lang, **settings.environment}


def _trust(program: str) -> None:
    """Refuse a program that is not there, or that others could replace: it is given the secret."""
    try:
        path = Path(program).resolve(strict=True)
        usable = path.is_file() and os.access(path, os.X_OK)
        links = (Path(program), path)
        loose = next((p for link in links for p in (link, *link.parents) if _open_to_all(p)), None)
    except OSError as error:
        raise Refused(
            f"{program} cannot be run ({error.strerror}), so this sink gets no pair",
            "install it, or correct the path",
            reason="sink",
        ) from None
    if not usable:
        raise Refused(
            f"{program} is no program that rekeyd may run, so this sink gets no pair",
            f"chmod +x {shlex.quote(program)}, or correct the path",
            reason="sink",
        )
    if loose:
        raise Refused(
            f"everybody may write to {loose}, so anybody could put a program that takes the pair "
            f"in place of {program}",
            f"chmod o-w {shlex.quote(str(loose))}",
            reason="sink",
        )


def _open_to_all(path: Path) -> bool:
    """Whether others can replace it. In a sticky folder such as /tmp they cannot."""
    mode = path.stat().st_mode
    sticky = stat.S_ISDIR(mode) and mode & stat.S_ISVTX
    return bool(mode & stat.S_IWOTH) and not sticky


def _not_started(program: str, error: OSError) -> RekeydError:
    what = f"{program} could not be started ({error.strerror}), so this sink gets no pair"
    if error.errno in PASSING:
        return Transient(what, "see which limit this machine has reached")
    return Refused(
        what,
        "see that it exists, is executable, and that its first line names an interpreter",
        reason="sink",
    )


def _failed(program: str, outcome: Outcome, pair: AccessPair | None) -> RekeydError:
    said = _shown(outcome.complaint, pair)
    what = f"{program} {_how(outcome.status)}" + (f": {said}" if said else "")
    if outcome.status == TEMPORARY_FAILURE or outcome.status < 0:
        return Transient(f"{what}; the sink may hold the old pair still", "see why it failed")
    return Refused(
        f"{what}; the sink may hold the old pair still",
        "mend it, or what it talks to; exit status 75 would say that trying again helps",
        reason="sink",
    )


def _how(status: int) -> str:
    return f"ended with status {status}" if status >= 0 else f"was killed by signal {-status}"


def _shown(complaint: str, pair: AccessPair | None) -> str:
    """The end of what a program said, without anything that is or could be a secret."""
    if pair:
        secret = pair.secret.reveal()
        for form in (secret, quote(secret), quote(secret, safe=""), secret.replace("/", "\\/")):
            complaint = complaint.replace(form, "…")
        complaint = complaint.replace(pair.key_id, short(pair.key_id))
    plain = "".join(c if c.isprintable() else " " for c in SECRET_LIKE.sub("…", complaint))
    return " ".join(plain[-SHOWN:].split())
