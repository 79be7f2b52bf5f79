"""`rotate`, `rollback` and `adopt`: ask, then follow what happens, whoever does it.

Everything goes through the state: a request is left there, and the history tells what came of it.
Without a running daemon this process takes the lock and does the work itself, if need be after
another command, which ends and does only what it was asked for.
"""

import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import click

from rekeyd.assemble import Workshop, notifier, open_store
from rekeyd.commands import event_line, print_json, say, worst
from rekeyd.commands.looking import workshop
from rekeyd.config import IdentitySettings, Settings
from rekeyd.errors import Permanent, RekeydError
from rekeyd.exits import DONE, FAILED, HELD, INTERRUPTED, UNREACHABLE
from rekeyd.ports import Event, Request
from rekeyd.reconcile import Reconciler
from rekeyd.record import Recorder
from rekeyd.state import State
from rekeyd.view import Status

if TYPE_CHECKING:
    from rekeyd.notify.notifier import Notifier

DELIVERED = ("deliver", "record", "done")
"""What an event tells when every sink holds a pair."""

POLL = 0.2
"""Seconds between two looks at the history."""


class Follower:
    """Watches the history of one identity until what was asked for is done, or cannot be."""

    def __init__(self, store: State, name: str, kind: str | None, since: int) -> None:
        self.name = name
        self.code: int | None = None
        self.note = self.do = ""
        self.kind = kind
        self._store = store
        self._before = store.published().get(name)
        self._seen = since
        self._granted = kind is None
        self._delivered = False

    def poll(self) -> list[Event]:
        """Return what happened since the last call, and decide whether it is over."""
        new = self._store.history(self.name, after=self._seen)
        for number, event in new:
            self._seen = number
            self.weigh(event)
        status = self._store.published().get(self.name)
        if status and status != self._before:
            self._weigh_status(status)
        return [event for _, event in new]

    def give_up(self, why: str) -> None:
        """Leave what is not over to somebody else; `why` it is not, unless its status tells."""
        if self.code is None:
            self.code = UNREACHABLE
            status = self._store.published().get(self.name)
            self.note = (status and status.failing) or why
            self.do = "it goes on when the daemon runs, or with the next `rekeyd rotate --due`"

    def weigh(self, event: Event) -> None:
        """Decide from an event whether it is over. Weighing it twice is the same as once."""
        if event.rule == "request" and event.step == self.kind:
            self._granted = True
            if event.outcome == "refused":
                self.code, self.note = FAILED, event.detail
            elif self.kind == "adopt":
                self.code = DONE
        elif self._granted and (event.rule, event.step, event.outcome) == DELIVERED:
            self._delivered = True
            if self.kind in {"rotate", "rollback"}:
                self.code = DONE

    def rest(self, status: Status | None) -> None:
        """Decide whether it is over, from where it stands now that nothing is due for a while."""
        if status is None:  # another replica is at work on it
            return
        self._weigh_status(status)
        if self.kind is None and self.code is None:
            if not status.failing:
                self.code = DONE
            elif status.stage == "failing":
                self.code, self.note = UNREACHABLE, status.failing

    def _weigh_status(self, status: Status) -> None:
        if self.code is not None:
            return
        blind = status.hold and status.failing  # not even a look is possible
        if not (self._granted or blind):
            return
        if status.hold:
            self.code, self.note, self.do = HELD, status.hold.what, status.hold.do
        elif self.kind == "revoke" and self._delivered and status.stage == "resting":
            self.code = DONE if len(status.keys) < 2 else None
        elif status.asked and status.stage == "resting":
            self.code = UNREACHABLE
            self.note = (
                "a new pair is asked for and will be made when IAM has room: "
                f"the superseded one is still kept; {status.message}"
            )


def follow(
    settings: Settings,
    identities: list[IdentitySettings],
    request: Request | None,
    *,
    wait: int,
    as_json: bool,
) -> int:
    """Ask for something for some identities and follow it; return the exit code.

    Without a `request` nothing is asked for: only what is due is done, as a timer wants it.
    """
    with closing(open_store(settings)) as store:
        since = store.latest()
        kind = request.kind if request else None
        followers = [Follower(store, identity.name, kind, since) for identity in identities]
        if request:
            for identity in identities:
                store.ask(identity.name, request)
        worker = Worker(settings, store, list(zip(identities, followers, strict=True)))
        told: list[Event] = []
        interrupted = False
        try:
            _watch(worker, followers, told, time.monotonic() + wait, as_json)
        except KeyboardInterrupt:  # what has begun is finished, and nothing more is begun
            interrupted = True
        worker.stop()
        if worker.error:
            raise worker.error
        told += _show(followers, as_json)
        for one in followers:
            one.give_up(worker.in_the_way or "not done yet")
        code = _conclude(followers, told, as_json)
        return INTERRUPTED if interrupted else code


