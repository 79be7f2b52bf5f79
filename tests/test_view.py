"""How an identity is said to stand, after one look."""

from typing import Any

import pytest

from rekeyd.model import Pair, Snapshot
from rekeyd.rules import plan
from rekeyd.secret import short
from rekeyd.view import describe
from test_rules import (
    DAY,
    FOREIGN,
    HOUR,
    NEW,
    NOW,
    OLD,
    TIMING,
    ago,
    fresh,
    key,
    look,
    orphan,
    pair,
)


def states(seen: Snapshot) -> dict[str, str]:
    told = describe("backup_user", seen, plan(seen, TIMING), TIMING)
    return {status.key: status.state for status in told.keys}


def two(*pairs: Pair) -> Snapshot:
    return look(key(OLD, DAY), key(NEW, HOUR), pairs=pairs, holds=NEW)


@pytest.mark.parametrize(
    ("newer", "state"),
    [
        ({}, "current"),
        ({"arrived": ago(HOUR), "current": None}, "current"),  # a sink lost it, and is mended
        ({"current": None}, "pending"),  # on its way to the sinks for the first time
    ],
)
def test_the_newest_pair_that_every_sink_has_had_is_current(
    newer: dict[str, Any], state: str
) -> None:
    older = "superseded" if state == "current" else "current"
    told = states(two(pair(OLD, DAY), pair(NEW, HOUR, **newer)))
    assert told == {short(OLD): older, short(NEW): state}


def test_a_pair_that_was_gone_back_to_is_pending_until_the_sinks_have_it_again() -> None:
    again: dict[str, Any] = {"arrived": ago(DAY), "current": None, "restored": NOW}
    told = states(two(pair(OLD, DAY, **again), pair(NEW, HOUR, given_up=NOW)))
    assert told == {short(OLD): "pending", short(NEW): "superseded"}


def test_keys_without_a_secret_and_keys_of_others_are_told_apart() -> None:
    seen = look(key(OLD, DAY), key(FOREIGN, HOUR), pairs=(orphan(OLD, DAY),))
    assert states(seen) == {short(OLD): "orphan", short(FOREIGN): "foreign"}


def test_the_first_pair_is_pending_until_it_is_delivered() -> None:
    seen = look(key(NEW, HOUR), pairs=(fresh(NEW, HOUR),))
    assert states(seen) == {short(NEW): "pending"}
