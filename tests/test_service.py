"""The daemon as a process: its timer, its signals, its end, and what it tells systemd."""

import signal
import socket
import threading
import time
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from urllib.request import urlopen

import pytest
from structlog.testing import capture_logs

from processes import LONG_ENOUGH, running
from rekeyd.config import load
from rekeyd.errors import Transient
from rekeyd.reconcile import Reconciler
from rekeyd.service import HUNG, WAITING, WORKERS, Runner, Service
from rekeyd.store import Store
from sinks.described import Receiver, route

QUICK = {"every": "6s", "overlap": "1s", "grace": "1s", "settle": "1s"}
KEPT = {"every": "30d", "overlap": "1h", "grace": "1h", "settle": "1s"}


def first_pair(rekeyd, config):
    """Have a pair made, whose birth is then a second ago."""
    assert rekeyd("rotate").code == 0
    return config.held()


def test_it_starts_after_the_command_that_rotates_by_itself(rekeyd, config):
    first_pair(rekeyd, config)
    command = Store(config.folder / "state")
    assert command.act()

    with running(config.path) as daemon:
        time.sleep(1.5)  # it would be ready, or gone
        assert daemon.process.poll() is None
        assert daemon.events == []
        command.close()
        daemon.expect("ready")
        assert daemon.stop() == 0


def test_it_does_not_wait_for_ever_for_a_command(rekeyd, config, monkeypatch):
    monkeypatch.setattr("rekeyd.service.PATIENCE", 0.0)
    with closing(Store(config.folder / "state")) as command:
        assert command.act()
        done = rekeyd("run")

    assert done.code == 75
    assert "a rotation is under way (process" in done.err


# The timer


def test_it_rotates_when_the_key_is_old_enough(aws, config):
    with running(config(rotation=QUICK)) as daemon:
        daemon.expect("rotated")
        first = config.held()
        daemon.expect("rotated")
        second = config.held()
        assert daemon.stop() == 0

    assert first != second
    assert set(aws.keys()) == {first, second}


def test_a_restart_does_not_rotate_early(rekeyd, config):
    held = first_pair(rekeyd, config)

    with running(config.path) as daemon:
        daemon.expect("ready")
        daemon.rests()
        assert daemon.stop() == 0

    assert config.held() == held
    assert '"event": "mint"' not in daemon.log


def test_an_hour_that_was_missed_is_made_up_for_at_once(rekeyd, config):
    first_pair(rekeyd, config)
    time.sleep(4.5)  # nobody was there when it fell due

    with running(config(rotation=QUICK | {"every": "4s"})) as daemon:
        daemon.expect("ready")
        assert rekeyd("plan", "--json").json["plan"][0]["rule"] != "rest"
        daemon.expect("rotated")


def test_a_changed_interval_counts_at_once(rekeyd, config):
    first_pair(rekeyd, config)

    with running(config.path) as daemon:
        daemon.expect("ready")
        config(rotation=QUICK | {"every": "4s"})
        daemon.signal(signal.SIGHUP)
        daemon.expect("reloaded")
        daemon.expect("rotated", within=10)


# Signals


def test_sigusr1_rotates_every_identity(aws, config):
    aws.iam.create_user(UserName="second_user")
    second = config.identity | {
        "user": "second_user",
        "sinks": [{"type": "credential_process", "path": str(config.folder / "pair.json")}],
    }
    path = config(rotation=KEPT, top={"identities": [config.identity, second]})
    with running(path) as daemon:
        daemon.expect("rotated")
        daemon.expect("rotated")
        daemon.signal(signal.SIGUSR1)
        minted = {daemon.expect("mint")["identity"], daemon.expect("mint")["identity"]}
        assert daemon.stop() == 0

    assert minted == {"backup_user", "second_user"}


def test_ten_signals_at_once_lose_nothing(rekeyd, config):
    first_pair(rekeyd, config)

    with running(config(rotation=KEPT)) as daemon:
        daemon.expect("ready")
        daemon.signal(*[signal.SIGUSR2, signal.SIGHUP, signal.SIGUSR1] * 3, signal.SIGUSR2)
        daemon.expect("request", kind="rotate")
        daemon.expect("record", rule="deliver")
        assert {"status", "reloaded", "signal"} <= {event["event"] for event in daemon.events}
        assert daemon.stop() == 0