def _watch(
    worker: "Worker", followers: list[Follower], told: list[Event], until: float, as_json: bool
) -> None:
    worker.begin()
    while _open(followers) and not worker.error and time.monotonic() < until:
        worker.happened.wait(POLL)
        worker.happened.clear()
        told += _show(followers, as_json)
        if worker.in_the_way:
            worker.begin()


@dataclass
class Worker:
    """Does what the daemon would do, for these identities, side by side, until it is done."""

    settings: Settings
    store: State
    pairs: list[tuple[IdentitySettings, Follower]]
    stopping: threading.Event = field(default_factory=threading.Event)
    happened: threading.Event = field(default_factory=threading.Event)
    error: RekeydError | None = None
    in_the_way: str | None = None
    """What keeps it from work that is nobody else's: another command."""

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self.run, daemon=True)

    def begin(self) -> None:
        """Begin unless a daemon is there to do it, or another command has to end before."""
        self.in_the_way = None
        if self.store.act():
            self._thread.start()
        elif self.store.busy():
            self.in_the_way = f"another command works on {self.store.place} ({self.store.holder()})"
        else:
            _leave_to_daemon(follower for _, follower in self.pairs)

    def stop(self) -> None:
        """Finish what has begun, and begin nothing more."""
        self.stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def run(self) -> None:
        """Advance them all. People are told of trouble only where nobody watches: from a timer."""
        watched = all(follower.kind for _, follower in self.pairs)
        telling = None if watched else notifier(self.settings)
        try:
            shop = workshop(self.settings, self.store)
            with ThreadPoolExecutor(len(self.pairs)) as pool:
                list(pool.map(lambda pair: self._advance(shop, telling, *pair), self.pairs))
        except RekeydError as error:
            self.error = error
        except Exception as error:  # noqa: BLE001 (no traceback ever reaches a user)
            self.error = Permanent(
                f"rekeyd itself failed ({type(error).__name__}); the pair in use goes on working",
                "please report it with the output of `rekeyd history`",
            )
        if telling:
            telling.close()
        self.happened.set()

    def _advance(
        self,
        shop: Workshop,
        telling: "Notifier | None",
        identity: IdentitySettings,
        follower: Follower,
    ) -> None:
        def enough() -> bool:
            return self.stopping.is_set() or follower.code is not None

        def tell(event: Event) -> None:
            follower.weigh(event)  # at once, so that no further look is taken
            self.happened.set()
            if telling:
                telling.send(event)

        recorder = Recorder(self.store, tell=tell)
        reconciler = Reconciler(shop.build(identity), recorder, enough)
        while not enough():
            delay = reconciler.advance()
            follower.rest(recorder.statuses.get(identity.name))
            self.happened.set()
            while not enough() and delay > 0:
                self.stopping.wait(min(delay, POLL))
                delay -= POLL


def _leave_to_daemon(followers: Iterable[Follower]) -> None:
    """Follow what was asked for; what is due needs nobody to follow it."""
    for one in followers:
        if one.kind is None and one.code is None:
            one.code, one.note = DONE, "a daemon runs on this state, and does what is due"


def _open(followers: Iterable[Follower]) -> bool:
    return any(one.code is None for one in followers)


def _show(followers: Iterable[Follower], as_json: bool) -> list[Event]:
    events = sorted((e for one in followers for e in one.poll()), key=lambda event: event.at)
    if not as_json:
        for event in events:
            click.echo(event_line(event))
    return events


def _conclude(followers: list[Follower], told: list[Event], as_json: bool) -> int:
    if as_json:
        outcome = [
            {
                "identity": one.name,
                "exit": one.code,
                "note": one.note or None,
                "do": one.do or None,
            }
            for one in followers
        ]
        print_json({"outcome": outcome, "events": [asdict(event) for event in told]})
    else:
        for one in followers:
            if one.note:
                held = "on hold: " if one.code == HELD else ""
                say(one.note, one.do, lead=f"{one.name}: {held}", err=True)
    return worst(one.code or DONE for one in followers)
