"""Custody in SQL: one schema and one set of queries, whichever database keeps them.

`store` keeps them in a folder, for one daemon; `postgres` on a server, for several replicas.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from typing import Any, Protocol

from pydantic import TypeAdapter, ValidationError

from rekeyd.errors import Misconfigured, Refused, RekeydError
from rekeyd.model import Custody
from rekeyd.ports import Event, Request
from rekeyd.view import Status

VERSION = 1
"""Of the tables below. A state of a newer version is refused, never guessed at."""

KEPT = 10_000
"""Lines of history that are kept, over all identities."""

TABLES = """
create table meta (name text primary key, value text not null);
create table custody (identity text primary key, document text not null, digest text not null);
create table request (number {number}, identity text not null, kind text not null,
                      argument text not null);
create table history (number {number}, at text not null, identity text not null,
                      rule text not null, step text not null, outcome text not null,
                      detail text not null);
create table status (identity text primary key, document text not null)
"""


class Transaction(Protocol):
    """Several changes that become true at once. Values stand in a query as `?`."""

    def execute(self, query: str, values: Sequence[object] = (), /) -> Any:
        """Run one statement."""

    def insert(self, query: str, values: Sequence[object], /) -> int:
        """Run an `insert` into a table whose rows are numbered; return the new number."""


class State(ABC):
    """What outlives the process. Safe to use from several threads."""

    place: str
    """Where it is, as people read it. No password stands in it."""

    shared: bool
    """Whether other replicas may work on the identities of this state too."""

    @abstractmethod
    def _rows(self, query: str, *values: object) -> list[Any]:
        """Return what a query finds. Raises `Transient` when the state cannot be reached."""

    @abstractmethod
    def _transaction(self, *, durable: bool = True) -> AbstractContextManager[Transaction]:
        """Change several things at once. What no key depends on need not be flushed at once."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the database, and of every right to act."""

    # Who may act

    @abstractmethod
    def serve(self) -> bool:
        """Become a daemon on this state; tell whether that is allowed beside those there are."""

    @abstractmethod
    def act(self) -> bool:
        """Become the one who does a daemon's work; tell whether no daemon is there to do it."""

    @abstractmethod
    def busy(self) -> bool:
        """Whether a command, which ends by itself, is all that is in the way of `serve`."""

    @abstractmethod
    def holder(self) -> str:
        """Name whoever last became one of the two."""

    @abstractmethod
    def beat(self) -> None:
        """Say that this daemon is alive, by a write that is as durable as custody's."""

    def agree(self, sinks: Mapping[str, str]) -> None:
        """Tell other replicas which sinks each identity has, as a digest of their places.

        While one that is alive says otherwise, nobody may act: it would retire what a sink holds.
        """
        del sinks

    @abstractmethod
    def claim(self, identity: str) -> None:
        """Take the right to act on an identity, as `CustodyStore` says."""

    @abstractmethod
    def renew(self, identity: str) -> None:
        """Keep the right to act on an identity for the next effect."""

    @abstractmethod
    def release(self, identity: str) -> None:
        """Give the right to act on an identity back."""

    @abstractmethod
    def _guard(self, transaction: Transaction, identity: str) -> None:
        """Refuse a change of custody to whoever has lost the right to act."""

    # Custody

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
            f"put {self.place} back from a backup, or move it away and `rekeyd adopt` the key",
            reason="state",
        )

    def save(self, identity: str, custody: Custody) -> None:
        with self._transaction() as transaction:
            self._guard(transaction, identity)
            self._write(transaction, identity, custody)

    def settle(self, identity: str, numbers: Sequence[int], custody: Custody | None) -> None:
        with self._transaction() as transaction:
            self._guard(transaction, identity)
            for number in numbers:
                transaction.execute("delete from request where number = ?", (number,))
            if custody is not None:
                self._write(transaction, identity, custody)

    def _write(self, transaction: Transaction, identity: str, custody: Custody) -> None:
        document = _custody().dump_json(custody).decode()
        transaction.execute(
            "insert into custody (identity, document, digest) values (?, ?, ?)"
            " on conflict (identity) do update set document = excluded.document,"
            " digest = excluded.digest",
            (identity, document, sha256(document.encode()).hexdigest()),
        )

    # What people ask for

    def ask(self, identity: str, request: Request) -> int:
        """Leave a request for whoever works on this state; return its number."""
        with self._transaction() as transaction:
            return transaction.insert(
                "insert into request (identity, kind, argument) values (?, ?, ?)",
                (identity, request.kind, request.argument),
            )

    def requests(self, identity: str) -> Sequence[tuple[int, Request]]:
        rows = self._rows(
            "select number, kind, argument from request where identity = ? order by number",
            identity,
        )
        return [(number, Request(kind, argument)) for number, kind, argument in rows]

    def waiting(self) -> dict[str, int]:
        """Return the newest request of each identity for which somebody asked for something."""
        return dict(self._rows("select identity, max(number) from request group by identity"))

    # What happened, and how things stand

    def log(self, event: Event) -> None:
        """Append to the history, on a best effort: no key depends on it."""
        with suppress(RekeydError), self._transaction(durable=False) as transaction:
            number = transaction.insert(
                "insert into history (at, identity, rule, step, outcome, detail)"
                " values (?, ?, ?, ?, ?, ?)",
                (event.at.isoformat(), *_columns(event)),
            )
            transaction.execute("delete from history where number <= ?", (number - KEPT,))

    def history(self, identity: str | None = None, after: int = 0) -> list[tuple[int, Event]]:
        """Return events with their numbers, oldest first, of one identity or of all.

        A line that was damaged is left out: no key depends on it.
        """
        rows = self._rows(
            "select number, at, identity, rule, step, outcome, detail from history"
            " where number > ? and (cast(? as text) is null or identity = ?) order by number",
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
        (newest,) = self._row("select coalesce(max(number), 0) from history")
        return int(newest)

    def publish(self, status: Status) -> None:
        """Keep the last known status of an identity, for those who ask without looking."""
        document = _status().dump_json(status).decode()
        with suppress(RekeydError), self._transaction(durable=False) as transaction:
            transaction.execute(
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

    # Notes

    def meta(self, name: str) -> str | None:
        rows = self._rows("select value from meta where name = ?", name)
        return next((value for (value,) in rows), None)

    def set_meta(self, name: str, value: str) -> None:
        with self._transaction() as transaction:
            transaction.execute(
                "insert into meta (name, value) values (?, ?)"
                " on conflict (name) do update set value = excluded.value",
                (name, value),
            )

    def first_meta(self, name: str, value: str) -> str:
        """Set a note unless somebody was first; return what it says now."""
        with self._transaction() as transaction:
            transaction.execute(
                "insert into meta (name, value) values (?, ?) on conflict (name) do nothing",
                (name, value),
            )
        return self.meta(name) or value

    def _row(self, query: str, *values: object) -> Any:
        return next(iter(self._rows(query, *values)), None)

    def _refuse_newer(self, version: int) -> None:
        if version > VERSION:
            raise Misconfigured(
                f"the state in {self.place} was written by a newer rekeyd "
                f"(its version is {version}, this program knows {VERSION})",
                "run that rekeyd, or start from another state",
            )


def _columns(event: Event) -> tuple[str, ...]:
    return (event.identity, event.rule, event.step, event.outcome, event.detail)


@cache
def _custody() -> TypeAdapter[Custody]:
    return TypeAdapter(Custody)


@cache
def _status() -> TypeAdapter[Status]:
    return TypeAdapter(Status)