def test_signals_to_one_that_starts_are_kept(rekeyd, config):
    first_pair(rekeyd, config)

    with running(config(rotation=KEPT)) as daemon:
        until = time.monotonic() + LONG_ENOUGH
        while signal.SIGUSR1 not in daemon.blocked():
            assert time.monotonic() < until
        daemon.signal(signal.SIGUSR2, signal.SIGHUP, signal.SIGUSR1)
        daemon.expect("rotated")
        assert {"status", "reloaded", "signal"} <= {event["event"] for event in daemon.events}
        assert daemon.blocked() == set()
        assert daemon.stop() == 0


def test_sigusr2_writes_the_status_to_the_log(rekeyd, config):
    first_pair(rekeyd, config)

    with running(config.path) as daemon:
        daemon.expect("ready")
        daemon.signal(signal.SIGUSR2)
        status = daemon.expect("status")

    assert status["identity"] == "backup_user"
    assert (status["hold"], status["failing"]) == (None, None)


def test_a_bad_configuration_is_refused_and_the_old_one_stays(config, daemon):
    daemon.expect("rotated")
    config.path.write_text("identities: 7\nretain: true\n")
    daemon.signal(signal.SIGHUP)

    refused = daemon.expect("reload refused")
    assert "rekeyd.yaml:1: identities" in refused["error"]
    assert "rekeyd.yaml:2: retain" in refused["error"]

    daemon.signal(signal.SIGUSR1)
    daemon.expect("mint")


def test_what_a_reload_cannot_change_is_refused(config, daemon):
    config(top={"state": str(config.folder / "elsewhere")})
    daemon.signal(signal.SIGHUP)

    refused = daemon.expect("reload refused")
    assert refused["error"] == "`state` cannot be changed while rekeyd runs"
    assert refused["do"] == "restart it to change that"


def test_the_log_tells_which_port_the_system_gave(config):
    with running(config(top={"listen": "127.0.0.1:0"})) as daemon:
        address = daemon.expect("ready")["listen"]
        with urlopen(f"http://{address}/-/healthy", timeout=5) as answer:
            assert answer.status == 200


def test_a_reload_takes_identities_in_and_out(aws, config, daemon):
    daemon.expect("rotated")
    aws.iam.create_user(UserName="second_user")
    config(
        user="second_user", sinks=[{"type": "credential_process", "path": str(config.sink) + "2"}]
    )
    daemon.signal(signal.SIGHUP)
    daemon.expect("reloaded", identities=1)
    daemon.expect("rotated", identity="second_user")
    daemon.signal(signal.SIGUSR2)
    assert daemon.expect("status")["identity"] == "second_user"

    config()
    daemon.signal(signal.SIGHUP)
    daemon.expect("reloaded")
    daemon.signal(signal.SIGUSR1)
    assert daemon.expect("mint")["identity"] == "backup_user"


# Its end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_leaves_with_0_when_asked_to(daemon, number):
    daemon.expect("rotated")
    daemon.signal(number)

    assert daemon.ended(within=5) == 0
    assert [event["event"] for event in daemon.events[-2:]] == ["stopping", "stopped"]


@pytest.mark.parametrize(("action", "made"), [("CreateAccessKey", 1), ("GetUser", 0)])
def test_it_finishes_the_step_in_flight_before_it_leaves(aws, config, proxy, action, made):
    gate = proxy.hold(action)
    with running(config.through(proxy)) as daemon:
        assert gate.arrived.wait(LONG_ENOUGH)
        daemon.signal(signal.SIGTERM)
        daemon.expect("stopping")
        gate.opened.set()
        assert daemon.ended(within=5) == 0
    before = set(aws.keys())
    assert len(before) == made
    proxy.mend()

    with running(config.path) as daemon:
        daemon.expect("rotated")
    assert before <= {config.held()}


# systemd


@contextmanager
def listening(address):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(address)
        channel.settimeout(LONG_ENOUGH)

        def told(wanted):
            while True:
                text = channel.recv(4096).decode()
                if wanted in text:
                    return text.splitlines()

        yield told


