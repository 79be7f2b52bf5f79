"""Custody on disk: what is saved is there, whoever looks, and nobody else may look."""

import os
import sqlite3
import stat
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from random import Random
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from rekeyd import state as module
from rekeyd.errors import Elsewhere, Misconfigured, Refused, Transient
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


@pytest.mark.parametrize("replaced", [False, True])
def test_a_state_that_was_deleted_or_replaced_is_not_written(store, folder, replaced):
    store.save("backup_user", FULL)
    (folder / "rekeyd.sqlite").unlink()
    if replaced:
        (folder / "rekeyd.sqlite").touch()

    for act in (lambda: store.claim("backup_user"), lambda: store.save("backup_user", FULL)):
        with pytest.raises(Refused, match="was deleted or replaced while rekeyd uses it") as told:
            act()
        assert told.value.do.startswith("put the state back")
        assert told.value.reason == "state"


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


def test_whoever_has_lost_the_right_to_act_changes_nothing(folder):
    class Overtaken(Store):
        def _guard(self, transaction, identity):
            raise Elsewhere(f"another replica has taken over {identity}")

    with closing(Overtaken(folder)) as store:
        number = store.ask("backup_user", Request("rotate"))
        with pytest.raises(Elsewhere):
            store.save("backup_user", FULL)
        with pytest.raises(Elsewhere):
            store.settle("backup_user", [number], FULL)

        assert store.load("backup_user") == Custody()
        assert store.requests("backup_user") == [(number, Request("rotate"))]


@pytest.mark.parametrize(
    "other",
    [
        lambda store: store.load("backup_user"),
        lambda store: store.save("another_user", FULL),
        lambda store: store.close(),
    ],
    ids=["load", "save", "close"],
)
def test_no_other_thread_comes_between_the_changes_of_a_transaction(store, other):
    with ThreadPoolExecutor(1) as pool:
        with store._transaction() as transaction:
            transaction.execute("delete from custody")
            came = pool.submit(other, store)
            assert not wait([came], timeout=0.2).done
        came.result()


def test_one_process_at_a_time_acts_on_it(store, folder):
    second = Store(folder)

    assert store.holder() == "process unknown"
    assert store.serve()
    assert not second.serve()
    assert second.holder().startswith("process ")
    assert not second.act()
    store.close()
    assert second.act()
    second.close()


def test_a_daemon_that_is_alive_says_so_by_a_write_and_when(store):
    before = datetime.now(UTC)
    store.beat()

    assert store.meta("alive").endswith("+00:00")
    told = datetime.fromisoformat(store.meta("alive"))
    assert before - timedelta(seconds=1) < told <= datetime.now(UTC)
    assert told.microsecond == 0


def test_a_folder_is_the_state_of_one_daemon(store):
    assert store.shared is False


def test_requests_are_kept_until_they_are_settled(store):
    first = store.ask("backup_user", Request("rotate"))
    second = store.ask("backup_user", Request("adopt", "AKIA9"))

    assert store.waiting() == {"backup_user": second}
    store.settle("backup_user", [first], Custody(user_id="AIDA1"))
    assert store.requests("backup_user") == [(second, Request("adopt", "AKIA9"))]
    store.settle("backup_user", [second], None)
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
    assert store.history("one")[0][1].at.tzinfo is UTC


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


def test_a_link_in_place_of_the_lock_is_refused(store, folder, tmp_path):
    (folder / "lock").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(Misconfigured, match="cannot be used: Too many levels"):
        store.serve()


def test_a_file_in_place_of_the_folder_is_refused(folder):
    folder.write_text("")

    with pytest.raises(Misconfigured, match="state cannot be used: File exists") as refused:
        Store(folder)
    assert "a folder of its own" in refused.value.do


@pytest.mark.parametrize(
    ("user", "owner", "given"),
    [(0, 1, ["the folder's"]), (0, 0, []), (1000, 1, [])],
    ids=["root", "root for itself", "another user"],
)
def test_what_root_makes_belongs_to_the_owner_of_the_folder(
    folder, monkeypatch, user, owner, given
):
    folder.mkdir()
    its = folder.stat()
    made = SimpleNamespace(st_uid=its.st_uid + owner)
    changed = []
    with monkeypatch.context() as patched:
        patched.setattr(os, "geteuid", lambda: user)
        patched.setattr(os, "fstat", lambda file: made)
        patched.setattr(os, "fchown", lambda file, *to: changed.append(to))
        Store(folder).close()

    assert changed == [(its.st_uid, its.st_gid) for _ in given]


def test_damaged_custody_is_never_guessed_at(store, folder):
    store.save("backup_user", FULL)
    with sqlite3.connect(folder / "rekeyd.sqlite") as other:
        other.execute("update custody set document = replace(document, 'AIDA1', 'AIDA2')")
    other.close()

    with pytest.raises(Refused, match="is damaged") as refused:
        store.load("backup_user")
    assert refused.value.reason == "state"
    assert "rekeyd adopt" in refused.value.do


def test_what_is_whole_and_no_custody_is_not_guessed_at_either(store, folder):
    store.save("backup_user", FULL)
    with sqlite3.connect(folder / "rekeyd.sqlite") as other:
        other.execute(
            "update custody set document = ?, digest = ?", ("{[", sha256(b"{[").hexdigest())
        )
    other.close()

    with pytest.raises(Refused, match="is damaged"):
        store.load("backup_user")


