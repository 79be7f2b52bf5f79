"""The power fails at every write of custody: what was saved is there, whatever was not flushed.

The system calls of a process that saves again and again are recorded. From them come the states of
the disk that a power failure may leave: after each call, what was flushed is there, and of what was
not, nothing, all, or any part, with torn writes. The store opens each of them.
"""

import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rekeyd.store import Store

pytestmark = pytest.mark.e2e

SAVES = 72
SECTOR = 512
VARIANTS = 4
"""Random choices of what was lost, beside nothing and all of it."""

SAVING = f"""
import os, sys
from datetime import UTC, datetime
from pathlib import Path
from rekeyd.model import Custody
from rekeyd.ports import Event
from rekeyd.store import Store

NOW = datetime(2026, 11, 1, tzinfo=UTC)
for number in range({SAVES}):
    if number % 24 == 0:  # a new start, after which the log begins anew
        if number:
            store.close()
        store = Store(Path(sys.argv[1]))
    os.write(2, b"saving %d" % number)
    store.save("backup_user", Custody(user_id=f"AIDA{{number}}", gone=("AKIA" * 300,)))
    os.write(2, b"saved %d" % number)
    store.log(Event(NOW, "backup_user", "mint", "mint", "done", "made it"))
store.close()
"""

CALL = re.compile(r"^(\w+)\((?:(\d+)<(.*?)>)?(.*)\)\s+= (-?\d+)")
TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


@dataclass
class File:
    """What of a file is on the disk for sure, and what was written since it was last flushed."""

    durable: bytes = b""
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)

    def flushed(self) -> None:
        self.durable, self.pending = self.left([True] * len(self.pending)), []

    def left(self, kept: list[bool], torn: random.Random | None = None) -> bytes:
        """Return the content when only these of the pending writes were done, some in part."""
        content = bytearray(self.durable)
        for (at, data), done in zip(self.pending, kept, strict=True):
            if not done:
                continue
            if data is None:
                del content[at:]
                continue
            part = data[: torn.randrange(0, len(data) + 1, SECTOR)] if torn else data
            content.extend(bytes(max(0, at - len(content))))
            content[at : at + len(part)] = part
        return bytes(content)


def recorded(folder: Path, tmp_path: Path) -> list[str]:
    script, trace = tmp_path / "saving.py", tmp_path / "trace"
    script.write_text(SAVING)
    calls = "trace=pwrite64,write,ftruncate,fsync,fdatasync,unlink,unlinkat,rename"
    subprocess.run(
        [
            *("strace", "-f", "-y", "-xx", "-s", "100000", "-e", calls, "-o", trace),
            *(sys.executable, script, folder),
        ],
        check=True,
        stderr=subprocess.DEVNULL,
        timeout=120,
    )
    return [line.partition(" ")[2].strip() for line in trace.read_text().splitlines()]


def decoded(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


def replayed(calls: list[str]) -> Iterator[tuple[dict[str, File], int, int]]:
    """After each call: the files, the last number that was saved, and the one that was begun."""
    files: dict[str, File] = {}
    saved = begun = -1
    for line in calls:
        if not (found := CALL.match(line)):
            continue
        call, handle, where, rest, result = found.groups()
        text = TEXT.search(rest)
        if handle == "2" and text:
            word, number = decoded(text[1]).split()
            saved, begun = (int(number), begun) if word == b"saved" else (saved, int(number))
            continue
        if call.startswith("unlink") and text:
            files.pop(Path(os.fsdecode(decoded(text[1]))).name, None)
        elif where:
            name = Path(os.fsdecode(decoded(where)) if "\\x" in where else where).name
            if not name.startswith("rekeyd.sqlite") or name.endswith("-shm"):
                continue
            file = files.setdefault(name, File())
            if call == "pwrite64" and text:
                at = int(rest.rsplit(",", 1)[1])
                file.pending.append((at, decoded(text[1])[: int(result)]))
            elif call == "ftruncate":
                file.pending.append((int(rest.rsplit(",", 1)[1]), None))
            elif call in {"fsync", "fdatasync"}:
                file.flushed()
        yield files, saved, begun


def disks(files: dict[str, File], dice: random.Random) -> Iterator[dict[str, bytes]]:
    """What a power failure may leave of them."""
    yield {name: file.durable for name, file in files.items()}
    yield {name: file.left([True] * len(file.pending)) for name, file in files.items()}
    for _ in range(VARIANTS):
        yield {
            name: file.left([dice.random() < 0.5 for _ in file.pending], dice)
            for name, file in files.items()
        }


def test_what_was_saved_outlives_the_power(tmp_path):
    dice, tried, seen = random.Random(1), 0, set()
    for number, (files, saved, begun) in enumerate(replayed(recorded(tmp_path / "s", tmp_path))):
        for left in disks(files, dice):
            fingerprint = (saved, begun, *sorted(left.items()))
            if fingerprint in seen:
                continue
            seen.add(fingerprint)
            tried += 1
            folder = tmp_path / f"{number}-{tried}"
            folder.mkdir(mode=0o700)
            for name, content in left.items():
                (folder / name).write_bytes(content)
                (folder / name).chmod(0o600)
            with closing(Store(folder)) as store:
                found = store.load("backup_user").user_id
            assert found in {user(saved), user(begun)}, f"after call {number}: {found}"
            for file in folder.iterdir():
                file.unlink()
    print(f"\n{tried} disks after {number + 1} calls, {SAVES} saves")
    assert saved == SAVES - 1
    assert tried > 10 * SAVES


def user(number: int) -> str | None:
    return f"AIDA{number}" if number >= 0 else None
