"""What each step does, call by call, where the order or the number of calls is the point."""

from dataclasses import replace

import pytest

from rekeyd.errors import Propagating, RekeydError, Transient
from rekeyd.observe import look
from rekeyd.perform import PROBES, perform
from rekeyd.ports import Listing
from rekeyd.rules import plan
from rekeyd.steps import Deactivate, Delete, Deliver, Mint, Rest, Step, Verify
from world import HOUR, MINUTE, Delays, World
from world.faults import Fault


def until(world: World, kind: type[Step]) -> Step:
    """Let the program work until its next step is of this kind, and return that step."""
    while True:
        seen = look(world.identity)
        step = plan(seen, world.timing).step
        world.calls.clear()
        if isinstance(step, kind):
            return step
        if isinstance(step, Rest):
            world.pass_time(step.until - world.truth.now)
        else:
            perform(world.identity, seen, step)


def do(world: World, step: Step) -> list[str]:
    """Do a step; return the calls that it took, after the look."""
    seen = look(world.identity)
    world.calls.clear()
    perform(world.identity, seen, step)
    return [call for call in world.calls if not call.startswith("sealer")]


def test_when_a_key_of_ours_was_made_custody_tells_if_the_store_does_not() -> None:
    world = World()
    until(world, Verify)
    listed = look(world.identity)
    world.identity.iam.list_keys = lambda: Listing(  # type: ignore[method-assign]
        listed.now, tuple(replace(key, created=None) for key in listed.keys)
    )

    seen = look(world.identity)

    assert [key.created for key in seen.keys] == [pair.minted for pair in seen.custody.pairs]


def test_an_intent_is_durable_before_a_key_is_made_and_its_pair_right_after() -> None:
    world = World()
    mint = until(world, Mint)

    assert do(world, mint) == ["store.save", "iam.create_key", "store.save"]


def test_a_pair_must_work_several_times_in_a_row() -> None:
    world = World()
    verify = until(world, Verify)

    assert do(world, verify) == ["consumer.probe"] * PROBES + ["store.save"]
    assert PROBES >= 3


def test_a_pair_must_work_for_as_long_as_it_was_refused() -> None:
    world = World(delays=Delays(sts=MINUTE))
    verify = until(world, Verify)
    world.pass_time(MINUTE / 2)
    world.faults = lambda number, call: (
        Fault.UNKNOWN_KEY if call == "consumer.probe" else Fault.NONE
    )
    with pytest.raises(RekeydError):
        do(world, verify)
    world.faults = lambda number, call: Fault.NONE

    world.pass_time(MINUTE / 2 - MINUTE / 60)
    with pytest.raises(Propagating):
        do(world, verify)
    world.pass_time(MINUTE / 60)
    do(world, verify)

    assert world.truth.custody.pairs[0].verified == world.truth.now


def test_a_pair_is_proved_again_then_custody_doubts_the_sink_then_it_is_written_and_read() -> None:
    world = World()
    deliver = until(world, Deliver)

    assert do(world, deliver) == [
        "consumer.probe",
        "store.save",
        "sink.put",
        "sink.read",
        "store.save",
    ]


def test_a_sink_that_does_not_hold_what_was_written_to_it_has_failed() -> None:
    world = World()
    deliver = until(world, Deliver)
    world.trouble("file", "forgetful")

    with pytest.raises(Transient, match="does not hold what was written"):
        do(world, deliver)


def test_one_sink_that_fails_keeps_no_other_from_its_pair() -> None:
    world = World(sinks={"a": True, "b": True})
    deliver = until(world, Deliver)
    world.trouble("a", "full")

    with pytest.raises(Transient, match="sink a"):
        do(world, deliver)

    assert world.truth.sinks["b"].pair is not None
    assert world.truth.custody.ledger["a"] == ""


def test_a_write_only_sink_that_points_elsewhere_is_given_the_pair_again() -> None:
    world = World(sinks={"box": False})
    world.run(HOUR)
    world.change_sink("box", pair=None)
    world.identity.sinks[0].mark = "another place"

    world.run(HOUR)

    assert world.truth.sinks["box"].pair is not None


@pytest.mark.parametrize("kind", [Deactivate, Delete])
def test_nothing_is_retired_while_the_current_pair_is_refused(kind: type[Step]) -> None:
    world = World()
    world.run(25 * HOUR)
    retire = until(world, kind)
    world.denied = True
    before = world.truth.keys

    with pytest.raises(Transient, match="nothing is retired"):
        do(world, retire)

    assert world.truth.keys == before
