"""The fake AWS of the tests, with its sinks, its disk, its people and its clock.

Faithful where moto is not: every front has a delay within which it may show any state that was
true, in any order; dead keys are refused; answers are lost before and after they commit; IAM tells
of a use late. Time is virtual. The program meets it through rekeyd.ports only.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeVar
from unittest import mock

from rekeyd.errors import RekeydError
from rekeyd.model import Custody, Timing
from rekeyd.ports import Identity, Request
from rekeyd.reconcile import LONGEST, Reconciler
from rekeyd.secret import AccessPair, Secret
from rekeyd.steps import Decision, Hold, Rest
from world.checker import MINT_WINDOW, Checker, Violation
from world.faults import (
    POSSIBLE,
    Chooser,
    Crash,
    Fault,
    FaultPlan,
    error,
    no_faults,
)
from world.ports import WorldConsumer, WorldIam, WorldSealer, WorldSink, WorldStore
from world.truth import (
    ABSENT,
    ACTIVE,
    INACTIVE,
    PERSON,
    START,
    US,
    Change,
    TrueKey,
    TrueSink,
    Truth,
)

T = TypeVar("T")
R = TypeVar("R")

NAME = "backup"
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Delays:
    """How long each front may go on showing an old truth."""

    list: timedelta = timedelta()
    sts: timedelta = timedelta()
    s3: timedelta = timedelta()

    @classmethod
    def all(cls, delay: timedelta) -> "Delays":
        return cls(delay, delay, delay)


def every(
    interval: timedelta,
    overlap: timedelta = HOUR,
    grace: timedelta = HOUR,
    settle: timedelta = 15 * MINUTE,
) -> Timing:
    return Timing(lambda born: born + interval, overlap, grace, settle)


NORMAL = every(24 * HOUR)


@dataclass
class Diary:
    """The `Witness` of a run: keeps the last decision and error, and tells the story on."""

    world: "World"
    decision: Decision | None = None
    error: RekeydError | None = None
    rotations: int = 0
    refusals: list[RekeydError] = field(default_factory=list)

    def saw(self, who: Identity, snapshot: object, decision: Decision) -> None:
        self.decision, self.error = decision, None
        self.world.tell(f"rule {decision.rule}: {_say(decision)}")

    def did(self, identity: str, decision: Decision, detail: str, seconds: float) -> None:
        pass

    def failed(self, identity: str, rule: str, error: RekeydError, retry: float) -> None:
        self.error = error
        self.world.tell(f"  failed: {error}")

    def rotated(self, identity: str) -> None:
        self.rotations += 1

    def granted(self, identity: str, kind: str, refusal: RekeydError | None) -> None:
        self.world.tell(f"granted {kind}" if refusal is None else f"refused {kind}: {refusal}")
        if refusal:
            self.refusals.append(refusal)


class WorldClock:
    """What the program sees of `time` and `datetime`: virtual seconds, on a clock that is wrong."""

    CLOCK_BOOTTIME = 7

    def __init__(self, world: "World") -> None:
        self._world = world

    def clock_gettime(self, _clock: int) -> float:
        return self._world.truth.now.timestamp()

    def monotonic(self) -> float:
        return self._world.truth.now.timestamp()

    def time(self) -> float:
        return self.now().timestamp()

    def now(self, _zone: object = None) -> datetime:
        return self._world.truth.now + self._world.skew


class World:
    """One user, its keys, its sinks, and the state folder of the program that rotates them."""

    def __init__(
        self,
        *,
        sinks: Mapping[str, bool] = {"file": True},
        timing: Timing = NORMAL,
        delays: Delays = Delays(),
        lag: timedelta = timedelta(),
        key_limit: int = 2,
        latency: timedelta = timedelta(),
        chooser: Chooser | None = None,
        faults: FaultPlan = no_faults,
        recording: bool = True,
    ) -> None:
        self.timing = timing
        self.delays = delays
        self.lag = lag
        self.key_limit = key_limit
        self.latency = latency
        self.chooser = chooser or Chooser()
        self.faults = faults
        self.recording = recording
        self.signs_as_root = False
        self.forgotten = False  # an old state was put back
        self.denied = False
        self.skew = timedelta()  # by how much the clock of the program's machine is wrong
        self.dated = True  # some stores do not say when a key was made
        self.salt = ""  # gives it key ids of its own, where several worlds are one AWS
        self.listed: frozenset[str] = frozenset()  # the key ids that the program was last shown
        self.looked = START  # when it was
        self.truth = Truth(sinks={name: TrueSink(readable) for name, readable in sinks.items()})
        self.checker = Checker(self)
        self.diary = Diary(self)
        self.story: list[str] = []
        self.calls: list[str] = []
        self.crashes = 0
        self._dead = False
        self._program: Reconciler | None = None
        self._iam = WorldIam(self)
        self._consumer = WorldConsumer(self)
        self._store = WorldStore(self)
        self._sealer = WorldSealer(self)
        self._identity: Identity | None = None

    # What the program is given

    @property
    def identity(self) -> Identity:
        """The program's view: its ports, and nothing of the truth."""
        if self._identity is None:
            self._identity = Identity(
                name=NAME,
                timing=self.timing,
                iam=self._iam,
                consumer=self._consumer,
                sinks=tuple(WorldSink(self, name) for name in self.truth.sinks),
                store=self._store,
                sealer=self._sealer,
                each=_in_turn,
            )
        return self._identity

    def call(self, name: str, act: Callable[[], T], detail: str = "") -> T:
        """Let one call of the program happen, or go wrong as the plan of faults says."""
        if self._dead:
            raise Crash
        fault = self.faults(len(self.calls), name)
        self.calls.append(name)
        if self.latency:
            self.truth = self.truth.after(self.latency)
        if fault:
            self._strike(name, fault, detail)
        answer = act()
        if self.recording and name in TOLD:
            self.tell(f"  {name} {detail}")
        if self.checker.found:
            self._dead = True
            raise Crash
        if fault:
            self._strike_after(name, fault)
        return answer

    def _strike(self, name: str, fault: Fault, detail: str) -> None:
        """Let a call that has begun go wrong, unless it takes effect first."""
        assert fault in POSSIBLE[name], f"{fault} cannot happen to {name}"
        self.tell(f"  {name} {detail}: {fault.value}")
        if fault is Fault.SLOW:
            self.truth = self.truth.after(HOUR)
        if fault is Fault.CRASH_BEFORE:
            self._dead = True
            raise Crash
        if not fault.commits:
            raise error(name, fault)

    def _strike_after(self, name: str, fault: Fault) -> None:
        """Let a call that has taken effect go wrong."""
        if fault is Fault.CRASH_COMMITTED:
            self._dead = True
            raise Crash
        if fault is not Fault.SLOW:
            raise error(name, fault)

    def choose(self, options: Sequence[T]) -> T:
        """Pick what a front shows, from the truth (first) to the oldest (last)."""
        return options[0] if len(options) == 1 else self.chooser.choose(options)

    # The program, running

    def cycle(self) -> float | None:
        """Let a fresh process look, plan and perform once, under this world's clock.

        Return the seconds that it means to sleep: 0 after a step, None when it was killed.
        """
        self.restart()
        self.calls.clear()
        turns = iter((False, True))
        program = Reconciler(self.identity, self.diary, lambda: next(turns))
        try:
            seconds = program.advance()
        except Crash:
            return None
        finally:
            self.check()
        return 0 if seconds == LONGEST else seconds

    @contextmanager
    def clock(self) -> Iterator[None]:
        """Give the program the time of this world."""
        clock = WorldClock(self)
        with (
            mock.patch("rekeyd.reconcile.time", clock),
            mock.patch("rekeyd.observe.datetime", clock),
            mock.patch("rekeyd.observe.time", clock),
        ):
            yield

    def run(
        self,
        duration: timedelta,
        *,
        watch: timedelta | None = None,
        pace: timedelta = MINUTE / 60,
    ) -> None:
        """Let the program run for a while; a process that is killed is started again at once.

        It sleeps for as long as it says, but at most for `watch`; without one its own WATCH is
        skipped, so that it is woken only by the instants that `rest` names. It is never woken
        sooner than after `pace`.
        """
        end = self.truth.now + duration
        with self.clock():
            while self.truth.now < end:
                seconds = self._live()
                step = self.diary.decision.step if self.diary.decision else None
                if isinstance(step, Rest) and self.diary.error is None and watch is None:
                    seconds = max(seconds, (step.until - self.truth.now).total_seconds())
                pause = timedelta(seconds=max(1, int(seconds)))
                self.pass_time(max(pace, min(pause, watch or pause, end - self.truth.now)))

    def restart(self) -> None:
        """Drop everything that the program holds in memory."""
        self.diary.decision = self.diary.error = None
        self._program = None
        self._dead = False

    def _live(self) -> float:
        if self._program is None:
            self.tell("the process starts")
            self._program = Reconciler(self.identity, self.diary, lambda: False)
        try:
            return self._program.advance()
        except Crash:
            self.crashes += 1
            self.check()
            self.restart()
            return 1
        finally:
            self.check()

    def check(self) -> None:
        """Raise when an invariant was broken, with the story so far."""
        if self.checker.found:
            raise Violation("\n".join([*self.checker.found, "", *self.story]))

    def l1(self) -> str | None:
        """Tell what L1 misses, now that faults have ceased; None when it holds."""
        decision = self.diary.decision
        if decision and isinstance(decision.step, Hold):
            return None
        truth = self.truth
        ours = [key for key in truth.living if self._is_ours(key)]
        active = [key.id for key in ours if key.status == ACTIVE]
        if len(active) != 1:
            return f"L1: {len(active)} Active keys of ours, and no Hold: {active}"
        if len(ours) != 1:
            return f"L1: {len(ours) - 1} old keys of ours were never deleted, and no Hold"
        for name, sink in truth.sinks.items():
            if not sink.noticed and not sink.readable:
                continue  # what a person did to it, nobody can see
            key = truth.keys[active[0]]
            if sink.pair is None or sink.pair.fingerprint() != key.pair.fingerprint():
                return f"L1: {name} does not hold {active[0]}, and no Hold"
        if active[0] in truth.revoked:
            return f"L1: {active[0]} has leaked and is still Active"
        if truth.custody.intent:
            return "L1: an intent was never closed"
        return None

    @property
    def unsettled(self) -> bool:
        """Whether a listing may still show an old truth."""
        since = self.truth.now - self.delays.list
        changes = [key.changes[-1].at for key in self.truth.keys.values()]
        return any(at > since for at in (*changes, self.truth.users[-1][0]))

    @property
    def minted_late(self) -> bool:
        """Whether an interrupted mint made its key so late that only a person can tell whose it is:

        the process was stopped before it sent the call, and killed after it.
        """
        intent, known = self.truth.custody.intent, self._ids_in_custody
        return intent is not None and any(
            key.maker == US and key.id not in known and key.created > intent.at + MINT_WINDOW
            for key in self.truth.living
        )

    def _is_ours(self, key: TrueKey) -> bool:
        made = key.maker != PERSON and not self.forgotten
        return made or key.id in self._ids_in_custody

    @property
    def _ids_in_custody(self) -> set[str]:
        return {pair.key_id for pair in self.truth.custody.pairs}

    # Time and people

    def pass_time(self, duration: timedelta) -> None:
        self.truth = self.truth.after(duration)

    def clock_jumps(self, skew: timedelta) -> None:
        """The clock of the program's machine is wrong by so much from now on."""
        self.tell(f"the local clock is wrong by {skew}")
        self.skew = skew

    def ask(self, kind: str, argument: str = "") -> None:
        """A person asks the program for something."""
        self.tell(f"a person asks: {kind} {argument}")
        self.request(Request(kind, argument))

    def request(self, request: Request) -> int:
        """Leave a request where the program finds it; return its number."""
        number = self.truth.asked + 1
        requests = (*self.truth.requests, (number, request))
        self.truth = self.truth._replace(asked=number, requests=requests)
        return number

    def person_creates(self) -> TrueKey:
        key = self.make_key(PERSON)
        self.tell(f"a person creates {key.id}")
        return key

    def person_activates(self, key_id: str) -> None:
        self._person_changes(key_id, ACTIVE)

    def person_deactivates(self, key_id: str) -> None:
        self._person_changes(key_id, INACTIVE)

    def person_deletes(self, key_id: str) -> None:
        self._person_changes(key_id, ABSENT)

    def _person_changes(self, key_id: str, status: str) -> None:
        self.tell(f"a person makes {key_id} {status}")
        self.change_key(key_id, status, PERSON)

    def person_replaces_user(self) -> None:
        """The user is deleted with its keys, and made again under the same name."""
        self.person_deletes_user()
        self._users(f"AIDAUSER{len(self.truth.users)}")
        self.tell("a person makes the user again")

    def person_deletes_user(self) -> None:
        self.tell("a person deletes the user")
        for key in self.truth.living:
            self.change_key(key.id, ABSENT, PERSON)
        self._users(None)

    def _users(self, user_id: str | None) -> None:
        self.truth = self.truth._replace(users=(*self.truth.users, (self.truth.now, user_id)))

    def person_writes(self, sink: str, key_id: str | None, *, secret: str | None = None) -> None:
        """A person overwrites a sink: with a key's pair, with a wrong secret, or with nothing."""
        self.tell(f"a person makes {sink} hold {key_id}{' with a wrong secret' if secret else ''}")
        pair = None
        if key_id is not None:
            pair = AccessPair(key_id, Secret(secret or self.truth.keys[key_id].secret))
        self.change_sink(sink, pair=pair, by=PERSON, noticed=False)

    def person_puts_back(self, custody: Custody) -> None:
        """A person puts the state back from an old backup, or has lost it.

        Keys that it does not know are like a person's then, and requests were never made.
        """
        self.forgotten = True
        self.tell("a person puts an old state back")
        revoked = frozenset(pair.key_id for pair in custody.pairs if pair.revoked)
        self.truth = self.truth._replace(custody=custody, requests=(), revoked=revoked)

    def trouble(self, sink: str, kind: str | None) -> None:
        """Break a sink, or mend it with None."""
        self.tell(f"sink {sink} is {kind or 'mended'}")
        self.change_sink(sink, trouble=kind)

    def configure(self, timing: Timing | None = None, **sinks: bool | None) -> None:
        """A person edits the configuration: its times, and sinks (readable or not, None: gone).

        A place that is named again still holds what it held when it was last named.
        """
        self.timing = timing or self.timing
        truth = self.truth
        kept = {n: s for n, s in truth.sinks.items() if sinks.get(n, True) is not None}
        gone = {n: s for n, s in truth.sinks.items() if n not in kept}
        known = {**truth.unnamed, **gone}
        new = {
            name: known.get(name, TrueSink(bool(readable)))._replace(by=PERSON, noticed=False)
            for name, readable in sinks.items()
            if readable is not None and name not in kept
        }
        unnamed = {n: s for n, s in known.items() if n not in new}
        self.truth = truth._replace(sinks={**kept, **new}, unnamed=unnamed)
        self.tell(f"a person edits the configuration: sinks {', '.join(self.truth.sinks)}")
        self._identity = None
        self.restart()

    def backup(self, sink: str) -> bool:
        """A backup reads the sink and signs; tell whether it was let in."""
        pair = self.truth.sinks[sink].pair
        return pair is not None and self.use(pair)

    def use(self, pair: AccessPair) -> bool:
        """Somebody signs with a pair that was read some time ago; tell whether it was let in."""
        key = self.truth.keys.get(pair.key_id)
        good = key in self.truth.active and key is not None and key.secret == pair.secret.reveal()
        if good:
            self.use_key(pair.key_id)
        return good

    # How the truth changes

    def make_key(self, by: str) -> TrueKey:
        number = len(self.truth.keys) + 1
        digest = hashlib.sha256(f"{by}{number}{self.salt}".encode()).hexdigest()
        key = TrueKey(
            id=f"AKIA{digest[:5].upper()}KEY{number:04}",
            secret=f"secret/{digest[4:37]}",
            user_id=self.truth.user_id or "",
            changes=(Change(self.truth.now, ACTIVE, by),),
        )
        self.truth = self.truth._replace(keys={**self.truth.keys, key.id: key})
        return key

    def change_key(self, key_id: str, status: str, by: str) -> None:
        key = self.truth.keys[key_id].became(self.truth.now, status, by)
        self.truth = self.truth._replace(keys={**self.truth.keys, key_id: key})

    def use_key(self, key_id: str) -> None:
        key = self.truth.keys[key_id].used(self.truth.now, self.lag)
        self.truth = self.truth._replace(keys={**self.truth.keys, key_id: key})

    def change_sink(self, name: str, **changes: Any) -> None:
        sink = self.truth.sinks[name]._replace(**changes)
        self.truth = self.truth._replace(sinks={**self.truth.sinks, name: sink})

    def tell(self, line: str) -> None:
        if self.recording and not (self.story and self.story[-1].endswith(f" {line}")):
            self.story.append(f"{self.truth.now:%d %H:%M:%S} {line}")


TOLD = {call for call, faults in POSSIBLE.items() if Fault.CRASH_COMMITTED in faults}
"""The calls that change something: those that a story tells."""


def _in_turn(function: Callable[[T], R], items: Iterable[T], /) -> list[R]:
    return [function(item) for item in items]


def _say(decision: Decision) -> str:
    step = decision.step
    match step:
        case Hold(reason, what, _):
            return f"hold ({reason}): {what}"
        case Rest(until):
            return f"rest until {until:%d %H:%M:%S}"
        case _:
            return str(getattr(step, "what", step))