def test_systemd_is_told_of_each_turn(config):
    address = str(config.folder / "notify")
    environment = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "400000"}
    with listening(address) as told, running(config.path, environment) as daemon:
        assert told("READY=1")[1].startswith("STATUS=1 identities")
        daemon.expect("rotated")
        assert told("1 resting")[0] == "WATCHDOG=1"
        before = time.monotonic_ns() // 1000
        daemon.signal(signal.SIGHUP)
        reloading = told("RELOADING=1")
        assert before <= int(reloading[1].removeprefix("MONOTONIC_USEC=")) <= before + 10_000_000
        assert told("READY=1")
        began = time.monotonic()
        assert all(told("WATCHDOG=1") for _ in range(8))
        assert time.monotonic() - began < 4, "each within half of its 0.4 s, and a busy machine"
        daemon.signal(signal.SIGTERM)
        assert told("STOPPING=1")
        assert daemon.ended() == 0


# Its parts, in this process


@pytest.fixture
def service(config):
    built = Service(config.path)
    yield built
    built.store.close()


def test_a_worker_that_hangs_and_a_scheduler_that_is_dead_are_told(service, monkeypatch):
    service._apply(service.settings)
    assert service.ready() == []
    runner = service._runners["backup_user"]
    runner.running = True
    runner.progressed -= HUNG + 1
    monkeypatch.setattr("rekeyd.service.BEAT", -1.0)

    assert service.healthy() == ["backup_user: no progress for 180 s", "the scheduler does not run"]


def test_a_program_that_was_given_ten_minutes_does_not_hang_before(service, config):
    sink = {"type": "exec", "command": ["/bin/true"], "timeout": "10m"}
    service._apply(load(config(sinks=[sink])))
    runner = service._runners["backup_user"]
    runner.running = True

    runner.progressed -= HUNG + 1190
    assert service.healthy() == []
    runner.progressed -= 11
    assert service.healthy() == ["backup_user: no progress for 1380 s"]


def until(true):
    deadline = time.monotonic() + LONG_ENOUGH
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def end(service):
    """Let the looks in flight end, and nothing begin."""
    service.stopping.set()
    until(lambda: not any(runner.running for runner in service._runners.values()))
    service.scheduler.shutdown()
    service.store.close()


def many(config, number):
    """Write a configuration of so many identities."""

    def identity(name):
        place = str(config.folder / f"pair of {name}")
        return {"user": name, "sinks": [{"type": "credential_process", "path": place}]}

    return config(top={"identities": [identity(f"user{i}") for i in range(number)]})


@pytest.fixture
def at_work(monkeypatch):
    """Return what starts the daemon's workers on a configuration, with other looks than its own."""
    released, started = threading.Event(), []

    def start(path, look):
        def advance(reconciler):
            look(reconciler, released)
            return LONG_ENOUGH

        monkeypatch.setattr(Reconciler, "advance", advance)
        service = Service(path)
        started.append(service)
        service._apply(service.settings)
        service._beat()
        service.scheduler.start()
        return service

    yield start
    released.set()
    for service in started:
        end(service)


def test_a_slow_aws_with_more_identities_than_threads_is_no_dead_scheduler(
    at_work, config, monkeypatch
):
    monkeypatch.setattr("rekeyd.service.BEAT", 0.1)
    service = at_work(many(config, WORKERS + WAITING + 1), lambda _, released: released.wait())
    time.sleep(1.0)

    assert service.healthy() == []


def test_who_waits_for_a_desk_does_not_hang(at_work, config, monkeypatch):
    """The first one comes back from its sinks to a desk at which another one hangs."""
    monkeypatch.setattr("rekeyd.service.WORKERS", 1)
    monkeypatch.setattr("rekeyd.service.HUNG", 0.2)
    left, taken = threading.Event(), threading.Event()

    def look(reconciler, released):
        if not left.is_set():
            left.set()
            reconciler.who.each(lambda _: taken.wait(), ["a sink"])
        else:
            taken.set()
            released.wait()

    service = at_work(many(config, 2), look)
    assert taken.wait(LONG_ENOUGH)
    time.sleep(0.5)

    hung = [runner.name for runner in service._runners.values() if runner.hung()]
    assert len(hung) == 1
    assert [problem.partition(":")[0] for problem in service.healthy()] == hung


