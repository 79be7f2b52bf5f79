"""Custody on disk: what is saved is there, whoever looks, and nobody else may look."""

import os
import sqlite3
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import pytest

from rekeyd import state as module
from rekeyd.errors import Misconfigured, Refused, Transient
from rekeyd.model import Custody, Intent, Pair
from rekeyd.ports import Event, Request
from rekeyd.steps import Hold
from rekeyd.store import Store
from rekeyd.view import KeyStatus, SinkStatus, Status

NOW = datetime(2026, 11, 1, 3, 0, tzinfo=UTC)
FULL = Custody(
    user_id="AIDA1",
    intent=Intent(NOW, frozenset({"AKIA1", "AKIA2"})),
    pairs=(
        Pair(key_id="AKIA1", minted=NOW, sealed="…", fingerprint="f", delivered={"a sink": NOW}),
        Pair(key_id="AKIA2", minted=NOW + timedelta(seconds=1), adopted=True, revoked=NOW),
    ),
    asked=NOW,
    ledger={"a sink": "AKIA1", "another": ""},
    gone=("AKIA0",),
)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "state"


@pytest.fixture
def store(folder):
    opened = Store(folder)
    yield opened
    opened.close()


def test_an_identity_never_seen_has_an_empty_custody(store):
    assert store.load("backup_user") == Custody()


def test_custody_outlives_the_process(store, folder):
    store.save("backup_user", Custody(user_id="AIDA0"))
    store.save("backup_user", FULL)
    store.close()

    again = Store(folder)
    assert again.load("backup_user") == FULL
    again.close()


def test_only_the_owner_may_read_it(store, folder):
    store.serve()

    modes = {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert modes == {0o600}


def test_a_save_that_fails_changes_nothing(store):
    store.save("backup_user", FULL)

    with pytest.raises(RuntimeError), store._transaction() as connection:
        connection.execute("delete from custody")
        raise RuntimeError

    assert store.load("backup_user") == FULL


def test_one_process_at_a_time_acts_on_it(store, folder):
    second = Store(folder)

    assert store.holder() == "process unknown"
    assert store.serve()
    assert not second.serve()
    assert second.holder().startswith("process ")
    store.close()
    assert second.serve()
    second.close()


def test_requests_are_kept_until_they_are_settled(store):
    first = store.ask("backup_user", Request("rotate"))
    second = store.ask("backup_user", Request("adopt", "AKIA9"))

    assert store.waiting() == {"backup_user": second}
    store.settle("backup_user", first, Custody(user_id="AIDA1"))
    assert store.requests("backup_user") == [(second, Request("adopt", "AKIA9"))]
    store.settle("backup_user", second, None)
    assert store.waiting() == {}
    assert store.load("backup_user") == Custody(user_id="AIDA1")


def test_history_is_told_in_order_and_kept_within_bounds(store, monkeypatch):
    monkeypatch.setattr(module, "KEPT", 5)
    for number in range(8):
        name = "one" if number % 2 else "two"
        store.log(Event(NOW, name, "mint", "mint", "done", str(number)))

    assert [event.detail for _, event in store.history()] == ["3", "4", "5", "6", "7"]
    assert [event.detail for _, event in store.history("one")] == ["3", "5", "7"]
    assert store.history(after=store.latest()) == []
    assert store.history("one")[0][1].at == NOW


def test_the_last_status_is_kept_whole(store):
    key = KeyStatus("…0001", "current", True, NOW, None, NOW, NOW, None)
    status = Status(
        identity="backup_user",
        at=NOW,
        stage="on hold",
        rule="guard",
        message="no",
        hold=Hold("root", "is root", "do not"),
        keys=(key,),
        sinks=(SinkStatus("a sink", True, None),),
    )

    store.publish(status)

    assert store.published() == {"backup_user": status}


def test_a_link_in_place_of_the_state_is_refused(folder, tmp_path):
    folder.mkdir()
    (folder / "rekeyd.sqlite").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(Misconfigured, match="cannot be used: Too many levels"):
        Store(folder)


def test_a_file_in_place_of_the_folder_is_refused(folder):
    folder.write_text("")

    with pytest.raises(Misconfigured, match="state cannot be used: File exists"):
        Store(folder)


def test_damaged_custody_is_never_guessed_at(store, folder):
    store.save("backup_user", FULL)
    with sqlite3.connect(folder / "rekeyd.sqlite") as other:
        other.execute("update custody set document = replace(document, 'AIDA1', 'AIDA2')")
    other.close()

    with pytest.raises(Refused, match="is damaged") as refused:
        store.load("backup_user")
    assert refused.value.reason == "state"


def test_a_file_that_is_damaged_is_refused_before_anything_is_read_from_it(store, folder):
    store.save("backup_user", FULL)
    store.close()
    content = (folder / "rekeyd.sqlite").read_bytes()
    (folder / "rekeyd.sqlite").write_bytes(content[:8192] + b"\xa5" * 4096 + content[12288:])

    with pytest.raises(Misconfigured, match="cannot be opened"):
        Store(folder)


def test_one_flipped_bit_is_harmless_or_refused(store, folder):
    """Never other custody than was saved, nor none, and nothing but our own errors."""
    names = [f"backup_user_{number}" for number in range(5)]
    for name in names:
        store.save(name, FULL)
        store.log(Event(NOW, name, "mint", "mint", "done", "made …KIA1"))
        store.publish(Status(identity=name, at=NOW, stage="resting", rule="rest", message=""))
    store.close()
    file = folder / "rekeyd.sqlite"
    content, dice, refused = file.read_bytes(), Random(1), 0
    for _ in range(500):
        at, bit = dice.randrange(len(content)), 1 << dice.randrange(8)
        file.write_bytes(content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :])
        try:
            with closing(Store(folder)) as flipped:
                flipped.published()
                flipped.history()
                assert all(flipped.load(name) == FULL for name in names)
        except (Misconfigured, Refused) as error:
            refused += 1
            assert "damaged" in str(error) or "cannot be opened" in str(error)
    assert refused > 10


