"""Looks for secrets wherever they must not be, in every form in which they could stand there."""

import json
import os
import threading
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Self
from urllib.parse import quote_from_bytes

HALF = 20
"""Characters of a secret key that count as having found it."""

EVERY = 0.02
"""Seconds between two looks at the processes and the folders."""


def forms(secret: bytes) -> Iterator[tuple[str, bytes]]:
    """Name and return every form of a secret that is hunted for."""
    yield "plain", secret
    for shift in range(3):  # where it begins in a longer text that was encoded
        encoded = b64encode(bytes(shift) + secret)
        yield "base64", encoded[4 * (shift > 0) : len(encoded) // 4 * 4 - 4]
    yield "hex", secret.hex().encode()
    yield "HEX", secret.hex().upper().encode()
    yield "URL-quoted", quote_from_bytes(secret, safe="").encode()
    text = secret.decode("latin-1")
    yield "JSON-escaped", json.dumps(text)[1:-1].replace("/", "\\/").encode()
    yield "reversed", secret[::-1]
    yield "first half", secret[:HALF]
    yield "second half", secret[-HALF:]


class Hunter:
    """Collects all that is shown in each place, and tells where a secret is in it.

    Processes are those of one user, whom nobody else uses; folders are read while things happen,
    so that a file which is there for a moment is seen too.
    """

    def __init__(self, user: int, folders: dict[str, Path]) -> None:
        self.user = user
        self.folders = folders
        self.secrets: set[bytes] = set()
        self.seen: dict[str, set[bytes]] = {}
        self.programs: set[str] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look_on)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self.look()

    def see(self, place: str, content: bytes | str) -> None:
        """Take in what was shown in a place."""
        raw = content.encode() if isinstance(content, str) else content
        self.seen.setdefault(place, set()).add(raw)

    def found(self) -> dict[str, Counter[str]]:
        """Return the forms that were found in each place, and how often."""
        sought = [form for secret in self.secrets for form in forms(secret)]
        return {
            place: Counter(name for name, form in sought for text in texts if form in text)
            for place, texts in sorted(self.seen.items())
        }

    def look(self) -> None:
        """Look once at every process of the user and at every file in the folders."""
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if f"\nUid:\t{self.user}\t" not in (process / "status").read_text():
                    continue
                command = (process / "cmdline").read_bytes()
                self.see("/proc/PID/environ", (process / "environ").read_bytes())
            except OSError:
                continue  # it ended meanwhile
            self.see("/proc/PID/cmdline", command)
            self.programs.add(command.replace(b"\0", b" ").decode(errors="replace"))
        for place, folder in self.folders.items():
            self._read(place, folder)
        self._read("/tmp", Path("/tmp"), whose=self.user)

    def _look_on(self) -> None:
        while not self._over.wait(EVERY):
            self.look()

    def _read(self, place: str, folder: Path, whose: int | None = None) -> None:
        self.seen.setdefault(place, set())
        given = {known.parent for known in self.folders.values()}  # holds what it is given to read
        for path, folders, files in os.walk(folder):
            if whose is not None:
                folders[:] = [
                    one
                    for one in folders
                    if _owner(Path(path, one)) == whose and Path(path, one) not in given
                ]
            for name in files:
                file = Path(path, name)
                if whose is None or _owner(file) == whose:
                    try:
                        self.see(place, file.read_bytes())
                    except OSError:
                        continue  # it was a temporary one


def _owner(path: Path) -> int | None:
    try:
        return path.lstat().st_uid
    except OSError:
        return None
