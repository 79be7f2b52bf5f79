"""The power fails at every write of custody: what was saved is there, whatever was not flushed.

The system calls of a process that saves again and again are recorded. From them come the states of
the disk that a power failure may leave: what was flushed is there, and of what was not (writes, and
names that were made or unlinked), every prefix and every reordering, with torn writes. The store
opens each of them, and goes on.
"""

import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import pytest
from fire import small_disk

from rekeyd.model import Custody
from rekeyd.store import Store
from world import proof

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]

SAVES = 72
SECTOR = 512
FEW = 10
"""As many changes as are lost in every combination."""

VARIANTS = 24
"""Random combinations of more."""

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

    def left(self, kept: Sequence[int | bool]) -> bytes:
        """Return the content when of the pending writes these were done: all, or some bytes."""
        content = bytearray(self.durable)
        for (at, data), done in zip(self.pending, kept, strict=True):
            if done is False:
                continue
            if data is None:
                del content[at:]
                continue
            part = data if done is True else data[:done]
            content.extend(bytes(max(0, at - len(content))))
            content[at : at + len(part)] = part
        return bytes(content)

    def flushed(self) -> None:
        self.durable, self.pending = self.left([True] * len(self.pending)), []


@dataclass
class Disk:
    """A folder: which names are in it for sure, and which were made or unlinked since."""

    durable: dict[str, File] = field(default_factory=dict)
    pending: list[tuple[str, File | None]] = field(default_factory=list)

    def names(self, kept: Sequence[bool]) -> dict[str, File]:
        changed = [one for one, done in zip(self.pending, kept, strict=True) if done]
        entries = {**self.durable, **dict(changed)}
        return {name: file for name, file in entries.items() if file}

    @property
    def now(self) -> dict[str, File]:
        return self.names([True] * len(self.pending))

    def flushed(self) -> None:
        self.durable, self.pending = self.now, []

    def opened(self, name: str) -> None:
        if name not in self.now:
            self.pending.append((name, File()))

    def unlinked(self, name: str) -> None:
        self.pending.append((name, None))

    def left(self, dice: random.Random) -> Iterator[dict[str, bytes]]:
        """What a power failure may leave of it."""
        for entries in combinations([False] * len(self.pending), dice):
            files = self.names([bool(done) for done in entries])
            writes = [data for file in files.values() for _, data in file.pending]
            lengths = [len(data) if data else 0 for data in writes]
            for kept in (*combinations(lengths, dice), *torn(lengths)):
                rest = iter(kept)
                yield {
                    name: file.left([next(rest) for _ in file.pending])
                    for name, file in files.items()
                }


def combinations(changes: Sequence[object], dice: random.Random) -> Iterator[list[bool]]:
    """Choose which of some changes were done: all choices, or of many the likely and some."""
    count = len(changes)
    if count <= FEW:
        yield from map(list, product((False, True), repeat=count))
        return
    for number in range(count + 1):
        yield [other < number for other in range(count)]
        yield [other != number for other in range(count)]
        yield [other == number for other in range(count)]
    for _ in range(VARIANTS):
        yield [dice.random() < 0.5 for _ in range(count)]


def torn(lengths: Sequence[int]) -> Iterator[list[int | bool]]:
    """All up to one write, of which some sectors were done, in its order."""
    for number, length in enumerate(lengths):
        for part in range(SECTOR, length, SECTOR):
            yield [other < number if other != number else part for other in range(len(lengths))]


def recorded(folder: Path, tmp_path: Path) -> list[str]:
    script, trace = tmp_path / "saving.py", tmp_path / "trace"
    script.write_text(SAVING)
    calls = "trace=openat,pwrite64,write,ftruncate,fsync,fdatasync,unlink,unlinkat,rename"
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


def replayed(calls: list[str], folder: Path) -> Iterator[tuple[Disk, int, int]]:
    """Before each flush: the disk, the last number that was saved, and the one that was begun.

    What could be left at an earlier instant can be left then too.
    """
    disk = Disk()
    saved = begun = -1
    for line in calls:
        if not (found := CALL.match(line)):
            continue
        call, handle, where, rest, result = found.groups()
        text = TEXT.search(rest)
        data = decoded(text[1]) if text else b""
        path = Path(os.fsdecode(decoded(where) if "\\x" in where else where)) if where else None
        if handle == "2":
            yield disk, saved, begun
            word, number = data.split()
            saved, begun = (int(number), begun) if word == b"saved" else (saved, int(number))
        elif path == folder:
            yield disk, saved, begun
            disk.flushed()
        elif path and keeps(folder, path):
            file = disk.now[path.name]
            if call in {"fsync", "fdatasync"}:
                yield disk, saved, begun
                file.flushed()
            else:
                at = int(rest.rsplit(",", 1)[1])
                file.pending.append((at, data[: int(result)] if call == "pwrite64" else None))
        elif keeps(folder, named := Path(os.fsdecode(data))) and int(result) >= 0:
            (disk.opened if call == "openat" else disk.unlinked)(named.name)
    yield disk, saved, begun


def keeps(folder: Path, path: Path) -> bool:
    """Whether this file holds what outlives a process: the index in shared memory does not."""
    kept = path.name.startswith("rekeyd.sqlite") and not path.name.endswith("-shm")
    return kept and path.parent == folder


def test_what_was_saved_outlives_the_power(tmp_path):
    dice, seen = random.Random(1), set()
    traced, disk = tmp_path / "traced", tmp_path / "disk"
    with small_disk(disk, 4096), proof.counting("fire", "power loss") as counted:
        for number, (left, saved, begun) in enumerate(replayed(recorded(traced, tmp_path), traced)):
            for files in left.left(dice):
                fingerprint = hash((saved, begun, *sorted(files.items())))
                if fingerprint not in seen:
                    seen.add(fingerprint)
                    opens(disk / "state", files, {user(saved), user(begun)}, f"at flush {number}")
        assert saved == SAVES - 1
        assert len(seen) > 100 * SAVES
        met = f"{len(seen):,} disks that may be left at {number} flushes of {SAVES} saves"
        counted.update(met=met)


def opens(folder: Path, files: dict[str, bytes], expected: set[str | None], when: str) -> None:
    """Demand that the store opens what is left, knows what it must, and can go on."""
    folder.mkdir(mode=0o700)
    for name, content in files.items():
        (folder / name).write_bytes(content)
        (folder / name).chmod(0o600)
    with closing(Store(folder)) as store:
        found = store.load("backup_user").user_id
        store.save("backup_user", Custody(user_id="another"))
        assert store.load("backup_user").user_id == "another"
    assert found in expected, f"{when}: {found}"
    shutil.rmtree(folder)


def user(number: int) -> str | None:
    return f"AIDA{number}" if number >= 0 else None