@pytest.mark.parametrize("damage", ["a table is gone", "the file is overwritten"])
def test_damage_that_comes_while_it_is_open_is_told_from_a_bad_day(store, folder, damage):
    store.save("backup_user", FULL)
    store._connection.execute("pragma wal_checkpoint(truncate)")
    if damage == "a table is gone":
        with closing(sqlite3.connect(folder / "rekeyd.sqlite")) as other:
            other.execute("drop table custody")
    else:
        with (folder / "rekeyd.sqlite").open("r+b") as file:
            file.seek(4096)
            file.write(b"\xa5" * 4096 * 20)
        store._connection.execute("pragma shrink_memory")

    with pytest.raises(Refused, match=f"the state in {folder} is damaged") as refused:
        store.load("backup_user")
    assert refused.value.reason == "state"
    assert "back from a backup" in refused.value.do


def test_a_file_that_is_damaged_is_refused_before_anything_is_read_from_it(store, folder):
    store.save("backup_user", FULL)
    store.close()
    content = (folder / "rekeyd.sqlite").read_bytes()
    (folder / "rekeyd.sqlite").write_bytes(content[:8192] + b"\xa5" * 4096 + content[12288:])

    before = len([*Path("/proc/self/fd").iterdir()])

    with pytest.raises(Misconfigured, match="cannot be opened: ") as refused:
        Store(folder)
    assert "back from a backup" in refused.value.do
    assert len([*Path("/proc/self/fd").iterdir()]) == before


def test_a_row_that_its_index_does_not_find_is_damage(store, folder):
    store.save("backup_user", FULL)
    store.close()
    content = (folder / "rekeyd.sqlite").read_bytes()
    (folder / "rekeyd.sqlite").write_bytes(content.replace(b"backup_user", b"backup_uzer", 1))

    with pytest.raises(Misconfigured, match=r"it is damaged \(row 1 missing from index"):
        Store(folder)


def test_it_is_said_what_is_damaged_and_not_only_in_which_database(store, folder):
    store.save("backup_user", FULL)
    store.close()
    content = bytearray((folder / "rekeyd.sqlite").read_bytes())
    content[4096 + 7] += 1  # of the second page's header: the number of free bytes in fragments
    (folder / "rekeyd.sqlite").write_bytes(content)

    with pytest.raises(Misconfigured, match=r"it is damaged \([^*]"):
        Store(folder)


def test_a_file_whose_tables_have_no_name_in_any_language_is_damaged(store, folder):
    store.close()
    content = (folder / "rekeyd.sqlite").read_bytes()
    (folder / "rekeyd.sqlite").write_bytes(content.replace(b"TABLE history", b"TABL\xff history"))

    with pytest.raises(Misconfigured, match="cannot be opened: it is damaged"):
        Store(folder)


def test_another_file_in_its_place_is_refused_in_the_words_of_sqlite(folder):
    folder.mkdir()
    (folder / "rekeyd.sqlite").write_text("no database" * 1000)

    with pytest.raises(Misconfigured, match="cannot be opened: file is not a database"):
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

    with pytest.raises(Transient, match="cannot be written or read now") as passing:
        store.save("backup_user", FULL)
    assert "disk is full" in passing.value.do
    store.log(Event(NOW, "backup_user", "mint", "mint", "done"))
    assert store.history() == []
    store.publish(Status(identity="backup_user", at=NOW, stage="resting", rule="rest", message=""))
    assert store.published() == {}


def test_what_a_commit_costs_is_a_flush_and_what_was_deleted_is_overwritten(store):
    def pragma(name):
        return store._connection.execute(f"pragma {name}").fetchone()[0]

    assert (pragma("journal_mode"), pragma("secure_delete")) == ("wal", 1)
    assert pragma("wal_autocheckpoint") == 64, "256 KiB at most beside the file"
    assert pragma("busy_timeout") == 10_000, "longer than any transaction"
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

    with pytest.raises(Misconfigured, match=f"in {folder} was written by a newer rekeyd") as newer:
        Store(folder)
    assert "run that rekeyd" in newer.value.do


def test_a_state_below_a_folder_that_is_not_there_yet_is_made(tmp_path):
    Store(tmp_path / "var/lib/rekeyd").close()

    assert (tmp_path / "var/lib/rekeyd/rekeyd.sqlite").exists()


def test_the_names_of_new_folders_are_on_the_disk(tmp_path, flushed):
    Store(tmp_path / "var/rekeyd").close()
    others = {place for place in flushed if tmp_path / "var/rekeyd" not in (place, place.parent)}
    assert others == {tmp_path, tmp_path / "var"}

    flushed.clear()
    Store(tmp_path / "var/rekeyd").close()
    assert tmp_path / "var" in flushed, "the first start may have been cut short"


def test_a_folder_whose_names_cannot_be_read_may_be_above(tmp_path, monkeypatch):
    monkeypatch.setattr("rekeyd.durable.flush_names", Mock(side_effect=PermissionError))

    Store(tmp_path / "state").close()


def test_the_lock_tells_who_holds_it_and_nothing_older(store, folder):
    (folder / "lock").write_text("12345678901234567890\n")

    assert store.serve() is True
    assert store.holder() == f"process {os.getpid()}, a daemon"
    second = Store(folder)
    assert second.serve() is False
    second.close()


def test_a_command_at_work_is_told_from_a_daemon(store, folder):
    assert store.act() is True
    second = Store(folder)
    assert second.busy() is True
    store.close()
    assert second.serve() is True
    assert second.busy() is False
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


def test_of_several_who_make_a_note_the_first_is_heard(store):
    assert store.first_meta("colour", "red") == "red"
    assert store.first_meta("colour", "blue") == "red"
    assert store.meta("colour") == "red"


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
