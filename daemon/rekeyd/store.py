"""Custody on disk: one SQLite file in the state folder, durable before the next effect.

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
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from rekeyd.errors import Misconfigured, Refused, Transient
from rekeyd.model import Custody, Request
from rekeyd.ports import Event
from rekeyd.view import Status

VERSION = 1
"""Of the tables below. A state of a newer version is refused, never guessed at."""

WAL_PAGES = 64
"""Pages of 4 KiB after which the log is brought into the file: its room is needed beside it, and
SQLite's own 1,000 would fill a small disk for good."""

KEPT = 10_000
"""Lines of history that are kept, over all identities."""

TABLES = """
create table meta (name text primary key, value text not null);
create table custody (identity text primary key, document text not null, digest text not null);
create table request (number integer primary key autoincrement, identity text not null,
                      kind text not null, argument text not null);
create table history (number integer primary key autoincrement, at text not null,
                      identity text not null, rule text not null, step text not null,
                      outcome text not null, detail text not null);
create table status (identity text primary key, document text not null);
"""


class Store:
    """The state folder. Safe to use from several threads, and to read beside a running daemon."""

    def __init__(self, folder: Path) -> None:
        """Open the folder, making what is missing. Raises `Misconfigured` when it is unusable."""
        self.folder = folder
        self._mutex = threading.RLock()
        self._lock: int | None = None
        with _usable(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _private(folder / "rekeyd.sqlite")
            self._connection = sqlite3.connect(
                folder / "rekeyd.sqlite",
                timeout=10,
                isolation_level=None,
                check_same_thread=False,
            )
            self._connection.text_factory = _text
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
            raise sqlite3.DatabaseError(f"it is damaged ({first.splitlines()[0]})")
        version = self._connection.execute("pragma user_version").fetchone()[0]
        if version > VERSION:
            raise Misconfigured(
                f"the state in {self.folder} was written by a newer rekeyd "
                f"(its version is {version}, this program knows {VERSION})",
                "run that rekeyd, or start from another state folder",
            )
        if version == 0:
            with self._transaction() as connection:
                if connection.execute("pragma user_version").fetchone()[0] == 0:
                    for statement in TABLES.split(";")[:-1]:
                        connection.execute(statement)
                    connection.execute(f"pragma user_version = {VERSION}")

    def close(self) -> None:
        with self._mutex:
            self._connection.close()
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None

    def lock(self) -> bool:
        """Become the one process that acts on this state; tell whether that worked."""
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
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        self._lock = handle
        return True

    def holder(self) -> str:
        """Return the process id that last took the lock."""
        try:
            return (self.folder / "lock").read_text().strip()
        except OSError:
            return "?"

    def load(self, identity: str) -> Custody:
        row = self._row("select document, digest from custody where identity = ?", identity)
        if row is None:
            return Custody()
        document, digest = row
        if sha256(document.encode()).hexdigest() == digest:
            with suppress(ValidationError):
                return _custody().validate_json(document)
        raise Refused(
            f"what the state holds of {identity} is damaged, so rekeyd touches nothing of it",
            f"put {self.folder} back from a backup, or move it away and `rekeyd adopt` the key",
            reason="state",
        )

    def save(self, identity: str, custody: Custody) -> None:
        with self._transaction() as connection:
            _write(connection, identity, custody)

    def settle(self, identity: str, number: int, custody: Custody | None) -> None:
        with self._transaction() as connection:
            connection.execute("delete from request where number = ?", (number,))
            if custody is not None:
                _write(connection, identity, custody)

    def ask(self, identity: str, request: Request) -> int:
        """Leave a request for whoever works on this state; return its number."""
        with self._transaction() as connection:
            cursor = connection.execute(
                "insert into request (identity, kind, argument) values (?, ?, ?)",
                (identity, request.kind, request.argument),
            )
            return int(cursor.lastrowid or 0)

    def requests(self, identity: str) -> Sequence[tuple[int, Request]]:
        rows = self._rows(
            "select number, kind, argument from request where identity = ? order by number",
            identity,
        )
        return [(number, Request(kind, argument)) for number, kind, argument in rows]

    def waiting(self) -> dict[str, int]:
        """Return the newest request of each identity for which somebody asked for something."""
        return dict(self._rows("select identity, max(number) from request group by identity"))

    def log(self, event: Event) -> None:
        """Append to the history, on a best effort: no key depends on it."""
        with suppress(Transient), self._transaction(durable=False) as connection:
            cursor = connection.execute(
                "insert into history (at, identity, rule, step, outcome, detail)"
                " values (?, ?, ?, ?, ?, ?)",
                (event.at.isoformat(), *_columns(event)),
            )
            oldest = (cursor.lastrowid or 0) - KEPT
            connection.execute("delete from history where number <= ?", (oldest,))

    def history(self, identity: str | None = None, after: int = 0) -> list[tuple[int, Event]]:
        """Return events with their numbers, oldest first, of one identity or of all.

        A line that was damaged is left out: no key depends on it.
        """
        rows = self._rows(
            "select number, at, identity, rule, step, outcome, detail from history"
            " where number > ? and (? is null or identity = ?) order by number",
            after,
            identity,
            identity,
        )
        events = []
        for number, at, *rest in rows:
            with suppress(ValueError):
                events.append((number, Event(datetime.fromisoformat(at).astimezone(UTC), *rest)))
        return events

    def latest(self) -> int:
        """Return the number of the newest event."""
        row = self._row("select coalesce(max(number), 0) from history")
        return int(row[0]) if row else 0

    def publish(self, status: Status) -> None:
        """Keep the last known status of an identity, for those who ask without looking."""
        document = _status().dump_json(status).decode()
        with suppress(Transient), self._transaction(durable=False) as connection:
            connection.execute(
                "insert into status (identity, document) values (?, ?)"
                " on conflict (identity) do update set document = excluded.document",
                (status.identity, document),
            )

    def published(self) -> dict[str, Status]:
        """Return the last known status of each identity, but for those that were damaged."""
        known = {}
        for identity, document in self._rows("select identity, document from status"):
            with suppress(ValidationError):
                known[identity] = _status().validate_json(document)
        return known

    def meta(self, name: str) -> str | None:
        row = self._row("select value from meta where name = ?", name)
        return row[0] if row else None

    def set_meta(self, name: str, value: str) -> None:
        with self._transaction() as connection:
            connection.execute(
                "insert into meta (name, value) values (?, ?)"
                " on conflict (name) do update set value = excluded.value",
                (name, value),
            )

    def _row(self, query: str, *values: object) -> Any:
        return next(iter(self._rows(query, *values)), None)

    def _rows(self, query: str, *values: object) -> list[Any]:
        with self._mutex, _reachable(self.folder):
            return self._connection.execute(query, values).fetchall()

    @contextmanager
    def _transaction(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """Change several things at once. What no key depends on need not be flushed at once."""
        with self._mutex, _reachable(self.folder):
            self._connection.execute(f"pragma synchronous = {'full' if durable else 'normal'}")
            self._connection.execute("begin immediate")
            try:
                yield self._connection
                self._connection.execute("commit")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("rollback")
                raise


def _text(stored: bytes) -> str:
    """Read text even where it was damaged: who reads it knows better what follows from that."""
    return stored.decode(errors="replace")


def _columns(event: Event) -> tuple[str, ...]:
    return (event.identity, event.rule, event.step, event.outcome, event.detail)


def _write(connection: sqlite3.Connection, identity: str, custody: Custody) -> None:
    document = _custody().dump_json(custody).decode()
    connection.execute(
        "insert into custody (identity, document, digest) values (?, ?, ?)"
        " on conflict (identity) do update set document = excluded.document,"
        " digest = excluded.digest",
        (identity, document, sha256(document.encode()).hexdigest()),
    )


@cache
def _custody() -> TypeAdapter[Custody]:
    return TypeAdapter(Custody)


@cache
def _status() -> TypeAdapter[Status]:
    return TypeAdapter(Status)


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
    except sqlite3.OperationalError as error:
        raise Transient(
            f"the state in {folder} cannot be written or read now: {error}",
            "see whether its disk is full or read-only; no key is made or retired meanwhile",
        ) from None
    except sqlite3.DatabaseError as error:
        raise Refused(
            f"the state in {folder} is damaged: {error}",
            "put it back from a backup; nothing is touched until then",
            reason="state",
        ) from None
