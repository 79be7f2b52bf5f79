"""Custody in a folder: one SQLite file, durable before the next effect, for one daemon alone.

A write-ahead log with `synchronous=FULL` keeps every commit through a power failure (SQLite,
"PRAGMA synchronous"; NORMAL would not) for one flush each, and readers never wait for the writer.
"""

import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rekeyd.durable import make_folder
from rekeyd.errors import Misconfigured, Refused, Transient
from rekeyd.state import TABLES, VERSION, State, Transaction

WAL_PAGES = 64
"""Pages of 4 KiB after which the log is brought into the file: its room is needed beside it, and
SQLite's own 1,000 would fill a small disk for good."""

DAEMON, COMMAND = "a daemon", "a command"
"""What the lock says of the process that has it."""


class Store(State):
    """The state folder. Safe to read beside a running daemon too."""

    shared = False

    def __init__(self, folder: Path) -> None:
        """Open the folder, making what is missing. Raises `Misconfigured` when it is unusable."""
        self.folder = folder
        self.place = str(folder)
        self._mutex = threading.RLock()
        self._lock: int | None = None
        with _usable(folder):
            make_folder(folder)
            _private(folder / "rekeyd.sqlite")
            self._connection = sqlite3.connect(
                folder / "rekeyd.sqlite",
                timeout=10,
                isolation_level=None,
                check_same_thread=False,
            )
            self._connection.text_factory = _text
            self._opened = _identity(folder / "rekeyd.sqlite")
            try:
                self._prepare()
            except BaseException:
                self._connection.close()
                raise

    def _prepare(self) -> None:
        self._connection.execute("pragma journal_mode = wal")
        self._connection.execute(f"pragma wal_autocheckpoint = {WAL_PAGES}")
        self._connection.execute("pragma secure_delete = on")
        [first, *_] = self._connection.execute("pragma integrity_check").fetchone()
        if first != "ok":  # a row that its index does not find would look as if it never was
            trouble = first.splitlines()[-1]  # the first line may name the database only
            raise sqlite3.DatabaseError(f"it is damaged ({trouble})")
        version = self._version(self._connection)
        self._refuse_newer(version)
        if version == 0:
            with self._transaction() as transaction:
                if self._version(transaction) == 0:
                    numbered = "integer primary key autoincrement"
                    for statement in TABLES.format(number=numbered).split(";"):
                        transaction.execute(statement)
                    transaction.execute(f"pragma user_version = {VERSION}")

    def _version(self, connection: "sqlite3.Connection | _Transaction") -> int:
        (version,) = connection.execute("pragma user_version").fetchone()
        return int(version)

    def close(self) -> None:
        with self._mutex:
            self._connection.close()
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None

    def serve(self) -> bool:
        return self._take_lock(DAEMON)

    def act(self) -> bool:
        return self._take_lock(COMMAND)

    def busy(self) -> bool:
        return self.holder().endswith(COMMAND)

    def _take_lock(self, role: str) -> bool:
        path = self.folder / "lock"
        with _usable(self.folder):
            _private(path)
            handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return False
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}, {role}\n".encode(), 0)
        self._lock = handle
        return True

    def holder(self) -> str:
        try:
            return f"process {(self.folder / 'lock').read_text().strip()}"
        except OSError:
            return "process unknown"

    def beat(self) -> None:
        self.set_meta("alive", datetime.now(UTC).isoformat(timespec="seconds"))

    def claim(self, identity: str) -> None:
        """One daemon is alone on its folder, and has the right to act while that is there."""
        del identity
        self._must_be_there()

    def renew(self, identity: str) -> None:
        """Nobody can have taken over."""

    def release(self, identity: str) -> None:
        """Nobody waits for it."""

    def _guard(self, transaction: Transaction, identity: str) -> None:
        """Whoever writes has the lock."""

    def _rows(self, query: str, *values: object) -> list[Any]:
        with self._mutex, _reachable(self.folder):
            return self._connection.execute(query, values).fetchall()

    @contextmanager
    def _transaction(self, *, durable: bool = True) -> Iterator["_Transaction"]:
        with self._mutex, _reachable(self.folder):
            if durable:
                self._must_be_there()
            self._connection.execute(f"pragma synchronous = {'full' if durable else 'normal'}")
            self._connection.execute("begin immediate")
            try:
                yield _Transaction(self._connection)
                self._connection.execute("commit")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("rollback")
                raise

    def _must_be_there(self) -> None:
        """Raise `Refused` when the file was deleted or replaced: what is written now is lost."""
        path = self.folder / "rekeyd.sqlite"
        if _identity(path) != self._opened:
            raise Refused(
                f"{path} was deleted or replaced while rekeyd uses it, so what it keeps would be "
                "lost; no key is made or retired",
                "put the state back and start rekeyd again; without it, `rekeyd adopt` the keys",
                reason="state",
            )


class _Transaction:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def execute(self, query: str, values: Sequence[Any] = (), /) -> sqlite3.Cursor:
        return self._connection.execute(query, values)

    def insert(self, query: str, values: Sequence[Any], /) -> int:
        return self.execute(query, values).lastrowid or 0


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what tells one file from any other of the same name, or None where there is none."""
    with suppress(OSError):
        found = path.stat()
        return found.st_dev, found.st_ino
    return None


def _text(stored: bytes) -> str:
    """Read text even where it was damaged: who reads it knows better what follows from that."""
    return stored.decode(errors="replace")


def _private(path: Path) -> None:
    """Make a file that only its owner can read, owned as the folder is (root may run commands)."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        folder = path.parent.stat()
        if os.geteuid() == 0 and os.fstat(handle).st_uid != folder.st_uid:
            os.fchown(handle, folder.st_uid, folder.st_gid)
    finally:
        os.close(handle)


@contextmanager
def _usable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Misconfigured(
            f"the state folder {folder} cannot be used: {error.strerror}",
            "rekeyd needs a folder of its own that it can write to: see `state` and its owner",
        ) from None
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        raise Misconfigured(
            f"the state {folder}/rekeyd.sqlite cannot be opened: {_why(error)}",
            "put it back from a backup, or move it away and `rekeyd adopt` the keys; "
            "backups go on with the pair that they have",
        ) from None


def _why(error: Exception) -> str:
    return "it is damaged" if isinstance(error, UnicodeDecodeError) else str(error)


@contextmanager
def _reachable(folder: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as error:
        passing = isinstance(error, sqlite3.OperationalError)
        if passing and error.sqlite_errorcode != sqlite3.SQLITE_ERROR:
            raise Transient(
                f"the state in {folder} cannot be written or read now: {error}",
                "see whether its disk is full or read-only; no key is made or retired meanwhile",
            ) from None
        raise Refused(  # a statement that was always understood is not any more: a flipped name
            f"the state in {folder} is damaged: {error}",
            "put it back from a backup; nothing is touched until then",
            reason="state",
        ) from None
