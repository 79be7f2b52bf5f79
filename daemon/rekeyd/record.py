"""Tells what happens: one event a step, into the log, the metrics, the history and the status."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from rekeyd.errors import Elsewhere, Propagating, RekeydError, Transient
from rekeyd.model import Custody, Snapshot
from rekeyd.ports import Event, Identity
from rekeyd.rules import due, plan
from rekeyd.state import State
from rekeyd.steps import Decision, Hold, Record, Rest, Step
from rekeyd.view import STAGES, Status, describe

ROTATION = {"mint", "verify", "deliver"}
"""The rules whose failure means that a rotation does not get on."""


class Counters(Protocol):
    """What is counted: `rekeyd.metrics.Metrics` where somebody can scrape it."""

    def rotation(self, identity: str, outcome: str) -> None: ...
    def step(self, identity: str, step: str, outcome: str, seconds: float) -> None: ...


class Log(Protocol):
    """Where the events go: a structlog logger where there is a log."""

    def info(self, event: str, **fields: Any) -> Any: ...
    def warning(self, event: str, **fields: Any) -> Any: ...


class Nobody:
    """For a command, which nobody scrapes and whose events are shown as they happen."""

    def rotation(self, identity: str, outcome: str) -> None: ...
    def step(self, identity: str, step: str, outcome: str, seconds: float) -> None: ...
    def info(self, event: str, **fields: Any) -> None: ...
    def warning(self, event: str, **fields: Any) -> None: ...


class Recorder:
    """The `Witness` of every reconciler."""

    def __init__(
        self,
        store: State,
        metrics: Counters | None = None,
        log: Log | None = None,
        tell: Callable[[Event], None] = lambda _: None,
    ) -> None:
        self._store = store
        self._metrics = metrics or Nobody()
        self._tell = tell
        self._log = log or Nobody()
        self.statuses: dict[str, Status] = store.published()
        self._seen: dict[str, tuple[Identity, Snapshot, Decision]] = {}
        self._failing: dict[str, tuple[str, ...]] = {}
        self._held: dict[str, Hold] = {}
        self.progress: Callable[[str], None] = lambda _: None

    def stands(self) -> dict[str, Status]:
        """Return how each identity stands, whichever replica looked at it last."""
        if self._store.shared:
            with suppress(RekeydError):
                self.statuses.update(self._store.published())
        return self.statuses

    def keep(self, names: set[str]) -> None:
        """Forget the identities that are not in the configuration any more."""
        for name in self.statuses.keys() - names:
            del self.statuses[name]

    def saw(self, who: Identity, snapshot: Snapshot, decision: Decision) -> None:
        status = describe(who.name, snapshot, decision, who.timing)
        before = self.stands().get(who.name)
        wanted = due(snapshot, who.timing)
        if before and wanted:
            status = _or_failing(status, before, decision.step)
        self._seen[who.name] = who, snapshot, decision
        if isinstance(decision.step, Rest | Hold):
            self._failing.pop(who.name, None)
        if isinstance(decision.step, Rest):
            self._hold_is_over(who.name, decision)
        self._publish(status)
        rests = isinstance(decision.step, Rest) and not wanted
        self._tell(_event(who.name, decision.rule, "rest" if rests else "look", "done"))
        if status.hold and (before is None or before.hold != status.hold):
            self._event(who.name, decision.rule, "hold", "refused", status.hold.what)
            self._log.warning("hold", identity=who.name, rule=decision.rule, **_told(status.hold))
        if status.hold:
            self._held[who.name] = status.hold

    def did(self, identity: str, decision: Decision, detail: str, seconds: float) -> None:
        step = _name(decision)
        self._failing.pop(identity, None)
        self._metrics.step(identity, step, "done", seconds)
        self._follow_rotation(identity, decision, detail)
        self._event(identity, decision.rule, step, "done", detail)
        took = round(seconds, 3)
        self._log.info(step, identity=identity, rule=decision.rule, detail=detail, seconds=took)
        if isinstance(decision.step, Record):
            self._see_again(identity, decision.step.custody)
        else:
            self._hold_is_over(identity, decision)

    def _hold_is_over(self, identity: str, decision: Decision) -> None:
        """Tell it once rekeyd goes on: a look alone does not show that what failed succeeds."""
        if hold := self._held.pop(identity, None):
            self._event(identity, decision.rule, "hold", "done", f"over: {hold.what}")
            self._log.info("hold over", identity=identity, reason=hold.reason, what=hold.what)

    def _follow_rotation(self, identity: str, decision: Decision, detail: str) -> None:
        """Note of a step that was done that a rotation failed by it, or does not fail any more."""
        status = self.statuses.get(identity)
        if isinstance(decision.step, Record):
            if decision.rule == "verify":
                self._metrics.rotation(identity, "failed")
                if status:
                    self._publish(replace(status, stage="failing", failing=detail))
        elif status and status.failing and status.rule == decision.rule:
            stage = STAGES[type(decision.step)]
            self._publish(replace(status, stage=stage, failing=None, retry_at=None))

    def _see_again(self, identity: str, custody: Custody) -> None:
        """Show the last look with what was recorded since: a command may end here."""
        who, snapshot, _ = self._seen[identity]
        known = replace(snapshot, custody=custody)
        self.saw(who, known, plan(known, who.timing))

    def failed(self, identity: str, rule: str, error: RekeydError, retry: float) -> None:
        if isinstance(error, Elsewhere):  # the other one tells what happens
            self.statuses.pop(identity, None)
            self.progress(identity)
            return
        outcome = "retry" if isinstance(error, Transient) else "refused"
        *_, decided = self._seen.get(identity, (None,))
        step = _name(decided) if decided and decided.rule == rule else rule
        self._metrics.step(identity, step, outcome, 0.0)
        if rule in ROTATION and not isinstance(error, Propagating):
            self._metrics.rotation(identity, "failed")
        failing = (rule, step, outcome, str(error))
        self._event(identity, *failing, again=self._failing.get(identity) == failing)
        self._failing[identity] = failing
        level = self._log.info if isinstance(error, Propagating) else self._log.warning
        level(outcome, identity=identity, rule=rule, error=str(error), do=error.do, again_in=retry)
        now = datetime.now(UTC)
        before = self.statuses.get(identity) or Status(
            identity=identity, at=now, stage="failing", rule=rule, message=str(error)
        )
        reason = getattr(error, "reason", None)
        hold = Hold(reason, str(error), error.do) if reason else None
        if hold:
            self._held[identity] = hold
        retry_at = now + timedelta(seconds=retry)
        stage = "on hold" if hold else "failing"
        if isinstance(error, Propagating):
            stage = before.stage
        self._publish(
            replace(
                before,
                stage=stage,
                rule=rule,
                hold=hold,
                failing=error.in_full,
                retry_at=retry_at,
            )
        )

    def rotated(self, identity: str) -> None:
        self._metrics.rotation(identity, "delivered")
        self._event(identity, "deliver", "rotated", "done", "a new pair has reached every sink")
        self._log.info("rotated", identity=identity)

    def granted(self, identity: str, kind: str, refusal: RekeydError | None) -> None:
        detail = refusal.in_full if refusal else f"{kind} was asked for"
        self._event(identity, "request", kind, "refused" if refusal else "done", detail)
        self._log.info("request", identity=identity, kind=kind, refused=refusal and str(refusal))

    def _publish(self, status: Status) -> None:
        self.statuses[status.identity] = status
        self.progress(status.identity)
        self._store.publish(status)

    def _event(self, identity: str, *told: str, again: bool = False) -> None:
        """Tell an event, and write it into the history unless it only happens again."""
        event = _event(identity, *told)
        if not again:
            self._store.log(event)
        self._tell(event)


def _event(identity: str, *told: str) -> Event:
    return Event(datetime.now(UTC), identity, *told)


def _or_failing(status: Status, before: Status, step: Step) -> Status:
    """Say of a rotation that failed and is still due that it fails, whatever is done meanwhile."""
    if status.hold or before.stage != "failing" or before.rule not in ROTATION:
        return status
    again = step.until if isinstance(step, Rest) else status.at
    return replace(
        status, stage="failing", rule=before.rule, failing=before.failing, retry_at=again
    )


def _name(decision: Decision) -> str:
    return type(decision.step).__name__.lower()


def _told(hold: Hold) -> dict[str, str]:
    return {"reason": hold.reason, "what": hold.what, "do": hold.do}
