"""What Prometheus is told: counters of what happened, and gauges read off the last look.

Instants are Unix timestamps, never ages, so that a rule can say `time() - …`. A label holds an
identity, a sink's name, a reason or an AWS error code, and never a key id.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from platform import python_version

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    Info,
    Metric,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from rekeyd import holds
from rekeyd.view import STATES, Status

STEPS = ("look", "record", "mint", "verify", "deliver", "activate", "deactivate", "delete")
"""What can be done, or fail: `look` is the look at IAM and the sinks before each step."""

OUTCOMES = ("done", "retry", "refused")

REASONS = (
    *holds.REASONS,
    "clock",
    "credentials",
    "exists",
    "limit",
    "missing",
    "permission",
    "request",
    "state",
    "unsupported",
    "wrong_user",
)
"""Why rekeyd can be on hold. Each has a series that is 0 or 1, so that an alert sees it end."""

MOST_CODES = 200
"""How many error codes get series of their own: IAM, STS, S3 and the sinks' services have fewer."""

STEP_BUCKETS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
AWS_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

_CODE = re.compile(r"[A-Za-z0-9.]{1,64}")


class Metrics:
    """The program's counters, and the registry that `/metrics` shows. Safe to use from threads."""

    def __init__(self, version: str) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._codes: set[str] = set()
        self._watched: set[str] = set()
        self._rotations = Counter(
            "rekeyd_rotations",
            "Rotations by how they went: delivered to every sink, or failed, once for each try.",
            ["identity", "outcome"],
            registry=self.registry,
        )
        self._steps = Counter(
            "rekeyd_steps",
            "Steps taken: done, to be tried again (retry), or refused until a person acts.",
            ["identity", "step", "outcome"],
            registry=self.registry,
        )
        self._step_seconds = Histogram(
            "rekeyd_step_duration_seconds",
            "How long the steps that were done took.",
            ["step"],
            buckets=STEP_BUCKETS,
            registry=self.registry,
        )
        self._requests = Counter(
            "rekeyd_aws_requests",
            "Calls to AWS, by the error code that ended them, or OK.",
            ["service", "operation", "code"],
            registry=self.registry,
        )
        self._request_seconds = Histogram(
            "rekeyd_aws_request_duration_seconds",
            "How long calls to AWS took, retries of theirs included.",
            ["service", "operation", "code"],
            buckets=AWS_BUCKETS,
            registry=self.registry,
        )
        self._reloaded = Gauge(
            "rekeyd_config_last_reload_successful",
            "Whether the configuration was accepted when it was last read.",
            registry=self.registry,
        )
        self._reloaded_at = Gauge(
            "rekeyd_config_last_reload_success_timestamp_seconds",
            "When the configuration was last read and accepted.",
            registry=self.registry,
        )
        build = Info(
            "rekeyd_build", "The version of rekeyd and of its Python.", registry=self.registry
        )
        build.info({"version": version, "python": python_version()})

    def show(self, statuses: Callable[[], Sequence[Status]]) -> None:
        """Add the gauges of how each identity stands, read afresh at every scrape."""
        self.registry.register(StatusCollector(statuses))

    def watch(self, identities: Iterable[str]) -> None:
        """Count for these identities from 0, and drop the series of every other one.

        A counter that appears with its first event is born at 1: `increase()` misses that one.
        """
        wanted = set(identities)
        for identity in self._watched - wanted:
            self._rotations.remove_by_labels({"identity": identity})
            self._steps.remove_by_labels({"identity": identity})
        for identity in wanted:
            for outcome in ("delivered", "failed"):
                self._rotations.labels(identity, outcome)
            for step in STEPS:
                for outcome in OUTCOMES:
                    self._steps.labels(identity, step, outcome)
        self._watched = wanted

    def rotation(self, identity: str, outcome: str) -> None:
        """Count a rotation that was `delivered` to every sink, or one that `failed` for now."""
        self._rotations.labels(identity, outcome).inc()

    def step(self, identity: str, step: str, outcome: str, seconds: float) -> None:
        """Count a step that was `done`, and the seconds it took, or one that was not."""
        self._steps.labels(identity, step, outcome).inc()
        if outcome == "done":
            self._step_seconds.labels(step).observe(seconds)

    def aws_request(self, service: str, operation: str, code: str, seconds: float) -> None:
        """Count a call to AWS by its error code, or `OK`, and the seconds until its answer."""
        labels = (service, operation, self._bounded(code))
        self._requests.labels(*labels).inc()
        self._request_seconds.labels(*labels).observe(seconds)

    def reloaded(self, ok: bool, at: datetime) -> None:
        """Tell whether the configuration read at this instant was accepted."""
        self._reloaded.set(ok)
        if ok:
            self._reloaded_at.set(at.timestamp())

    def _bounded(self, code: str) -> str:
        """A code as a label. Whoever answers in AWS's place makes no series without end."""
        if code in self._codes:
            return code
        if len(self._codes) >= MOST_CODES or not _CODE.fullmatch(code):
            return "other"
        self._codes.add(code)
        return code


