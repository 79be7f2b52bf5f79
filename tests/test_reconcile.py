"""How long the loop waits: the rest of it is shown in the world of tests/world."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from rekeyd import reconcile
from rekeyd.errors import Propagating, Transient
from rekeyd.model import Request, Snapshot
from rekeyd.reconcile import LONGEST, WATCH, Reconciler
from rekeyd.steps import Decision, Hold, Record, Rest

NOW = datetime(2026, 11, 1, 3, 0, tzinfo=UTC)
LOOK = Snapshot(now=NOW, user_id="AIDA1")
NOBODY_ASKS = SimpleNamespace(requests=lambda _: [])
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


def test_waits_grow_with_each_failure_up_to_a_quarter_of_an_hour(loop):
    one = loop(*[Transient("no network")] * 12)

    waits = [one.advance() for _ in range(12)]

    assert waits[:4] == [1, 2, 4, 8]
    assert waits[-2:] == [LONGEST, LONGEST]


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
    one.who.store = SimpleNamespace(requests=lambda _: asked, settle=lambda *_: None)

    assert one.advance() == 7.0
