"""The worked example of a third party's sink, for the contract: deploy/examples/sqlite-sink."""

import sqlite3
import sys
from contextlib import closing, contextmanager
from importlib import import_module
from pathlib import Path

from contract import Case, Place

from rekeyd.secret import AccessPair, Secret
from rekeyd.sinks import opened
from rekeyd.sinks.base import SinkContext

EXAMPLE = Path(__file__).parents[2] / "deploy/examples/sqlite-sink"
TABLE = "CREATE TABLE pair (name TEXT PRIMARY KEY, key_id TEXT, secret TEXT)"


def example():
    """Import the example as if it were installed."""
    sys.path.insert(0, str(EXAMPLE))
    try:
        return import_module("rekeyd_sqlite")
    finally:
        sys.path.remove(str(EXAMPLE))


def rows(path):
    with closing(sqlite3.connect(path)) as database:
        return database.execute("SELECT rowid, * FROM pair").fetchall()


@contextmanager
def place(folder):
    path = folder / "settings.sqlite"
    with closing(sqlite3.connect(path)) as database:
        database.execute(TABLE)
    settings = example().SqliteRow(type="sqlite_row", path=str(path))

    def deny():
        with closing(sqlite3.connect(path)) as database:
            database.execute("ALTER TABLE pair RENAME COLUMN secret TO taken")

    yield Place(
        open=lambda: opened(settings, SinkContext("backup_user", lambda *_: None)),
        consumer=lambda: next((AccessPair(r[2], Secret(r[3])) for r in rows(path)), None),
        look=lambda: rows(path),
        deny=deny,
    )


CASES = [Case("sqlite_row of another package", place)]
