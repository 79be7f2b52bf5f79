"""The loop in the world: that it goes on, stops, hears people, and acts on no look that is old."""

from datetime import timedelta

import pytest

from rekeyd.reconcile import Reconciler
from rekeyd.steps import Hold
from world import HOUR, MINUTE, World, every
from world.faults import Fault


@pytest.fixture
def world() -> World:
    return World()


def advance(world: World) -> float:
    with world.clock():
        return Reconciler(world.identity, world.diary, lambda: False).advance()


def test_it_goes_on_until_nothing_is_due(world: World) -> None:
    advance(world)

    assert world.diary.rotations == 1
    assert world.backup("file")


def test_it_stops_between_two_steps(world: World) -> None:
    turns = iter([False, True])
    with world.clock():
        Reconciler(world.identity, world.diary, lambda: next(turns)).advance()

    assert world.calls.count("iam.list_keys") == 1


def test_a_look_that_is_old_justifies_no_step(world: World) -> None:
    """The process was stopped, or the machine slept, between the look and the step."""
    advance(world)
    world.pass_time(25 * HOUR)
    asleep = iter([HOUR])

    def sleep(number: int, call: str) -> Fault | None:
        if call == "sink.read":
            world.pass_time(next(asleep, timedelta()))
        return None

    world.faults = sleep
    world.calls.clear()
    advance(world)

    looks = [n for n, call in enumerate(world.calls) if call == "iam.list_keys"]
    assert "store.save" not in world.calls[: looks[1]]


def each_takes(world: World, slow: str, duration: timedelta) -> None:
    def pass_time(number: int, call: str) -> Fault | None:
        if call == slow:
            world.pass_time(duration)
        return None

    world.faults = pass_time


def test_a_slow_sink_keeps_nobody_from_a_step(world: World) -> None:
    each_takes(world, "sink.read", 5 * MINUTE)

    advance(world)

    assert world.diary.rotations == 1


def test_a_look_is_not_repeated_for_ever_where_iam_is_slow(world: World) -> None:
    each_takes(world, "iam.user_id", MINUTE)

    assert advance(world) == 1
    assert "IAM was asked 6" in str(world.diary.error)
    assert "store.save" not in world.calls


def test_a_sink_that_is_named_again_is_given_the_pair_whatever_it_holds() -> None:
    world = World(sinks={"file": True, "box": False})
    world.run(HOUR)
    (key,) = world.truth.active
    world.configure(box=None)
    world.run(HOUR)
    former = world.truth.unnamed["box"]
    world.truth = world.truth._replace(unnamed={"box": former._replace(pair=None)})
    world.configure(box=False)
    world.run(HOUR)

    assert world.truth.sinks["box"].pair.key_id == key.id


def test_an_older_pair_that_is_put_back_again_and_again_is_a_hold_until_it_is_left_alone() -> None:
    day = 24 * HOUR
    world = World(timing=every(7 * day, overlap=day, grace=day))
    world.run(HOUR)
    (old,) = world.truth.active
    world.ask("rotate")
    world.run(HOUR)
    for _ in range(8 * 8):
        world.person_writes("file", old.id)
        world.run(3 * HOUR, watch=HOUR)

    step = world.diary.decision.step
    assert isinstance(step, Hold)
    assert step.reason == "put_back"

    world.run(5 * day)
    assert world.diary.rotations == 3
    assert world.l1() is None


def test_what_a_person_asks_for_is_taken_into_custody_once(world: World) -> None:
    advance(world)
    world.pass_time(MINUTE)
    world.ask("rotate")
    advance(world)

    assert world.truth.requests == ()
    assert world.diary.rotations == 2


def test_what_cannot_be_granted_is_refused_and_crossed_off(world: World) -> None:
    world.ask("rollback")
    advance(world)

    assert world.truth.requests == ()
    assert [type(error).__name__ for error in world.diary.refusals] == ["Permanent"]
