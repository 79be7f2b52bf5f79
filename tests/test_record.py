"""One event a step: in the log, the metrics, the history and the status, and never twice a hold."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
import structlog
from structlog.testing import capture_logs

from rekeyd.errors import Elsewhere, Permanent, Propagating, Refused, Transient
from rekeyd.metrics import Metrics
from rekeyd.model import Custody, Key, Pair, Snapshot, Timing
from rekeyd.record import Recorder
from rekeyd.secret import short
from rekeyd.steps import Decision, Hold, Mint, Record, Rest
from rekeyd.store import Store

NOW = datetime(2026, 11, 1, 3, 0, tzinfo=UTC)
DAY = timedelta(days=1)
WHO = SimpleNamespace(name="backup_user", timing=Timing(lambda at: at + DAY, DAY, DAY, DAY))
LOOK = Snapshot(now=NOW, user_id="AIDA1")
HELD = Decision("guard", Hold("root", "signs as root", "do not"))
RESTING = Decision("rest", Rest(NOW))


@pytest.fixture
def store(tmp_path):
    opened = Store(tmp_path / "state")
    yield opened
    opened.close()


@pytest.fixture
def metrics():
    return Metrics("test")


@pytest.fixture
def recorder(store, metrics):
    return Recorder(store, metrics, structlog.get_logger("rekeyd"))


def steps(store):
    return [(event.step, event.outcome) for _, event in store.history()]


def count(metrics, outcome):
    labels = {"identity": "backup_user", "outcome": outcome}
    return metrics.registry.get_sample_value("rekeyd_rotations_total", labels)


def test_a_hold_is_told_once_and_again_when_it_is_another(recorder, store):
    with capture_logs() as logs:
        recorder.saw(WHO, LOOK, HELD)
        recorder.saw(WHO, LOOK, HELD)
        recorder.saw(WHO, LOOK, RESTING)
        recorder.saw(WHO, LOOK, HELD)

    hold, over = ("hold", "root", "do not"), ("hold over", "root", None)
    assert [(log["event"], log["reason"], log.get("do")) for log in logs] == [hold, over, hold]
    assert steps(store) == [("hold", "refused"), ("hold", "done"), ("hold", "refused")]


def test_a_hold_is_over_when_the_step_that_was_refused_is_done(recorder, store):
    minting = Decision("mint", Mint(frozenset()))
    recorder.saw(WHO, LOOK, minting)
    recorder.failed("backup_user", "mint", Refused("no right", "grant it"), 60.0)
    recorder.saw(WHO, LOOK, minting)
    assert steps(store) == [("mint", "refused")]
    recorder.did("backup_user", minting, "made …KEY1", 0.1)

    assert steps(store)[1:] == [("mint", "done"), ("hold", "done")]
    assert [event.detail for _, event in store.history()][-1] == "over: no right"


def test_a_refusal_is_a_hold_until_the_next_look(recorder, store, metrics):
    recorder.saw(WHO, LOOK, RESTING)
    recorder.failed("backup_user", "mint", Refused("no right", "grant it"), 60.0)

    status = recorder.statuses["backup_user"]
    assert (status.stage, status.hold) == ("on hold", Hold("permission", "no right", "grant it"))
    assert status.failing == "no right; grant it"
    assert store.published()["backup_user"] == status
    assert count(metrics, "failed") == 1
    recorder.saw(WHO, LOOK, RESTING)
    assert recorder.statuses["backup_user"].hold is None


def test_what_passes_is_failing_and_no_hold(recorder, store):
    recorder.failed("backup_user", "look", Transient("no network"), 2.0)

    status = recorder.statuses["backup_user"]
    assert (status.stage, status.hold, status.failing) == ("failing", None, "no network")
    assert steps(store) == [("look", "retry")]


def test_a_key_that_is_not_known_everywhere_yet_is_no_failure(recorder, metrics):
    recorder.saw(WHO, LOOK, Decision("mint", Mint(frozenset())))
    with capture_logs() as logs:
        recorder.failed("backup_user", "verify", Propagating("not yet"), 1.0)

    assert logs[0]["log_level"] == "info"
    assert recorder.statuses["backup_user"].stage == "minting"
    assert count(metrics, "failed") is None


def test_what_fails_again_is_told_again_and_written_once_until_it_changes(recorder, store):
    told = []
    recorder._tell = told.append

    def fail(text):
        recorder.saw(WHO, LOOK, Decision("mint", Mint(frozenset())))
        recorder.failed("backup_user", "verify", Transient(text), 1.0)

    for text in ("no network", "no network", "another reason", "no network"):
        fail(text)
    recorder.saw(WHO, LOOK, RESTING)
    fail("no network")
    recorder.did("backup_user", Decision("mint", Mint(frozenset())), "made", 0.1)
    fail("no network")

    assert [event.detail for event in told if event.detail] == [
        *("no network", "no network", "another reason", "no network", "no network", "made"),
        "no network",
    ]
    assert [event.detail for _, event in store.history()] == [
        *("no network", "another reason", "no network", "no network", "made", "no network"),
    ]


PAIR = Pair(
    key_id="AKIA1", minted=NOW, sealed="sealed", fingerprint="print", verified=NOW, current=NOW
)
QUIET = replace(
    LOOK, keys=(Key("AKIA1", True, NOW),), custody=Custody(user_id="AIDA1", pairs=(PAIR,))
)
"""A pair that is new, and nothing else."""
MINTING = Decision("mint", Mint(frozenset()))
LATER = Decision("rest", Rest(NOW + DAY))
NOTED = Decision("close_a_crashed_mint", Record("a mint was interrupted", LOOK.custody))


def test_a_rotation_that_is_due_and_failed_is_failing_until_it_is_made(recorder, store):
    recorder.saw(WHO, LOOK, MINTING)
    recorder.failed("backup_user", "mint", Transient("the answer was lost"), 1.0)
    recorder.saw(WHO, LOOK, NOTED)
    recorder.did("backup_user", NOTED, "a mint was interrupted", 0.1)
    recorder.saw(WHO, LOOK, LATER)

    for status in (recorder.statuses["backup_user"], Recorder(store).statuses["backup_user"]):
        assert (status.stage, status.failing) == ("failing", "the answer was lost")
        assert (status.rule, status.retry_at) == ("mint", NOW + DAY)

    recorder.saw(WHO, LOOK, MINTING)
    recorder.did("backup_user", MINTING, "made", 0.1)
    recorder.saw(WHO, LOOK, LATER)  # one more was asked for, and has to wait
    assert recorder.statuses["backup_user"].stage == "resting"


def test_a_pair_that_never_worked_is_failing_until_another_one_is_made(recorder):
    given_up = Decision("verify", Record("never worked: giving it up", LOOK.custody))

    recorder.saw(WHO, LOOK, given_up)
    recorder.did("backup_user", given_up, "never worked: giving it up", 0.1)

    status = recorder.statuses["backup_user"]
    assert (status.stage, status.failing) == ("failing", "never worked: giving it up")


@pytest.mark.parametrize(("rule", "seen"), [("look", LOOK), ("mint", QUIET)])
def test_a_failure_is_over_when_a_look_works_or_nothing_is_due(recorder, rule, seen):
    recorder.saw(WHO, LOOK, MINTING)
    recorder.failed("backup_user", rule, Transient("no network"), 1.0)
    recorder.saw(WHO, seen, LATER)

    status = recorder.statuses["backup_user"]
    assert (status.stage, status.failing) == ("resting", None)


@pytest.mark.parametrize(
    ("seen", "decision", "told"), [(QUIET, LATER, "rest"), (LOOK, LATER, "look")]
)
def test_a_look_that_worked_is_told_and_not_written_down(recorder, store, seen, decision, told):
    heard = []
    recorder._tell = heard.append

    recorder.saw(WHO, seen, decision)

    assert [(event.step, event.outcome) for event in heard] == [(told, "done")]
    assert steps(store) == []


def test_what_another_replica_does_is_its_own_to_tell(recorder, store, metrics):
    recorder.saw(WHO, LOOK, RESTING)
    recorder.failed("backup_user", "look", Elsewhere("another replica is at work"), 1.0)

    assert recorder.statuses == {}
    assert steps(store) == []
    assert count(metrics, "failed") is None or count(metrics, "failed") == 0


def test_a_hold_that_another_replica_has_told_is_not_told_again(store, recorder, monkeypatch):
    monkeypatch.setattr(Store, "shared", True)
    recorder.saw(WHO, LOOK, HELD)

    another = Recorder(store)
    another.statuses.clear()
    another.saw(WHO, LOOK, HELD)

    assert steps(store) == [("hold", "refused")]
    assert another.stands()["backup_user"].hold == HELD.step


def test_a_new_pair_everywhere_is_a_rotation(recorder, store, metrics):
    recorder.rotated("backup_user")

    assert count(metrics, "delivered") == 1
    assert steps(store) == [("rotated", "done")]


def test_a_request_is_told_with_its_refusal(recorder, store):
    recorder.granted("backup_user", "rotate", None)
    recorder.granted("backup_user", "rollback", Permanent("no pair", "rotate"))

    assert steps(store) == [("rotate", "done"), ("rollback", "refused")]
    assert store.history()[-1][1].detail == "no pair; rotate"


def test_an_identity_that_was_taken_out_is_forgotten(recorder):
    recorder.saw(WHO, LOOK, RESTING)
    recorder.keep({"another"})

    assert recorder.statuses == {}


def test_what_was_recorded_is_shown_without_another_look(recorder, store):
    pair = Pair(key_id="AKIA1", minted=NOW, sealed="", verified=NOW)
    seen = replace(
        LOOK, keys=(Key("AKIA1", True, NOW),), custody=Custody(user_id="AIDA1", pairs=(pair,))
    )
    current = Custody(user_id="AIDA1", pairs=(replace(pair, current=NOW),))
    decision = Decision("deliver", Record("every sink holds …1", current))

    recorder.saw(WHO, seen, decision)
    assert store.published()["backup_user"].current is None
    recorder.did("backup_user", decision, "every sink holds …1", 0.1)

    assert store.published()["backup_user"].current.key == short("AKIA1")