def test_a_disk_that_cannot_be_written_is_a_bad_day_and_no_more(store):
    store._connection.execute("pragma query_only = on")

    with pytest.raises(Transient, match="cannot be written or read now"):
        store.save("backup_user", FULL)
    store.log(Event(NOW, "backup_user", "mint", "mint", "done"))
    assert store.history() == []


def test_what_a_commit_costs_is_a_flush_and_what_was_deleted_is_overwritten(store):
    def pragma(name):
        return store._connection.execute(f"pragma {name}").fetchone()[0]

    assert (pragma("journal_mode"), pragma("secure_delete")) == ("wal", 1)
    with store._transaction():
        assert pragma("synchronous") == 2, "full"
    with store._transaction(durable=False):
        assert pragma("synchronous") == 1, "normal"
    store.save("backup_user", FULL)
    assert pragma("synchronous") == 2


def test_history_and_status_need_no_flush_of_their_own(store):
    store.log(Event(NOW, "backup_user", "mint", "mint", "done"))
    assert store._connection.execute("pragma synchronous").fetchone() == (1,)
    store.save("backup_user", FULL)

    store.publish(Status(identity="backup_user", at=NOW, stage="resting", rule="rest", message=""))
    assert store._connection.execute("pragma synchronous").fetchone() == (1,)


def test_a_state_of_a_newer_version_is_refused(store, folder):
    assert (module.VERSION, module.KEPT) == (1, 10_000)
    store._connection.execute("pragma user_version = 2")

    with pytest.raises(Misconfigured, match="newer rekeyd"):
        Store(folder)


def test_a_state_below_a_folder_that_is_not_there_yet_is_made(tmp_path):
    Store(tmp_path / "var/lib/rekeyd").close()

    assert (tmp_path / "var/lib/rekeyd/rekeyd.sqlite").exists()


def test_the_lock_tells_who_holds_it_and_nothing_older(store, folder):
    (folder / "lock").write_text("12345678901234567890\n")

    assert store.serve() is True
    assert store.holder() == f"process {os.getpid()}"
    second = Store(folder)
    assert second.serve() is False
    second.close()


def test_a_lock_that_another_has_leaves_no_file_open(store, folder):
    store.serve()
    second = Store(folder)
    before = len([*Path("/proc/self/fd").iterdir()])

    second.serve()

    assert len([*Path("/proc/self/fd").iterdir()]) == before
    second.close()


def test_events_and_requests_are_numbered_from_one(store):
    assert store.latest() == 0
    assert store.ask("backup_user", Request("rotate")) == 1
    store.log(Event(NOW, "backup_user", "mint", "mint", "done"))

    assert store.latest() == 1
    assert store.history()[0][0] == 1
    assert store.history(after=0) == store.history()


def test_a_note_of_any_name_is_kept_and_replaced(store):
    assert store.meta("colour") is None
    store.set_meta("colour", "red")
    store.set_meta("colour", "blue")

    assert store.meta("colour") == "blue"


def test_it_is_used_by_several_threads_at_once(store):
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: store.save(f"user{n}", FULL), range(20)))

    assert store.load("user19") == FULL


def test_a_connection_that_is_closed_holds_no_lock(store, folder):
    store.serve()
    store.close()
    store.close()

    other = Store(folder)
    assert other.serve()
    other.close()
