"""The daemon: one timer an identity, signals, health, and nothing that has to be remembered.

The main thread sleeps in `select` and wakes for signals and once a second, when it looks for what
people asked for, for a jump of the clock, and whether the parts are alive. Workers do the rest.
"""

import math
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.job import Job
from apscheduler.jobstores.base import JobLookupError
from apscheduler.schedulers.background import BackgroundScheduler

from rekeyd import __version__, sd
from rekeyd.assemble import Workshop, fit_sealer, notifier, open_store, side_by_side
from rekeyd.config import IdentitySettings, Settings, load
from rekeyd.errors import Misconfigured, RekeydError, Transient
from rekeyd.logs import configure
from rekeyd.metrics import Metrics
from rekeyd.ports import Event, Identity, R, Request, Sealer, T
from rekeyd.reconcile import Reconciler
from rekeyd.record import Recorder
from rekeyd.sinks.base import digest
from rekeyd.state import State
from rekeyd.view import Status

if TYPE_CHECKING:
    from rekeyd.http import Listener

WORKERS = 10
"""Identities that are worked on side by side, each at a desk of its own."""

WAITING = 50
"""Identities that wait for their sinks meanwhile: a dead sink of many keeps no other from work."""

HUNG = 180.0
"""Seconds without progress after which a worker counts as hung: every call ends long before, but
for programs of the sink `exec` that were given more."""

BEAT = 5.0
"""Seconds between two beats of the scheduler; three missing ones mean that it is dead."""

PATIENCE = 30.0
"""Seconds that a stop waits for the steps in flight. Leaving earlier would do no harm either."""

SOON = 0.2
"""Seconds until an identity is tried again that waits for what a reload has ended."""

RETRY = 60.0
"""Seconds until an identity whose parts could not even be put together is tried again."""

CLOCK_JUMP = 5.0
"""Seconds by which the wall clock may drift from the steady one within a second."""

FIXED = ("`state`", "`seal`", "the address of `listen`")
"""What a reload cannot change: the state, its seal key, and the address that is listened on."""


class Alarm:
    """One timer, that can be set anew.

    Every job gets an id of its own: APScheduler removes a finished job by its id, and would take a
    newer one of the same id with it. None is an interval: when the clock jumps by ten years,
    APScheduler would count every instant that was missed.
    """

    def __init__(
        self,
        scheduler: BackgroundScheduler,
        name: str,
        action: Callable[[], None],
        executor: str = "default",
    ) -> None:
        self._scheduler = scheduler
        self._executor = executor
        self._name = name
        self._action = action
        self._mutex = threading.Lock()
        self._job: Job | None = None

    def set(self, seconds: float) -> None:
        with self._mutex:
            self._cancel()
            when = datetime.now(UTC) + timedelta(seconds=seconds)
            self._job = self._scheduler.add_job(
                self._action, "date", run_date=when, name=self._name, executor=self._executor
            )

    def cancel(self) -> None:
        with self._mutex:
            self._cancel()

    def _cancel(self) -> None:
        if self._job:
            with suppress(JobLookupError):
                self._job.remove()


