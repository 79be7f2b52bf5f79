"""Custody in PostgreSQL, for replicas: whoever acts on an identity holds a lease on it.

Two slots for keys are no lock, so a replica claims an identity for one turn, from its look until it
rests, and renews the claim before every effect. What a replica sends that sleeps through its lease
is refused everywhere:

* custody: every write names the fence of the claim, a number that grows with each new one;
* IAM: a request is signed before the claim is renewed for it, and AWS refuses a signature that is
  older than five minutes (IAM User Guide, "Signing AWS API requests"), on a clock that may be five
  minutes wrong. A lease outlives them both.
* sinks: the claim is renewed just before a put. A put that began in time and ends late is told to
  the replica that took over, as a request, and repeated with the pair that is current then.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from secrets import token_hex
from typing import Any
from urllib.parse import urlsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict

from rekeyd.errors import Elsewhere, Misconfigured, Refused, RekeydError, Transient
from rekeyd.state import TABLES, VERSION, State

LEASE = 660
"""Seconds after its last renewal in which a claim is nobody else's."""

SILENT = 90
"""Seconds without a beat after which a replica is taken for dead."""

LIMITS: dict[str, Any] = {
    "connect_timeout": 5,
    "tcp_user_timeout": 5000,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "application_name": "rekeyd",
}
"""No query blocks for longer, whatever happens to the network."""

SESSION = (
    "set statement_timeout = '5s'",
    "set lock_timeout = '5s'",
    "set idle_in_transaction_session_timeout = '30s'",
)

PAUSE = 2.0
"""Seconds after a failure in which nobody tries again, so that threads do not queue for it."""

LEASES = """
create table lease (identity text primary key, holder text not null, fence bigint not null,
                    renewed timestamptz not null);
create table replica (holder text primary key, seen timestamptz not null, sinks jsonb not null)
"""

ADVISORY = 0x72656B6579640001
"""Of the lock under which the tables are made: `rekeyd` and a number, in ASCII."""