class StatusCollector(Collector):
    """Gauges over the last look at each identity: one that was removed has none."""

    def __init__(self, statuses: Callable[[], Sequence[Status]]) -> None:
        self._statuses = statuses

    def describe(self) -> list[Metric]:
        return list(_gauges([]))

    def collect(self) -> Iterator[Metric]:
        return _gauges(self._statuses())


def _gauges(statuses: Sequence[Status]) -> Iterator[Metric]:
    yield _instants(
        "rekeyd_key_created_timestamp_seconds",
        "When the current key was made.",
        statuses,
        lambda status: status.current.created if status.current else None,
    )
    yield _instants(
        "rekeyd_next_rotation_timestamp_seconds",
        "When the next rotation is due.",
        statuses,
        lambda status: status.next_rotation,
    )
    yield _instants(
        "rekeyd_last_rotation_timestamp_seconds",
        "When a new pair last reached every sink.",
        statuses,
        lambda status: status.last_rotation,
    )
    yield _instants(
        "rekeyd_superseded_key_last_used_timestamp_seconds",
        "When a replaced key last signed a request, as far as IAM tells, which lags by hours.",
        statuses,
        lambda status: status.superseded_last_used,
    )
    yield _keys(statuses)
    yield _held(statuses)
    yield _sinks(statuses)


def _instants(
    name: str,
    documentation: str,
    statuses: Sequence[Status],
    instant: Callable[[Status], datetime | None],
) -> Metric:
    gauge = GaugeMetricFamily(name, documentation, labels=["identity"])
    for status in statuses:
        if at := instant(status):
            gauge.add_metric([status.identity], at.timestamp())
    return gauge


def _keys(statuses: Sequence[Status]) -> Metric:
    gauge = GaugeMetricFamily(
        "rekeyd_keys", "Keys that IAM lists, by their state.", labels=["identity", "state"]
    )
    for status in statuses:
        for state in STATES:
            gauge.add_metric([status.identity, state], status.count(state))
    return gauge


def _held(statuses: Sequence[Status]) -> Metric:
    gauge = GaugeMetricFamily(
        "rekeyd_held",
        "Whether rekeyd waits for a person, and why.",
        labels=["identity", "reason"],
    )
    for status in statuses:
        held = {status.hold.reason} if status.hold else set()
        for reason in sorted({*REASONS} | held):
            gauge.add_metric([status.identity, reason], reason in held)
    return gauge


def _sinks(statuses: Sequence[Status]) -> Metric:
    gauge = GaugeMetricFamily(
        "rekeyd_sink_current",
        "Whether a sink holds the newest pair.",
        labels=["identity", "sink"],
    )
    for status in statuses:
        for sink in status.sinks:
            gauge.add_metric([status.identity, sink.name], sink.current)
    return gauge
