"""Several replicas on one state: a process may be stopped in any call while another one goes on.

The lease of rekeyd.postgres in virtual time: a claim that was not given back is nobody else's for
`LEASE`; custody's writes name the fence of their claim; a request to IAM is signed, the claim is
renewed, then it is sent, and a signature that is older than `SIGNED` is refused.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from rekeyd.errors import Elsewhere, Refused
from rekeyd.model import Custody
from rekeyd.ports import Request
from rekeyd.postgres import LEASE as LEASE_SECONDS
from rekeyd.steps import Rest
from world.faults import Crash, no_faults
from world.ports import WorldStore
from world.truth import PERSON, Lease
from world.world import NAME, Diary, World

T = TypeVar("T")

LEASE = timedelta(seconds=LEASE_SECONDS)
SIGNED = timedelta(minutes=5)
"""How old a signature may be (IAM User Guide, "Signing AWS API requests")."""

CHANGING = frozenset({"iam.create_key", "iam.set_active", "iam.delete_key"})


@dataclass(frozen=True, slots=True)
class Stop:
    """The process is stopped just before a call; others go on, and a person may ask something."""

    call: int
    duration: timedelta
    asked: str = ""


class SharedStore(WorldStore):
    """Custody as one process sees it that shares it with others."""

    def __init__(self, world: "SharedWorld") -> None:
        super().__init__(world)
        self._fence = 0

    def claim(self, identity: str) -> None:
        self._world.call("store.claim", self._renewed if self._fence else self._claimed)

    def renew(self, identity: str) -> None:
        self._world.call("store.renew", self._renewed)

    def release(self, identity: str) -> None:
        if self._fence:
            self._world.call("store.release", self._released)

    def _claimed(self) -> None:
        world, lease = self._world, self._world.truth.lease
        if lease.held and world.truth.now < lease.renewed + LEASE:
            raise Elsewhere("another replica is at work")
        self._fence = lease.fence + 1
        world.truth = world.truth._replace(lease=Lease(True, self._fence, world.truth.now))

    def _renewed(self) -> None:
        world, lease = self._world, self._world.truth.lease
        if not lease.held or lease.fence != self._fence:
            self._fence = 0
            raise Elsewhere("another replica has taken over")
        world.truth = world.truth._replace(lease=lease._replace(renewed=world.truth.now))

    def _released(self) -> None:
        lease = self._world.truth.lease
        if lease.fence == self._fence:
            self._world.truth = self._world.truth._replace(lease=lease._replace(held=False))
        self._fence = 0

    def _save(self, custody: Custody) -> None:
        self._renewed()
        super()._save(custody)

    def _settle(self, number: int, custody: Custody | None) -> None:
        self._renewed()
        super()._settle(number, custody)


class SharedWorld(World):
    """A world whose state is shared. Every cycle is that of a replica with nothing in memory."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._store: WorldStore = SharedStore(self)
        self.stop: Stop | None = None
        self._late: str | None = None
        """The write-only sink whose put came after its process had slept through its lease."""

    def restart(self) -> None:
        super().restart()
        self._store = SharedStore(self)
        self._identity = None

    def cycle(self) -> float | None:
        self._late = None
        slept = super().cycle()
        if slept is None and self._late:  # killed before it could tell: nobody can know
            self.change_sink(self._late, by=PERSON, noticed=False)
        return slept

    def call(self, name: str, act: Callable[[], T], detail: str = "") -> T:
        if self._dead:
            raise Crash
        signed = self.truth.now
        if name in CHANGING:
            self._store.renew(NAME)
        before = self.truth.now
        if self.stop and len(self.calls) == self.stop.call:
            stop, self.stop = self.stop, None
            self.tell(f"  the process is stopped in {name} {detail}")
            self._meanwhile(stop)
            self.tell("  the process goes on")
        if name in CHANGING and self.truth.now > signed + SIGNED:
            self.calls.append(name)
            raise Refused(f"{name}: RequestExpired", reason="credentials")
        if name == "sink.put" and self.truth.now > before + LEASE:
            return super().call(
                name, lambda: self._put_late(act, detail.split(" ", maxsplit=1)[0]), detail
            )
        return super().call(name, act, detail)

    def _put_late(self, put: Callable[[], T], sink: str) -> T:
        """Let a put through that no lease can hold back. Excused: that its key is not the latest.

        That the sink is mended afterwards is not excused: L1 sees it.
        """
        found = len(self.checker.found)
        answer = put()
        del self.checker.found[found:]
        if not self.truth.sinks[sink].readable:
            self._late = sink
        return answer

    def _meanwhile(self, stop: Stop) -> None:
        """Let another replica go on while this process is stopped."""
        mine = self._identity, self._store, self.calls, self.faults, self.diary, self._late
        seen = self.listed, self.looked
        self.calls, self.faults, self.diary = [], no_faults, Diary(self)
        if stop.asked:
            self.ask(stop.asked)
        end = self.truth.now + stop.duration
        while self.truth.now < end:
            pause = timedelta(seconds=max(1, int(self.cycle() or 0)))
            step = self.diary.decision.step if self.diary.decision else None
            if isinstance(step, Rest) and self.diary.error is None:
                pause = max(pause, step.until - self.truth.now)
            if isinstance(self.diary.error, Elsewhere):  # as often as it asks until the lease ends
                pause = max(pause, self.truth.lease.renewed + LEASE - self.truth.now)
            self.pass_time(min(pause, end - self.truth.now))
        self._identity, self._store, self.calls, self.faults, self.diary, self._late = mine
        self.listed, self.looked = seen

    def request(self, request: Request) -> int:
        number = super().request(request)
        if request.kind == "redeliver":
            self._late = None
        return number
