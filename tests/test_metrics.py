"""What Prometheus is told: names, zeros from the start, and nothing that should not be there."""

import ast
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client import generate_latest

import rekeyd
from rekeyd.metrics import MOST_CODES, OUTCOMES, REASONS, STEPS, Metrics
from rekeyd.steps import Hold
from rekeyd.view import STATES, KeyStatus, SinkStatus, Status

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def key(state: str, created: datetime, last_used: datetime | None = None) -> KeyStatus:
    return KeyStatus("…ABCD", state, True, created, last_used, None, None, None)


def status(identity: str = "backup_user", **changes: object) -> Status:
    plain = {"at": NOW, "stage": "resting", "rule": "rest", "message": ""}
    return Status(identity=identity, **(plain | changes))


@pytest.fixture
def metrics() -> Metrics:
    made = Metrics("1.2.3")
    made.watch(["backup_user"])
    return made


def shown(metrics: Metrics, *statuses: Status) -> Metrics:
    metrics.show(lambda: statuses)
    return metrics


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"rekeyd_{name}", labels)


def test_every_counter_of_an_identity_is_zero_before_its_first_event(metrics: Metrics) -> None:
    for outcome in ("delivered", "failed"):
        assert value(metrics, "rotations_total", identity="backup_user", outcome=outcome) == 0
    for step in STEPS:
        for outcome in OUTCOMES:
            labels = {"identity": "backup_user", "step": step, "outcome": outcome}
            assert value(metrics, "steps_total", **labels) == 0


def test_rotations_are_counted(metrics: Metrics) -> None:
    metrics.rotation("backup_user", "delivered")
    metrics.rotation("backup_user", "delivered")
    metrics.rotation("backup_user", "failed")
    assert value(metrics, "rotations_total", identity="backup_user", outcome="delivered") == 2
    assert value(metrics, "rotations_total", identity="backup_user", outcome="failed") == 1


def test_only_a_step_that_was_done_has_a_duration(metrics: Metrics) -> None:
    metrics.step("backup_user", "mint", "retry", 0.0)
    metrics.step("backup_user", "mint", "done", 0.3)
    assert value(metrics, "steps_total", identity="backup_user", step="mint", outcome="retry") == 1
    assert value(metrics, "step_duration_seconds_count", step="mint") == 1
    assert value(metrics, "step_duration_seconds_sum", step="mint") == pytest.approx(0.3)


def test_an_identity_that_was_removed_vanishes_and_the_others_stay(metrics: Metrics) -> None:
    metrics.watch(["backup_user", "media"])
    metrics.rotation("media", "delivered")
    metrics.watch(["media"])
    text = generate_latest(metrics.registry).decode()
    assert "backup_user" not in text
    assert value(metrics, "rotations_total", identity="media", outcome="delivered") == 1


def test_calls_to_aws_are_counted_by_their_code(metrics: Metrics) -> None:
    metrics.aws_request("iam", "CreateAccessKey", "OK", 0.2)
    metrics.aws_request("iam", "CreateAccessKey", "Throttling", 0.1)
    labels = {"service": "iam", "operation": "CreateAccessKey", "code": "Throttling"}
    assert value(metrics, "aws_requests_total", **labels) == 1
    assert value(metrics, "aws_request_duration_seconds_count", **labels) == 1


@pytest.mark.parametrize("code", ["", "x" * 65, "two words", 'quoted"', "ключ"])
def test_a_code_that_is_none_of_aws_is_called_other(metrics: Metrics, code: str) -> None:
    metrics.aws_request("iam", "ListAccessKeys", code, 0.1)
    labels = {"service": "iam", "operation": "ListAccessKeys", "code": "other"}
    assert value(metrics, "aws_requests_total", **labels) == 1


def test_an_endpoint_that_invents_codes_makes_no_series_without_end(metrics: Metrics) -> None:
    for number in range(MOST_CODES + 50):
        metrics.aws_request("s3", "PutObject", f"Code{number}", 0.1)
    labels = {"service": "s3", "operation": "PutObject"}
    assert value(metrics, "aws_requests_total", code="other", **labels) == 50
    metrics.aws_request("s3", "PutObject", "Code0", 0.1)
    assert value(metrics, "aws_requests_total", code="Code0", **labels) == 2


