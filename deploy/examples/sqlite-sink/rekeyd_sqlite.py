"""A pair as one row of an SQLite database, for a program that keeps its settings in one."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Literal

from pydantic import Field

from rekeyd.errors import Refused, Transient
from rekeyd.ports import Sink
from rekeyd.secret import AccessPair, Secret
from rekeyd.sinks.base import SinkContext, SinkSettings

READ = "SELECT key_id, secret FROM pair WHERE name = ?"
WRITE = """INSERT INTO pair (name, key_id, secret) VALUES (?, ?, ?)
ON CONFLICT (name) DO UPDATE SET key_id = excluded.key_id, secret = excluded.secret"""


class SqliteRow(SinkSettings):
    """What stands in the configuration. Unknown settings are mistakes."""

    type: Literal["sqlite_row"]
    path: str = Field(
        description="The database, with a table `pair (name PRIMARY KEY, key_id, secret)`."
    )
    row: str = Field("backup", description="The name of the row.")

    @property
    def place(self) -> str:
        return f"{self.path}#{self.row}"

    def open(self, context: SinkContext) -> Sink:  # noqa: ARG002 - it needs no surroundings
        return SqliteRowSink(self)


class SqliteRowSink:
    """The contract is that of `rekeyd.ports.Sink`."""

    readable = True

    def __init__(self, settings: SqliteRow) -> None:
        self.name = settings.label
        self.mark = settings.mark
        self._path = settings.path
        self._row = settings.row

    def check(self) -> None:
        with self._database() as database:
            database.execute("BEGIN IMMEDIATE")  # takes the right to write, and writes nothing
            database.execute(READ, [self._row])
            database.execute("ROLLBACK")

    def read(self) -> AccessPair | None:
        with self._database() as database:
            found = database.execute(READ, [self._row]).fetchone()
        return AccessPair(found[0], Secret(found[1])) if found else None

    def put(self, pair: AccessPair) -> None:
        with self._database() as database:  # one statement, so one transaction
            database.execute(WRITE, [self._row, pair.key_id, pair.secret.reveal()])

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        """Open it; what goes wrong becomes rekeyd's own errors, without what was written."""
        address = f"file:{self._path}?mode=rw"
        try:
            with closing(
                sqlite3.connect(address, uri=True, timeout=5, isolation_level=None)
            ) as database:
                yield database
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname.startswith(("SQLITE_BUSY", "SQLITE_FULL")):
                raise Transient(f"{self._path}: {error}", "rekeyd tries again by itself") from None
            raise Refused(
                f"{self._path}: {error}",
                "see that it exists, with its table, and that the daemon may write to it",
                reason="sink",
            ) from None
