"""How long the loop waits: the rest of it is shown in the world of tests/world."""

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from rekeyd import observe, reconcile
from rekeyd.errors import Propagating, Transient
from rekeyd.model import Snapshot
from rekeyd.observe import STALE
from rekeyd.ports import Request
from rekeyd.reconcile import LONGEST, SHORTEST, WATCH, Reconciler
from rekeyd.steps import Decision, Hold, Record, Rest

NOW = datetime(2026, 11, 1, 3, 0, tzinfo=UTC)
LOOK = Snapshot(now=NOW, user_id="AIDA1", taken=time.clock_gettime(time.CLOCK_BOOTTIME) + 3600)


class Alone:
    """A state whose one daemon always has the right to act."""

    def __init__(self, requests=lambda _: [], settle=None):
        self.requests = requests
        self.settle = settle
        self.claimed = []

    def claim(self, identity):
        self.claimed.append(identity)

    def release(self, identity):
        self.claimed.clear()


NOBODY_ASKS = Alone()
HOLD = Hold("root", "signs as root", "do not")


class Witness:
    def __getattr__(self, name):
        return lambda *_: None


@pytest.fixture
def loop(monkeypatch):
    """A reconciler whose looks and decisions a test writes down."""

    def make(*answers, stopping=lambda: False):
        left = iter(answers)

        def decide(*_):
            answer = next(left)
            if isinstance(answer, Exception):
                raise answer
            return Decision("rule", answer)

        monkeypatch.setattr(reconcile, "look", lambda _: LOOK)
        monkeypatch.setattr(reconcile, "plan", decide)
        monkeypatch.setattr(reconcile, "perform", lambda *_: None)
        who = SimpleNamespace(name="backup_user", timing=None, store=NOBODY_ASKS)
        return Reconciler(who, Witness(), stopping)

    return make


def test_it_sleeps_until_a_rule_could_match_and_watches_the_sinks_meanwhile(loop):
    one = loop(Rest(NOW + timedelta(seconds=7)), Rest(NOW + timedelta(days=7)))

    assert [one.advance(), one.advance()] == [7.0, WATCH]


def test_two_rotations_in_one_second_of_iam_are_both_told(loop, monkeypatch):
    told = []
    monkeypatch.setattr(Witness, "rotated", lambda _, name: told.append(name), raising=False)
    at_once = replace(LOOK.custody, rotated=NOW)  # IAM's clock tells whole seconds
    monkeypatch.setattr(reconcile, "look", lambda _: replace(LOOK, custody=at_once))
    again, other = Record("again", at_once, rotated=True), Record("a fact", at_once)
    loop(again, other, again, Rest(NOW)).advance()

    assert told == ["backup_user"] * 2


def test_waits_grow_with_each_failure_up_to_a_quarter_of_an_hour(loop):
    one = loop(*[Transient("no network")] * 12)

    waits = [one.advance() for _ in range(12)]

    assert waits[:4] == [1, 2, 4, 8]
    assert waits[-2:] == [LONGEST, LONGEST]


def test_waits_are_bounded_however_long_a_failure_lasts(loop):
    one = loop(*[Transient("no network")] * 1100, HOLD)

    assert [one.advance() for _ in range(1101)][-3:] == [LONGEST] * 3


def test_the_right_to_act_is_taken_for_a_turn_and_given_back(loop):
    one = loop(Rest(NOW + timedelta(seconds=7)))
    one.who.store = store = Alone()
    store.release = lambda identity: store.claimed.append(f"not {identity}")

    one.advance()

    assert store.claimed == ["backup_user", "not backup_user"]


def test_a_person_in_a_hurry_and_a_success_make_the_wait_short_again(loop):
    trouble = Transient("no network")
    one = loop(trouble, trouble, trouble, Record("a fact", LOOK.custody), trouble)

    assert [one.advance(), one.advance()] == [1, 2]
    one.hurry()
    assert [one.advance(), one.advance()] == [1, 1]


def test_a_hold_is_looked_at_again_by_itself(loop):
    one = loop(HOLD, HOLD)

    assert [one.advance(), one.advance()] == [15, 30]


def test_a_key_that_is_not_known_everywhere_yet_is_tried_again_soon(loop):
    one = loop(*[Propagating("not yet")] * 30)

    waits = [one.advance() for _ in range(30)]

    assert waits[:3] == [1.0, 1.25, 1.5]
    assert max(waits) == 5.0


def test_nothing_is_begun_once_it_shall_stop(loop):
    assert loop(stopping=lambda: True).advance() == LONGEST


def test_people_who_ask_without_pause_do_not_keep_it_from_its_work(loop, monkeypatch):
    looks = iter(range(10))
    one = loop(Rest(NOW + timedelta(seconds=7)), stopping=lambda: next(looks, None) is None)
    monkeypatch.setattr(reconcile, "grant", lambda *_: None)
    asked = [(1, Request("rotate"))]
    one.who.store = Alone(requests=lambda _: asked, settle=lambda *_: None)

    assert one.advance() == 7.0


def test_its_bounds_are_those_that_the_documentation_tells():
    assert (WATCH, STALE, SHORTEST, LONGEST) == (300, 60, 1, 900)


def test_a_request_is_granted_before_anything_is_planned(loop, monkeypatch):
    granted = []
    one = loop(Rest(NOW + timedelta(seconds=7)))
    monkeypatch.setattr(reconcile, "grant", lambda *_: LOOK.custody)
    left = [(1, Request("rotate"))]
    one.who.store = Alone(
        requests=lambda _: left[:],
        settle=lambda _, numbers, custody: granted.append((numbers, custody, left.pop())),
    )

    assert one.advance() == 7.0
    assert granted == [([1], LOOK.custody, (1, Request("rotate")))]


def test_coming_to_rest_makes_the_next_wait_short_again(loop):
    trouble = Transient("no network")
    one = loop(trouble, trouble, Rest(NOW + timedelta(seconds=7)), trouble)

    assert [one.advance() for _ in range(4)] == [1, 2, 7, 1]


def test_a_look_that_is_a_minute_old_justifies_no_step_and_is_told(loop, monkeypatch):
    monkeypatch.setattr(observe.time, "clock_gettime", lambda _: LOOK.taken + next(ages))
    ages, done, told = iter([60.0, 60.0, 59.0]), [], []
    one = loop(*[Record(what, LOOK.custody) for what in ("late", "late", "soon")], Rest(NOW))
    monkeypatch.setattr(reconcile, "perform", lambda *given: done.append(given[2].what))
    monkeypatch.setattr(Witness, "failed", lambda *given: told.append(given[3]), raising=False)

    assert [one.advance(), one.advance()] == [1, 2]
    one.advance()

    assert done == ["soon"]
    assert "IAM was asked 60 s ago" in str(told[0])


def test_the_witness_is_told_what_was_seen_done_refused_and_granted(loop, monkeypatch):
    told = []

    class Everything:
        def __getattr__(self, name):
            return lambda *given: told.append((name, given[1:]))

    trouble = Transient("no network")
    one = loop(Record("a fact", LOOK.custody), trouble)
    one._witness = Everything()
    times = iter([100.0, 107.0])
    monkeypatch.setattr(reconcile.time, "monotonic", lambda: next(times))
    one.advance()

    assert [name for name, _ in told] == ["saw", "did", "failed"]
    assert told[0][1][0] is LOOK
    assert told[1][1][1:] == ("a fact", 7.0)
    assert told[2][1] == ("look", trouble, 1.0)
