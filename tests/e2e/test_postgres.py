"""Replicas on a real PostgreSQL: the state itself, its leases, and daemons that share them."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from postgres import Postgres, postgres

from processes import running
from rekeyd import state
from rekeyd.errors import Elsewhere, Misconfigured, Refused, Transient
from rekeyd.model import Custody, Intent, Pair
from rekeyd.ports import Event, Request
from rekeyd.postgres import LEASE, SILENT, PostgresStore
from rekeyd.view import Status
from test_http import certificate

pytestmark = pytest.mark.e2e

NOW = datetime(2026, 11, 1, 3, 0, tzinfo=UTC)
FULL = Custody(
    user_id="AIDA1",
    intent=Intent(NOW, frozenset({"AKIA1"})),
    pairs=(Pair(key_id="AKIA1", minted=NOW, sealed="…", delivered={"a sink": NOW}),),
    ledger={"a sink": "AKIA1", "another": ""},
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    place = Path("/tmp") if Path("/tmp").is_dir() else tmp_path_factory.mktemp("postgres")
    folder = place / f"rekeyd-postgres-{tmp_path_factory.getbasetemp().name}"
    with postgres(folder) as started:
        yield started


@pytest.fixture
def url(server: Postgres) -> str:
    with psycopg.connect(server.url, autocommit=True) as admin:
        admin.execute("drop schema public cascade")
        admin.execute("create schema public")
    return server.url


def opened(url: str) -> PostgresStore:
    store = PostgresStore(url)
    store.make()
    return store


@pytest.fixture
def store(url: str) -> Iterator[PostgresStore]:
    with closing(opened(url)) as one:
        yield one


@pytest.fixture
def other(url: str, store: PostgresStore) -> Iterator[PostgresStore]:
    with closing(opened(url)) as another:
        yield another


def sql(url: str, statement: str) -> Any:
    with psycopg.connect(url, autocommit=True) as admin:
        cursor = admin.execute(statement)
        return cursor.fetchall() if cursor.description else cursor.rowcount


def outlive(url: str) -> None:
    """Let time pass until a claim that nobody renewed is free."""
    sql(url, f"update lease set renewed = renewed - interval '{LEASE + 1} s'")


# The state


def test_custody_requests_history_status_and_notes_are_kept(store, url, monkeypatch):
    monkeypatch.setattr(state, "KEPT", 5)
    status = Status(identity="backup_user", at=NOW, stage="resting", rule="rest", message="")
    assert store.load("backup_user") == Custody()
    store.claim("backup_user")
    store.save("backup_user", Custody(user_id="AIDA0"))
    store.save("backup_user", FULL)
    first = store.ask("backup_user", Request("rotate"))
    second = store.ask("backup_user", Request("adopt", "AKIA9"))
    store.settle("backup_user", [first], FULL)
    for number in range(8):
        store.log(Event(NOW, "one" if number % 2 else "two", "mint", "mint", "done", str(number)))
    store.publish(status)
    store.set_meta("colour", "red")
    assert store.first_meta("colour", "blue") == "red"
    assert store.first_meta("shape", "round") == "round"

    with closing(opened(url)) as again:
        assert again.load("backup_user") == FULL
        assert again.requests("backup_user") == [(second, Request("adopt", "AKIA9"))]
        assert again.waiting() == {"backup_user": second}
        assert [event.detail for _, event in again.history()] == ["3", "4", "5", "6", "7"]
        assert [event.detail for _, event in again.history("one")] == ["3", "5", "7"]
        assert again.history(after=again.latest()) == []
        assert again.published() == {"backup_user": status}


def test_damaged_custody_is_never_guessed_at(store, url):
    store.claim("backup_user")
    store.save("backup_user", FULL)
    sql(url, "update custody set document = replace(document, 'AIDA1', 'AIDA2')")

    with pytest.raises(Refused, match="is damaged"):
        store.load("backup_user")


def test_a_state_of_a_newer_version_is_refused(store, url):
    sql(url, "update meta set value = '2' where name = 'version'")

    with pytest.raises(Misconfigured, match="newer rekeyd"):
        opened(url)


def test_replicas_that_start_together_make_the_tables_once(url):
    with ThreadPoolExecutor(8) as pool:
        for one in pool.map(lambda _: opened(url), range(8)):
            one.close()

    assert sql(url, "select value from meta where name = 'version'") == [("1",)]


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        ("/rekeyd?", "/nothing?", Misconfigured),
        ("//rekeyd@", "//nobody@", Misconfigured),
        ("?", "?sslmode=require&", Transient),
    ],
)
def test_a_server_that_refuses_us_is_told_apart_from_one_out_of_reach(server, old, new, kind):
    address = f"{server.url}?connect_timeout=5".replace(old, new)

    with pytest.raises(kind, match=r"postgresql://127\.0\.0\.1:\d+/"):
        PostgresStore(address)


def test_a_certificate_takes_the_place_of_a_password(server, url, tmp_path):
    """With its key as Kubernetes mounts it: root's, and readable for its group."""
    tls = certificate(tmp_path, "certified")
    key = Path(tls.key_file)
    sql(url, "create role certified login")
    sql(url, "grant all on schema public to certified")
    server.ask_for_certificates("certified", Path(tls.cert_file), key)
    key.chmod(0o440)
    proof = f"sslmode=verify-full&sslrootcert={tls.cert_file}&sslcert={tls.cert_file}&sslkey={key}"
    address = f"postgresql://certified@localhost:{server.port}/rekeyd?hostaddr=127.0.0.1&{proof}"

    with closing(opened(address)) as store:
        store.claim("backup_user")
        store.save("backup_user", FULL)
        assert store.load("backup_user") == FULL
        assert store.place == f"postgresql://localhost:{server.port}/rekeyd"
    with pytest.raises(Misconfigured, match=r"does not let rekeyd in: .*certificate"):
        PostgresStore(address.partition("&sslcert")[0])


