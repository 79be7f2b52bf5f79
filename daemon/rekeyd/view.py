"""How an identity stands, for people and for metrics: derived from a snapshot and its decision."""

from dataclasses import dataclass
from datetime import datetime

from rekeyd.model import Pair, Snapshot, Timing
from rekeyd.secret import short
from rekeyd.steps import (
    Activate,
    Deactivate,
    Decision,
    Delete,
    Deliver,
    Hold,
    Mint,
    Record,
    Rest,
    Step,
    Verify,
)


@dataclass(frozen=True, slots=True)
class KeyStatus:
    """One key of the user. Its id is shortened; it never stands in a metric."""

    key: str
    state: str  # current | pending | superseded | orphan | foreign
    active: bool
    created: datetime | None
    last_used: datetime | None
    verified: datetime | None
    current_since: datetime | None
    deactivated: datetime | None


@dataclass(frozen=True, slots=True)
class SinkStatus:
    name: str
    current: bool
    problem: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Where an identity stood at its last look. `at` is IAM's clock."""

    identity: str
    at: datetime
    stage: str
    rule: str
    message: str
    hold: Hold | None = None
    failing: str | None = None  # why the last step failed, while it is being tried again
    retry_at: datetime | None = None
    asked: bool = False  # a rotation was asked for and has not begun
    next_rotation: datetime | None = None
    last_rotation: datetime | None = None
    keys: tuple[KeyStatus, ...] = ()
    sinks: tuple[SinkStatus, ...] = ()

    def count(self, state: str) -> int:
        return sum(key.state == state for key in self.keys)

    @property
    def current(self) -> KeyStatus | None:
        return next((key for key in self.keys if key.state == "current"), None)

    @property
    def superseded_last_used(self) -> datetime | None:
        used = [key.last_used for key in self.keys if key.state == "superseded" and key.last_used]
        return max(used, default=None)


STATES = ("current", "pending", "superseded", "orphan", "foreign")

STAGES: dict[type[Step], str] = {
    Hold: "on hold",
    Rest: "resting",
    Record: "looking",
    Mint: "minting",
    Verify: "verifying",
    Deliver: "delivering",
    Activate: "going back",
    Deactivate: "retiring",
    Delete: "retiring",
}


def describe(identity: str, s: Snapshot, decision: Decision, timing: Timing) -> Status:
    """Tell how an identity stands after one look."""
    step = decision.step
    target = s.target
    return Status(
        identity=identity,
        at=s.now,
        stage=STAGES[type(step)],
        rule=decision.rule,
        message=sentence(step),
        hold=step if isinstance(step, Hold) else None,
        asked=s.custody.asked is not None,
        next_rotation=max(s.now, timing.due(target.born)) if target else s.now,
        last_rotation=s.custody.rotated,
        keys=tuple(_keys(s)),
        sinks=tuple(
            SinkStatus(v.name, target is not None and v.holds == target.key_id, v.problem)
            for v in s.sinks
        ),
    )


def sentence(step: Step) -> str:
    """Say a step as a sentence. Key ids are shortened."""
    match step:
        case Hold(_, what, _):
            return what
        case Rest(until):
            return f"nothing to do before {until:%Y-%m-%d %H:%M:%S} UTC"
        case Record(what, _, _):
            return what
        case Mint():
            return "make a new pair"
        case Verify(key_id):
            return f"prove that {short(key_id)} works, as the backup would use it"
        case Deliver(key_id, sinks):
            return f"give {short(key_id)} to {', '.join(sinks)}"
        case Activate(key_id):
            return f"activate {short(key_id)}"
        case Deactivate(key_id):
            return f"deactivate {short(key_id)}"
        case Delete(key_id):
            return f"delete {short(key_id)}"


def _keys(s: Snapshot) -> list[KeyStatus]:
    found = []
    ours = {pair.key_id: pair for pair in s.custody.pairs}
    current = next((p for p in reversed(s.custody.pairs) if _delivered(p)), None)
    for key in s.keys:
        pair = ours.get(key.id)
        if key.id in s.custody.gone or (pair and pair.deleted):
            continue  # a stale listing of a key that we deleted
        found.append(
            KeyStatus(
                key=short(key.id),
                state=_state(pair, current, s.target),
                active=key.active,
                created=key.created,
                last_used=key.last_used,
                verified=pair.verified if pair else None,
                current_since=pair.current if pair else None,
                deactivated=pair.deactivated if pair else None,
            )
        )
    return found


def _delivered(pair: Pair) -> bool:
    """Whether every sink has had it. One that lost it since does not make an older pair current."""
    arrived = pair.arrived is not None and pair.arrived >= pair.born  # not before a rollback to it
    return pair.given_up is None and (pair.current is not None or arrived)


def _state(pair: Pair | None, current: Pair | None, target: Pair | None) -> str:
    if pair is None:
        return "foreign"
    if pair.orphan:
        return "orphan"
    if pair == current:
        return "current"
    return "pending" if pair == target else "superseded"