class Runner:
    """Runs the reconciler of one identity: never twice at once, and again when told meanwhile.

    Its settings never change: a reload retires it and makes another one.
    """

    def __init__(
        self,
        settings: IdentitySettings,
        build: Callable[[], Identity],
        recorder: Recorder,
        service: "Service",
    ) -> None:
        self.name = settings.name
        self.touches = {settings.name, settings.user, *(sink.place for sink in settings.sinks)}
        self._recorder = recorder
        self._service = service
        self._build = build
        self._reconciler: Reconciler | None = None
        self._mutex = threading.Lock()
        self._alarm = Alarm(service.scheduler, f"identity {self.name}", self._run)
        self._again = False
        self.retired = False
        self.running = False
        self.progressed = time.monotonic()
        slowest = max(sink.slowness for sink in settings.sinks)
        self.patience = HUNG + slowest.total_seconds()

    def retire(self) -> None:
        """End after the step in flight, and begin nothing any more."""
        with self._mutex:
            self.retired = True
            self._alarm.cancel()

    def in_the_way(self, other: "Runner") -> bool:
        """Whether its last step is under way, at something that the other one touches too."""
        return self.running and not self.touches.isdisjoint(other.touches)

    def wake(self) -> None:
        """Look now, and try again soon if that fails."""
        with self._mutex:
            if self._reconciler:
                self._reconciler.hurry()
            self._again = self.running
            if not self.running:
                self._set(0.0)

    def hung(self) -> bool:
        return self.running and time.monotonic() - self.progressed > self.patience

    def _run(self) -> None:
        with self._mutex:
            if self.running or self.retired:
                return
            if self._service.in_the_way(self):
                self._set(SOON)
                return
            self.progressed, self.running = math.inf, True
        self._sit_down()
        try:
            self._work()
        finally:
            self._service.desks.release()

    def _sit_down(self) -> None:
        """Wait until a desk is free. Who waits for one does not hang, however long it takes."""
        self.progressed = math.inf
        self._service.desks.acquire()
        self.progressed = time.monotonic()

    def _each(self, function: Callable[[T], R], items: Iterable[T]) -> Iterable[R]:
        """Do something for every sink, and leave the desk to the next one meanwhile."""
        self._service.desks.release()
        try:
            return side_by_side(function, items)
        finally:
            self._sit_down()

    def _work(self) -> None:
        with self._mutex:
            self._again = False
        delay = RETRY
        try:
            delay = self._advance()
        except RekeydError as error:
            self._recorder.failed(self.name, "look", error, delay)
        except Exception as error:  # a fault of rekeyd must not end the care for this identity
            self._service.log.exception("fault", identity=self.name)
            fault = Transient(
                f"rekeyd itself failed ({type(error).__name__}); the pair in use goes on working",
                "please report the log's `fault` event",
            )
            self._recorder.failed(self.name, "look", fault, delay)
        finally:
            with self._mutex:
                self.running = False
                self._set(0.0 if self._again else delay)

    def _advance(self) -> float:
        if self._reconciler is None and not self._over():
            who = replace(self._build(), each=self._each)
            self._reconciler = Reconciler(who, self._recorder, self._over)
        return self._reconciler.advance() if self._reconciler else RETRY

    def _over(self) -> bool:
        return self.retired or self._service.stopping.is_set()

    def _set(self, seconds: float) -> None:
        if not self._over():
            self._alarm.set(seconds)