def test_an_address_that_is_none_is_one_clear_line():
    with pytest.raises(Misconfigured, match="no address that PostgreSQL understands"):
        PostgresStore("postgresql://rekeyd@127.0.0.1/rekeyd?colour=red")


def test_rights_that_are_missing_are_said(store, url):
    sql(url, "drop table history")

    with pytest.raises(Refused, match="refuses what rekeyd asks"):
        store.history()
    store.log(Event(NOW, "backup_user", "mint", "mint", "done"))
    assert store.load("backup_user") == Custody(), "and it works on"


def test_a_server_that_goes_away_is_a_bad_day_and_no_more(server, store, monkeypatch):
    monkeypatch.setattr("rekeyd.postgres.PAUSE", 0.0)
    store.claim("backup_user")
    store.save("backup_user", FULL)
    server.stop()
    try:
        for _ in range(2):
            with pytest.raises(Transient, match="cannot be written or read now"):
                store.load("backup_user")
        store.release("backup_user")
        store.log(Event(NOW, "backup_user", "mint", "mint", "done"))
    finally:
        server.start()

    assert store.load("backup_user") == FULL
    store.claim("backup_user")


# Leases


def test_whoever_claims_first_acts_and_the_other_waits_until_it_is_given_back(store, other):
    store.claim("backup_user")
    store.claim("backup_user")
    with pytest.raises(Elsewhere, match="another replica is at work"):
        other.claim("backup_user")
    other.claim("another_user")

    store.release("backup_user")
    other.claim("backup_user")
    with pytest.raises(Elsewhere):
        store.claim("backup_user")


def test_custody_takes_nothing_from_whoever_slept_through_its_lease(store, other, url):
    store.claim("backup_user")
    store.save("backup_user", FULL)
    number = store.ask("backup_user", Request("rotate"))
    outlive(url)
    other.claim("backup_user")

    for late in (
        lambda: store.save("backup_user", Custody()),
        lambda: store.settle("backup_user", [number], None),
        lambda: store.renew("backup_user"),
        lambda: store.claim("backup_user"),
    ):
        with pytest.raises(Elsewhere):
            late()
    assert other.load("backup_user") == FULL
    assert other.waiting() == {"backup_user": number}
    store.release("backup_user")
    other.renew("backup_user")


def test_a_lease_that_nobody_took_is_renewed_however_late(store, url):
    store.claim("backup_user")
    outlive(url)

    store.renew("backup_user")
    store.save("backup_user", FULL)


def test_nobody_writes_who_claimed_nothing(store):
    with pytest.raises(Elsewhere):
        store.save("backup_user", FULL)


def test_of_many_who_claim_at_once_one_wins(url):
    with ThreadPoolExecutor(6) as pool:
        stores = [opened(url) for _ in range(6)]

        def claimed(one: PostgresStore, identity: str) -> bool:
            try:
                one.claim(identity)
            except Elsewhere:
                return False
            return True

        for number in range(50):
            won = list(pool.map(claimed, stores, [f"user{number}"] * 6))
            assert won.count(True) == 1
        for one in stores:
            one.close()


def test_a_command_acts_only_where_no_daemon_does(store, other):
    assert other.act()
    assert store.serve()
    assert not other.act()
    assert other.holder() != "replica unknown"
    store.close()
    assert other.act()


def test_nobody_acts_while_another_replica_has_other_sinks(store, other, url):
    store.agree({"backup_user": "file", "second_user": "file"})
    other.agree({"backup_user": "file and vault", "third_user": "box"})
    for one in (store, other):
        with pytest.raises(Refused, match="has other sinks for backup_user than this one"):
            one.claim("backup_user")
    store.claim("second_user")
    other.claim("third_user")

    sql(
        url,
        f"update replica set seen = seen - interval '{SILENT + 1} s' where sinks ? 'third_user'",
    )
    store.claim("backup_user")
    other.agree({"backup_user": "file"})
    store.claim("backup_user")