@pytest.mark.parametrize("given", ["user", "sink"])
def test_a_reload_ends_the_look_in_flight_and_then_begins_with_what_is_new(at_work, config, given):
    """In the middle of a step another identity is given its user, or the place of its sink."""
    seen, done = [], threading.Event()

    def look(reconciler, _):
        seen.append(f"{reconciler.who.name} begins")
        if reconciler.who.name == "old":
            until(reconciler._stopping)
            done.wait(LONG_ENOUGH / 4)
        seen.append(f"{reconciler.who.name} ends")

    service = at_work(config(name="old"), look)
    until(lambda: seen)
    [sink] = config.identity["sinks"]
    if given == "user":
        config(name="new", sinks=[sink | {"path": str(config.folder / "elsewhere")}])
    else:
        config(user="new", sinks=[sink | {"mode": "0640"}])
    service._reload()
    time.sleep(1.0)
    assert seen == ["old begins"]

    done.set()
    until(lambda: len(seen) == 4)
    assert seen == ["old begins", "old ends", "new begins", "new ends"]


def test_a_long_step_of_a_removed_identity_delays_no_other_and_is_told_when_it_hangs(
    at_work, config, monkeypatch
):
    monkeypatch.setattr("rekeyd.service.HUNG", 0.2)
    looks = []

    def look(reconciler, released):
        looks.append(reconciler.who.name)
        if reconciler.who.name == "user1":
            released.wait()

    service = at_work(many(config, 2), look)
    until(lambda: sorted(looks) == ["user0", "user1"])
    many(config, 1)
    service._reload()
    until(lambda: sorted(looks) == ["user0", "user0", "user1"])

    until(service.healthy)
    assert service.healthy() == ["user1: no progress for 0 s"]


class Receivers(Receiver):
    """A receiver of webhooks at many addresses."""

    @route("POST", r"/hooks/\w+")
    def receive(self, heard):
        return super().receive(heard)


def test_sinks_that_hang_delay_neither_another_sink_nor_another_identity(aws, config, monkeypatch):
    """More identities than are worked on at once have a webhook that never answers."""
    monkeypatch.setattr("rekeyd.sinks._http.LIMIT", 600.0)
    names = [f"user{number}" for number in range(WORKERS + 2)]
    files = {name: config.folder / f"pair of {name}" for name in (*names, "other")}
    with Receivers() as receiver:
        monkeypatch.setenv("WEBHOOK", receiver.secret)

        def identity(name):
            aws.iam.create_user(UserName=name)
            sinks = [{"type": "credential_process", "path": str(files[name])}]
            url = f"{receiver.address}/hooks/{name}"
            if name in names:
                sinks.append({"type": "webhook", "url": url, "secret": "env:WEBHOOK"})
            return {"user": name, "verify": ["sts"], "sinks": sinks}

        service = Service(config(top={"identities": [identity(name) for name in files]}))
        service._apply(service.settings)
        service.scheduler.start()
        try:
            receiver.receives(len(names))
            until(
                lambda: (
                    [one.last_rotation is not None for one in service.statuses()].count(True)
                    == len(files)
                )
            )
            before = {name: path.read_bytes() for name, path in files.items()}
            receiver.hang = True
            service._rotate_all()
            service._take_requests()
            until(lambda: all(path.read_bytes() != before[n] for n, path in files.items()))
            assert len(receiver.accepted) == len(names)
        finally:
            receiver.let_go()
            end(service)


def test_a_state_that_cannot_be_written_is_told_once_until_it_can(service):
    service.store._connection.execute("pragma query_only = on")
    with capture_logs() as logs:
        service._try_store()
        service._try_store()
    assert [log["event"] for log in logs] == ["state"]
    assert "cannot be written" in service.ready()[0]
    assert service.healthy() == []

    service.store._connection.execute("pragma query_only = off")
    service._try_store()
    assert service.ready() == []