class Service:
    """`rekeyd run`."""

    def __init__(self, path: Path | None) -> None:
        """Open everything that can be wrong, before anything is touched. Raises `Misconfigured`."""
        self._path = path
        self.settings = load(path)
        configure(self.settings.log.format, self.settings.log.level)
        self.log = structlog.get_logger("rekeyd")
        self.metrics = Metrics(__version__)
        self.store, self._sealer = self._open_state()
        self._notifier = notifier(self.settings)
        self.recorder = Recorder(self.store, self.metrics, self.log, self._tell)
        self.recorder.progress = self._progressed
        self.stopping = threading.Event()
        self.desks = threading.Semaphore(WORKERS)
        self.scheduler = BackgroundScheduler(
            executors={
                "default": ThreadPoolExecutor(WORKERS + WAITING),
                "beat": ThreadPoolExecutor(1),  # however many wait for a slow AWS
            },
            job_defaults={"misfire_grace_time": None},
            timezone=UTC,
        )
        self._runners: dict[str, Runner] = {}
        self._leaving: list[Runner] = []
        self.metrics.show(self.statuses)
        self._beaten = time.monotonic()
        self._next_beat = Alarm(self.scheduler, "beat", self._beat, "beat")
        self._store_trouble: str | None = None
        self._seen: dict[str, int] = {}
        self._owed: set[str] = set()
        self._listener = self._bound_listener()

    def _bound_listener(self) -> "Listener | None":
        if self.settings.listen is None:
            return None
        from rekeyd.http import Listener  # noqa: PLC0415 (for those who listen)
        from rekeyd.routes import routes  # noqa: PLC0415

        return Listener(self.settings.listen, routes(self, self.metrics.registry))

    def _open_state(self) -> tuple[State, Sealer]:
        store = open_store(self.settings)
        self._serve(store)
        sealer, beside = fit_sealer(self.settings, store, self._kms)
        if beside:
            self.log.warning(
                "seal",
                detail=f"the seal key lies beside the secrets that it seals, in {store.place}",
                do="put it elsewhere and name it with `seal: file:PATH`",
            )
        return store, sealer

    def _serve(self, store: State) -> None:
        """Become the daemon of this state, after whatever a command is doing with it."""
        until = time.monotonic() + PATIENCE
        while not store.serve():
            who = f"({store.holder()}) works on {store.place}"
            if not store.busy():
                raise Misconfigured(
                    f"another rekeyd {who} already",
                    "stop that one, or give this one a `state` of its own",
                )
            if time.monotonic() > until:
                raise Transient(f"a rotation is under way {who}", "start again when it is over")
            time.sleep(0.1)

    def _kms(self) -> object:
        from rekeyd.aws import Account  # noqa: PLC0415

        return Account(self.settings.aws, self.metrics.aws_request).client("kms")

    def run(self) -> int:
        """Work until SIGTERM or SIGINT; return the exit code."""
        wakeup = self._catch_signals()
        self._apply(self.settings)
        self._beat()
        self.scheduler.start()
        if self._listener:
            self._listener.start()
        self.metrics.reloaded(ok=True, at=datetime.now(UTC))
        self.log.info("ready", identities=len(self._all()), listen=self._listening())
        sd.ready(self._summary())
        self._loop(wakeup)
        return self._stop()

    # What the listener and the runners ask.

    def names(self) -> Sequence[str]:
        return [runner.name for runner in self._all()]

    def statuses(self) -> Sequence[Status]:
        known = self.recorder.stands()
        return [known[runner.name] for runner in self._all() if runner.name in known]

    def timeline(self, identity: str) -> Sequence[Event]:
        return [event for _, event in self.store.history(identity)]

    def healthy(self) -> list[str]:
        """Name the parts that do not work any more and need a restart."""
        hung = [runner for runner in (*self._all(), *self._leaving) if runner.hung()]
        problems = [f"{r.name}: no progress for {r.patience:.0f} s" for r in hung]
        if time.monotonic() - self._beaten > 3 * BEAT:
            problems.append("the scheduler does not run")
        return problems

    def ready(self) -> list[str]:
        """Name what keeps rotations from being made now."""
        trouble = [self._store_trouble] if self._store_trouble else []
        return self.healthy() + trouble

    def in_the_way(self, runner: Runner) -> bool:
        """Whether a runner has to wait for the last step of one that a reload has retired."""
        return any(former.in_the_way(runner) for former in self._leaving)

    # The main thread.

    def _loop(self, wakeup: socket.socket) -> None:
        interval = sd.watchdog_interval()
        nap = min(1.0, interval or 1.0)
        next_ping = next_write = time.monotonic()
        drift = time.time() - time.monotonic()
        while not self.stopping.is_set():
            if select.select([wakeup], [], [], nap)[0]:
                for number in dict.fromkeys(wakeup.recv(4096)):
                    self._on_signal(signal.Signals(number))
            now = time.monotonic()
            if abs(time.time() - now - drift) > CLOCK_JUMP:
                drift = time.time() - now
                self._on_clock_jump()
            self._ask_owed()
            self._take_requests()
            if now >= next_write:
                next_write = now + 30.0
                self._try_store()
            if interval and now >= next_ping and not self.healthy():
                next_ping = now + interval
                sd.notify("WATCHDOG=1", f"STATUS={self._summary()}")

    def _catch_signals(self) -> socket.socket:
        """Let signals wake the main thread; unlike a mask, handlers do not reach children."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        self._theirs = theirs
        signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        for number in (
            signal.SIGTERM,
            signal.SIGINT,
            signal.SIGHUP,
            signal.SIGUSR1,
            signal.SIGUSR2,
        ):
            signal.signal(number, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())  # what waited since the start comes now
        return ours

    def _on_signal(self, number: signal.Signals) -> None:
        match number:
            case signal.SIGTERM | signal.SIGINT:
                self.stopping.set()
            case signal.SIGHUP:
                self._reload()
            case signal.SIGUSR1:
                self._rotate_all()
            case signal.SIGUSR2:
                self._log_status()

    def _rotate_all(self) -> None:
        self.log.info("signal", detail="a rotation of every identity was asked for")
        self._owed.update(runner.name for runner in self._all())
        if trouble := self._ask_owed():
            do = f"it is asked for once that is over; {trouble.do}"
            self.log.error("request", error=str(trouble), do=do)

    def _ask_owed(self) -> RekeydError | None:
        """Ask for the rotations that a signal asked for; tell what keeps the state from it now."""
        for name in sorted(self._owed):
            try:
                self.store.ask(name, Request("rotate"))
            except RekeydError as error:
                return error
            self._owed.discard(name)
        return None

    def _take_requests(self) -> None:
        """Notice what other processes asked for through the state."""
        try:
            waiting = self.store.waiting()
        except RekeydError as error:
            self._note_store(error)
            return
        for name, number in waiting.items():
            if number > self._seen.get(name, 0) and name in self._runners:
                self._seen[name] = number
                self._runners[name].wake()

    def _reload(self) -> None:
        sd.reloading()
        try:
            settings = load(self._path)
            changed = [
                what for what in FIXED if _fixed(settings)[what] != _fixed(self.settings)[what]
            ]
            if changed:
                raise Misconfigured(
                    f"{' and '.join(changed)} cannot be changed while rekeyd runs",
                    "restart it to change that",
                )
            if self._listener and settings.listen:
                self._listener.reload(settings.listen)
        except Misconfigured as error:
            self.metrics.reloaded(ok=False, at=datetime.now(UTC))
            self.log.error("reload refused", error=str(error), do=error.do)
        else:
            configure(settings.log.format, settings.log.level)
            self._tell_others(settings)
            self._apply(settings)
            self.metrics.reloaded(ok=True, at=datetime.now(UTC))
            self.log.info("reloaded", identities=len(self._all()))
        sd.ready(self._summary())

    def _apply(self, settings: Settings) -> None:
        self.settings = settings
        workshop = Workshop(settings, self.store, self._sealer, self.metrics.aws_request)
        for runner in self._all():
            runner.retire()
        self._leaving = [runner for runner in (*self._leaving, *self._all()) if runner.running]
        self.store.agree({identity.name: _places(identity) for identity in settings.identities})
        wanted = {identity.name for identity in settings.identities}
        self.recorder.keep(wanted)
        self.metrics.watch(wanted)
        self._runners = {
            identity.name: Runner(identity, partial(workshop.build, identity), self.recorder, self)
            for identity in settings.identities
        }
        for runner in self._all():
            runner.wake()

    def _tell_others(self, settings: Settings) -> None:
        """Change who is told. Those who stay are not told the same again."""
        if settings.notify != self.settings.notify:
            former, self._notifier = self._notifier, notifier(settings)
            if former:
                former.close(seconds=0.0)

    def _on_clock_jump(self) -> None:
        """Set every timer anew: those of the scheduler follow the wall clock."""
        self.log.warning("clock", detail="the clock jumped; timers are set anew")
        self._beat()
        for runner in self._all():
            runner.wake()

    def _try_store(self) -> None:
        try:
            self.store.beat()
        except RekeydError as error:
            self._note_store(error)
        else:
            self._note_store(None)

    def _note_store(self, error: RekeydError | None) -> None:
        """Say once that the state cannot be used, and go on at once when it can be again."""
        if error and self._store_trouble is None:
            self.log.error("state", error=str(error), do=error.do)
        if self._store_trouble and error is None:
            self.log.info("state", detail="it can be used again")
            for runner in self._all():
                runner.wake()
        self._store_trouble = str(error) if error else None

    def _log_status(self) -> None:
        for status in self.statuses():
            self.log.info(
                "status",
                identity=status.identity,
                stage=status.stage,
                detail=status.message,
                next_rotation=status.next_rotation and status.next_rotation.isoformat(),
                hold=status.hold and status.hold.reason,
                failing=status.failing,
            )

    def _stop(self) -> int:
        sd.stopping()
        self.log.info("stopping", detail="finishing the steps in flight")
        for runner in self._all():
            runner.retire()
        deadline = time.monotonic() + PATIENCE
        finishing = [*self._all(), *self._leaving]
        while time.monotonic() < deadline and any(runner.running for runner in finishing):
            time.sleep(0.02)
        if self._listener:
            self._listener.stop()
        self.scheduler.remove_all_jobs()  # its thread dies of one that comes due in a shutdown
        self.scheduler.shutdown(wait=False)
        if self._notifier:
            self._notifier.close()
        self.store.close()
        self.log.info("stopped")
        return 0

    def _progressed(self, name: str) -> None:
        for runner in (*self._all(), *self._leaving):
            if runner.name == name:
                runner.progressed = time.monotonic()

    def _all(self) -> list[Runner]:
        return list(self._runners.values())

    def _tell(self, event: Event) -> None:
        if self._notifier:
            self._notifier.send(event)

    def _beat(self) -> None:
        self._beaten = time.monotonic()
        self._next_beat.set(BEAT)

    def _listening(self) -> str:
        """Say where, also when the settings leave the port to the system."""
        if not (self._listener and self.settings.listen):
            return "none"
        host, _, _ = self.settings.listen.address.rpartition(":")
        return f"{host}:{self._listener.port}"

    def _summary(self) -> str:
        stages = [status.stage for status in self.statuses()]
        counted = ", ".join(f"{stages.count(s)} {s}" for s in dict.fromkeys(stages))
        return f"{len(self._all())} identities" + (f": {counted}" if counted else "")


def _places(identity: IdentitySettings) -> str:
    return digest(*sorted((sink.type, sink.place) for sink in identity.sinks))


def _fixed(settings: Settings) -> dict[str, object]:
    address = settings.listen.address if settings.listen else None
    return dict(zip(FIXED, (settings.state, settings.seal, address), strict=True))


def run(path: Path | None) -> int:
    """Run the daemon; return its exit code."""
    code = Service(path).run()
    sys.stderr.flush()
    os._exit(code)  # a worker that outlived the patience must not keep the process