# Daemons


def wait_for(seen: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not seen():
        assert time.monotonic() < deadline, "it did not come to pass within 60 s"
        time.sleep(0.1)


@pytest.fixture
def shared(config, url):
    """A configuration whose state is the database."""
    config.plain["state"] = url
    return config


def test_two_daemons_make_one_pair_when_both_are_asked(shared, aws, rekeyd):
    with running(shared()) as one, running(shared()) as two:
        for daemon in (one, two):
            daemon.expect("ready")
        wait_for(lambda: shared.sink.exists() and rekeyd("status").code == 0)
        one.rests()
        two.rests()
        first = shared.held()
        for daemon in (one, two):
            daemon.signal(signal.SIGUSR1)
        wait_for(lambda: shared.held() != first)
        one.rests()
        two.rests()
        assert one.stop() == two.stop() == 0

    assert "Traceback" not in one.log + two.log
    assert [*aws.keys().values()].count("Active") <= 2
    assert aws.keys()[shared.held()] == "Active"


def test_two_daemons_with_other_sinks_wait_until_they_have_the_same(shared, aws):
    with running(shared()) as one:
        one.expect("rotated")
        one.rests()
        more = {"type": "credential_process", "path": str(shared.folder / "pair.json")}
        with running(shared(sinks=[*shared.identity["sinks"], more])) as two:
            assert "has other sinks for backup_user" in two.expect("refused")["error"]
            one.signal(signal.SIGUSR1)
            assert "has other sinks for backup_user" in one.expect("refused")["error"]
            assert len(aws.keys()) == 1
            one.signal(signal.SIGHUP)
            wait_for(lambda: (shared.folder / "pair.json").exists() and len(aws.keys()) == 2)
            assert two.stop() == 0
        assert one.stop() == 0


def test_a_replica_that_is_stopped_in_a_mint_does_no_harm_when_it_wakes(
    shared, aws, proxy, url, rekeyd
):
    shared.through(proxy, rotation={"every": "30d", "overlap": "1s", "grace": "1s", "settle": "3s"})
    with running(shared.path) as one:
        one.expect("rotated")
        one.rests()
        gate = proxy.hold("CreateAccessKey")
        one.signal(signal.SIGUSR1)
        assert gate.arrived.wait(20)
        one.signal(signal.SIGSTOP)
        proxy.rules.clear()
        with running(shared.path) as two:
            two.expect("ready")
            outlive(url)
            two.expect("rotated", within=60)
            gate.opened.set()
            one.signal(signal.SIGCONT)
            one.rests(within=60)
            two.rests(within=60)
            assert aws.keys()[shared.held()] == "Active"
            assert one.stop() == two.stop() == 0


def test_a_killed_replica_is_followed_by_the_other(shared, aws, proxy, url):
    shared.through(proxy)
    with running(shared.path) as one:
        one.expect("rotated")
        one.rests()
        before = shared.held()
        gate = proxy.hold("UpdateAccessKey")
        one.signal(signal.SIGUSR1)
        one.expect("rotated")
        assert gate.arrived.wait(20)
        one.kill()
        proxy.rules.clear()
        gate.opened.set()
        with running(shared.path) as two:
            two.expect("ready")
            outlive(url)
            two.expect("delete", within=60)
            two.rests(within=60)
            assert two.stop() == 0

    assert aws.keys() == {shared.held(): "Active"}
    assert shared.held() != before


def test_a_command_asks_the_daemons_and_follows_them(shared, aws, rekeyd):
    with running(shared()) as one:
        one.expect("rotated")
        one.rests()
        first = shared.held()
        done = rekeyd("rotate")
        assert done.code == 0, done.err
        assert shared.held() != first
        assert one.stop() == 0
    assert rekeyd("rotate", "--due").code == 0
    assert rekeyd("plan").code == 0


def test_a_lost_database_is_survived_and_said(shared, server, aws):
    with running(shared()) as one:
        one.expect("rotated")
        one.rests()
        server.stop()
        try:
            one.expect("state", within=90)
        finally:
            server.start()
        first = shared.held()
        one.signal(signal.SIGUSR1)
        one.expect("rotated", within=60)
        assert shared.held() != first
        assert one.stop() == 0


def test_threads_of_one_process_share_the_connection(store):
    errors: list[Exception] = []

    def work(name: str) -> None:
        try:
            store.claim(name)
            for _ in range(20):
                store.save(name, FULL)
            store.release(name)
        except Exception as error:  # noqa: BLE001 (it is shown below)
            errors.append(error)

    threads = [threading.Thread(target=work, args=(f"user{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