def test_a_request_that_cannot_be_kept_now_is_told_and_kept_later(service):
    service._apply(service.settings)
    service.store._connection.execute("pragma query_only = on")

    with capture_logs() as logs:
        service._rotate_all()
        service._ask_owed()

    assert [log["event"] for log in logs] == ["signal", "request"]
    assert "it is asked for once that is over" in logs[1]["do"]
    service.store._connection.execute("pragma query_only = off")
    service._ask_owed()
    service._ask_owed()
    asked = [request.kind for _, request in service.store.requests("backup_user")]
    assert asked == ["rotate"]


def test_a_state_that_cannot_be_read_is_told(service, monkeypatch):
    def unreadable():
        raise Transient("the state cannot be read now")

    monkeypatch.setattr(service.store, "waiting", unreadable)

    service._take_requests()

    assert service.ready() == ["the state cannot be read now"]


def test_a_clock_that_jumps_sets_every_timer_anew(service):
    service._beat()
    service._apply(service.settings)

    with capture_logs() as logs:
        service._on_clock_jump()

    assert [log["event"] for log in logs] == ["clock"]
    jobs = [job.name for job in service.scheduler.get_jobs()]
    assert sorted(jobs) == ["beat", "identity backup_user"]


def test_a_clock_that_jumps_by_ten_years_costs_no_time(service):
    """An interval would be counted through: 63 million times."""
    service._beat()
    [beat] = service.scheduler.get_jobs()

    assert beat.trigger.get_next_fire_time(datetime.now(UTC), datetime.now(UTC)) is None


def test_a_timer_that_comes_due_as_it_stops_ends_no_thread(service, monkeypatch):
    crashes, due = [], threading.Event()
    monkeypatch.setattr(threading, "excepthook", crashes.append)
    service.scheduler.start()
    executor = service.scheduler._lookup_executor("beat")
    submit = executor.submit_job

    def slowly(*job):
        due.set()
        deadline = time.monotonic() + 0.5
        while service.scheduler.running and time.monotonic() < deadline:
            time.sleep(0.01)
        submit(*job)

    monkeypatch.setattr(executor, "submit_job", slowly)
    service._next_beat.set(0.0)
    assert due.wait(LONG_ENOUGH)

    assert service._stop() == 0
    assert crashes == []


@pytest.mark.parametrize("error", [ZeroDivisionError("a secret"), Transient("no profile")])
def test_a_fault_ends_the_care_for_no_identity(service, error):
    def broken():
        raise error

    runner = Runner(service.settings.identities[0], broken, service.recorder, service)
    runner._run()

    status = service.recorder.statuses["backup_user"]
    assert status.stage == "failing"
    assert "a secret" not in status.failing
    assert [job.name for job in service.scheduler.get_jobs()] == ["identity backup_user"]
    assert not runner.running


# Secrets


def test_no_secret_is_anywhere_but_in_the_sink(rekeyd, aws, config):
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    log = {"format": "json", "level": "debug"}
    path = config(rotation=KEPT, top={"log": log, "listen": address})
    secrets = set()
    with running(path) as daemon:
        for _ in range(2):
            daemon.expect("record", rule="deliver")
            secrets.add(config.sink.read_text().split("aws_secret_access_key")[1].strip(" =\n"))
            daemon.signal(signal.SIGUSR1)
        daemon.expect("request")
        process = Path("/proc") / str(daemon.process.pid)
        seen = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        for page in ("", "metrics", "api/v1/status", "-/ready", "-/healthy"):
            with urlopen(f"http://{address}/{page}", timeout=10) as answer:
                seen += answer.read()
        assert daemon.stop() == 0

    seen += daemon.log.encode()
    for command in (["status"], ["status", "--json"], ["history"], ["history", "--json"], ["plan"]):
        done = rekeyd(*command)
        seen += (done.out + done.err).encode()
    for file in (config.folder / "state").iterdir():
        seen += file.read_bytes()
    assert b"rekeyd_rotations_total" in seen
    assert len(secrets) == 2
    assert all(len(secret) == 40 for secret in secrets)
    assert not [secret for secret in secrets if secret.encode() in seen]