def test_a_refused_configuration_leaves_the_instant_of_the_last_good_one(metrics: Metrics) -> None:
    metrics.reloaded(ok=True, at=NOW)
    metrics.reloaded(ok=False, at=NOW + DAY)
    assert value(metrics, "config_last_reload_successful") == 0
    at = value(metrics, "config_last_reload_success_timestamp_seconds")
    assert at == NOW.timestamp()


def test_it_says_which_version_it_is(metrics: Metrics) -> None:
    assert 'rekeyd_build_info{python="' in generate_latest(metrics.registry).decode()
    assert 'version="1.2.3"' in generate_latest(metrics.registry).decode()


def test_instants_are_told_as_timestamps(metrics: Metrics) -> None:
    old, new = key("superseded", NOW - 30 * DAY, NOW - DAY), key("current", NOW - 2 * DAY)
    standing = status(keys=(old, new), next_rotation=NOW + 28 * DAY, last_rotation=NOW - 2 * DAY)
    shown(metrics, standing)
    told = {
        name: value(metrics, f"{name}_timestamp_seconds", identity="backup_user")
        for name in (
            "key_created",
            "next_rotation",
            "last_rotation",
            "superseded_key_last_used",
        )
    }
    assert told == {
        "key_created": (NOW - 2 * DAY).timestamp(),
        "next_rotation": (NOW + 28 * DAY).timestamp(),
        "last_rotation": (NOW - 2 * DAY).timestamp(),
        "superseded_key_last_used": (NOW - DAY).timestamp(),
    }


def test_an_instant_that_is_not_known_has_no_series(metrics: Metrics) -> None:
    shown(metrics, status())
    for name in ("key_created", "next_rotation", "last_rotation", "superseded_key_last_used"):
        assert value(metrics, f"{name}_timestamp_seconds", identity="backup_user") is None


def test_keys_are_counted_by_state(metrics: Metrics) -> None:
    shown(metrics, status(keys=(key("current", NOW), key("foreign", NOW))))
    counted = {s: value(metrics, "keys", identity="backup_user", state=s) for s in STATES}
    assert counted == dict.fromkeys(STATES, 0) | {"current": 1, "foreign": 1}


def test_a_hold_is_one_at_its_reason_and_zero_at_all_others(metrics: Metrics) -> None:
    shown(metrics, status(hold=Hold("in_use", "", "")), status("media"))
    held = {r: value(metrics, "held", identity="backup_user", reason=r) for r in REASONS}
    assert held == dict.fromkeys(REASONS, 0) | {"in_use": 1}
    assert value(metrics, "held", identity="media", reason="in_use") == 0


def test_a_reason_that_a_third_party_invents_is_told_too(metrics: Metrics) -> None:
    shown(metrics, status(hold=Hold("moon", "", "")))
    assert value(metrics, "held", identity="backup_user", reason="moon") == 1


def test_every_reason_in_the_source_has_a_series_from_the_start() -> None:
    found = set()
    package = Path(rekeyd.__file__).parent
    for file in package.rglob("*.py"):
        if file.relative_to(package).parts[0] in {"provision.py", "notify"}:
            continue  # what they refuse holds no identity
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "reason":
                found |= {node.value.value} if isinstance(node.value, ast.Constant) else set()
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Hold":
                first = node.args[0] if node.args else None
                found |= {first.value} if isinstance(first, ast.Constant) else set()
    assert len(found) > 8
    assert found <= set(REASONS)


def test_a_sink_is_current_or_not(metrics: Metrics) -> None:
    shown(metrics, status(sinks=(SinkStatus("a", True, None), SinkStatus("b", False, "away"))))
    assert value(metrics, "sink_current", identity="backup_user", sink="a") == 1
    assert value(metrics, "sink_current", identity="backup_user", sink="b") == 0


def test_no_key_id_is_told_not_even_its_end(metrics: Metrics) -> None:
    shown(metrics, status(keys=(key("current", NOW),)))
    assert "ABCD" not in generate_latest(metrics.registry).decode()


def test_the_process_is_told_about_and_no_other_registry_is_touched(metrics: Metrics) -> None:
    text = generate_latest(metrics.registry).decode()
    assert "process_resident_memory_bytes" in text
    assert "python_gc_collections_total" in text
    Metrics("another in the same process")