class PostgresStore(State):
    """The state on a server, of this replica and of others."""

    shared = True

    def __init__(self, url: str) -> None:
        """Connect. Raises `Misconfigured` when the server refuses us, `Transient` without one."""
        address = urlsplit(url)
        self.place = f"postgresql://{address.netloc.rpartition('@')[2]}{address.path}"
        self._url = url
        self._mutex = threading.RLock()
        self._connection: psycopg.Connection[Any] | None = None
        self._pausing = 0.0, Transient("")
        self._holder = f"{socket.gethostname()}/{os.getpid()}/{token_hex(4)}"
        self._fences: dict[str, int] = {}
        self._sinks: Mapping[str, str] = {}
        try:
            conninfo_to_dict(url)
        except psycopg.ProgrammingError as error:
            raise Misconfigured(
                f"`state` is no address that PostgreSQL understands: {_first_line(error)}",
                "see its manual, 34.1.1.2, Connection URIs",
            ) from None
        self._connected()

    # The tables

    @property
    def made(self) -> bool:
        """Whether a daemon has ever worked on this database."""
        return self._row("select to_regclass('custody')")[0] is not None

    def make(self) -> None:
        """Make the tables where there are none. Raises `Misconfigured` for those of a newer one."""
        with self._transaction() as transaction:
            transaction.execute("select pg_advisory_xact_lock(?)", (ADVISORY,))
            if not self.made:
                numbered = "bigint generated always as identity primary key"
                for statement in (TABLES.format(number=numbered) + ";" + LEASES).split(";"):
                    transaction.execute(statement)
                transaction.execute("insert into meta values ('version', ?)", (str(VERSION),))
        try:
            self._refuse_newer(int(self.meta("version") or 0))
        except Misconfigured:
            self.close()
            raise

    def close(self) -> None:
        with suppress(RekeydError), self._transaction(durable=False) as transaction:
            transaction.execute("delete from replica where holder = ?", (self._holder,))
        with self._mutex:
            self._disconnect()

    # Who may act

    def serve(self) -> bool:
        self.beat()
        return True

    def act(self) -> bool:
        alive = "select 1 from replica where seen > now() - make_interval(secs => ?)"
        return self._row(alive, SILENT) is None

    def busy(self) -> bool:
        return False

    def holder(self) -> str:
        row = self._row("select holder from replica order by seen desc limit 1")
        return row[0] if row else "replica unknown"

    def beat(self) -> None:
        with self._transaction() as transaction:
            transaction.execute(
                "insert into replica (holder, seen, sinks) values (?, now(), ?::jsonb)"
                " on conflict (holder) do update set seen = excluded.seen, sinks = excluded.sinks",
                (self._holder, json.dumps(dict(self._sinks))),
            )
            transaction.execute("delete from replica where seen < now() - interval '1 day'")

    def agree(self, sinks: Mapping[str, str]) -> None:
        self._sinks = sinks
        with suppress(RekeydError):  # else the next beat tells it
            self.beat()

    def _refuse_other_sinks(self, identity: str) -> None:
        row = self._row(
            "select holder from replica where holder <> ? and sinks ->> ?::text <> ?::text"
            " and seen > now() - make_interval(secs => ?)",
            self._holder,
            identity,
            self._sinks.get(identity),
            SILENT,
        )
        if row:
            raise Refused(
                f"the replica {row[0]} has other sinks for {identity} than this one; each could "
                "retire what one of the other's holds; no key is made or retired",
                "give every replica the same configuration, and reload or restart it",
                reason="state",
            )

    def claim(self, identity: str) -> None:
        self._refuse_other_sinks(identity)
        if identity in self._fences:
            self.renew(identity)
            return
        with self._transaction() as transaction:
            claimed = transaction.execute(
                "insert into lease (identity, holder, fence, renewed) values (?, ?, 1, now())"
                " on conflict (identity) do update"
                " set holder = excluded.holder, fence = lease.fence + 1, renewed = now()"
                " where lease.holder in ('', excluded.holder)"
                " or lease.renewed < now() - make_interval(secs => ?) returning fence",
                (identity, self._holder, LEASE),
            ).fetchone()
        if claimed is None:
            raise Elsewhere(f"another replica is at work on {identity}")
        self._fences[identity] = claimed[0]

    def renew(self, identity: str) -> None:
        with self._transaction() as transaction:
            self._guard(transaction, identity)

    def _guard(self, transaction: Any, identity: str) -> None:
        kept = transaction.execute(
            "update lease set renewed = now() where identity = ? and holder = ? and fence = ?",
            (identity, self._holder, self._fences.get(identity, 0)),
        ).rowcount
        if not kept:
            self._fences.pop(identity, None)
            raise Elsewhere(f"another replica has taken over {identity}")

    def release(self, identity: str) -> None:
        fence = self._fences.pop(identity, None)
        if fence is None:
            return
        with suppress(RekeydError), self._transaction() as transaction:
            transaction.execute(
                "update lease set holder = '' where identity = ? and holder = ? and fence = ?",
                (identity, self._holder, fence),
            )

    # The connection

    def _rows(self, query: str, *values: object) -> list[Any]:
        with self._mutex, self._reachable():
            return self._connected().execute(_translated(query), values).fetchall()

    @contextmanager
    def _transaction(self, *, durable: bool = True) -> Iterator["_Transaction"]:
        with self._mutex, self._reachable():
            connection = self._connected()
            with connection.transaction():
                connection.execute(f"set local synchronous_commit = {'on' if durable else 'off'}")
                yield _Transaction(connection)

    def _connected(self) -> psycopg.Connection[Any]:
        if self._connection is None:
            until, trouble = self._pausing
            if time.monotonic() < until:
                raise trouble
            with self._reachable():
                self._connection = psycopg.connect(self._url, autocommit=True, **LIMITS)
                for statement in SESSION:
                    self._connection.execute(statement)
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextmanager
    def _reachable(self) -> Iterator[None]:
        try:
            yield
        except psycopg.ProgrammingError as error:
            raise Refused(
                f"the database {self.place} refuses what rekeyd asks: {_first_line(error)}",
                "give rekeyd a database of its own, and the role in `state` every right in it",
                reason="state",
            ) from None
        except psycopg.Error as error:
            refused = self._connection is None and "FATAL" in str(error)
            self._disconnect()
            if refused and not _passing(error):
                raise Misconfigured(
                    f"the database {self.place} does not let rekeyd in: {_first_line(error)}",
                    "see the role, the password and the database that `state` names",
                ) from None
            trouble = Transient(
                f"the state in {self.place} cannot be written or read now: {_first_line(error)}",
                "see whether PostgreSQL runs there; no key is made or retired meanwhile",
            )
            self._pausing = time.monotonic() + PAUSE, trouble
            raise trouble from None


class _Transaction:
    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def execute(self, query: str, values: Sequence[object] = (), /) -> Any:
        return self._connection.execute(_translated(query), values)

    def insert(self, query: str, values: Sequence[object], /) -> int:
        return int(self.execute(f"{query} returning number", values).fetchone()[0])


def _translated(query: str) -> Any:  # a query is typed as a literal, and these come from literals
    return query.replace("?", "%s")


def _passing(error: psycopg.Error) -> bool:
    """Whether the server lets nobody in just now: it starts, stops, or is full."""
    return any(word in str(error) for word in ("starting up", "shutting down", "too many", "slots"))


def _first_line(error: psycopg.Error) -> str:
    lines = str(error).splitlines()
    return next((line for line in lines if "FATAL" in line), lines[0] if lines else "no answer")
