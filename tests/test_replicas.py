"""What a replica does alone in the world of several: claims, renews, and owns up to a late put."""

from datetime import timedelta

import pytest

from rekeyd.errors import Elsewhere
from rekeyd.observe import look
from rekeyd.perform import perform
from rekeyd.ports import Request
from rekeyd.rules import plan
from rekeyd.steps import Deliver
from world.replicas import LEASE, SharedWorld, Stop
from world.world import HOUR, NAME

BOX = {"box": False}


def at_delivery(world: SharedWorld) -> Deliver:
    """Let the program work until a pair is to be delivered."""
    with world.clock():
        for _ in range(20):
            step = plan(look(world.identity), world.timing).step
            if isinstance(step, Deliver):
                return step
            world.cycle()
    raise AssertionError("nothing is ever delivered")


def deliver(world: SharedWorld, stop: Stop | None = None) -> None:
    """Have one replica do the delivery, which is stopped on the way and another goes on."""
    step = at_delivery(world)
    world.restart()
    world.identity.store.claim(NAME)
    seen = look(world.identity)
    world.calls.clear()
    world.stop = stop
    with world.clock():
        perform(world.identity, seen, step)


def test_the_right_to_act_is_renewed_right_before_a_sink_is_written() -> None:
    world = SharedWorld(sinks=BOX)

    deliver(world)

    effects = [call for call in world.calls if call.startswith(("store", "sink"))]
    assert effects == ["store.save", "store.renew", "sink.put", "store.save"]


@pytest.mark.parametrize("call", ["store.renew", "sink.put"])
def test_who_sleeps_in_a_put_has_it_repeated(call: str) -> None:
    world = SharedWorld(sinks=BOX)
    calls = ["sealer.unseal", "consumer.probe", "store.save", "store.renew", "sink.put"]

    with pytest.raises(Elsewhere):
        deliver(world, Stop(calls.index(call), HOUR))

    assert [request for _, request in world.truth.requests] == [Request("redeliver", "box")]
    world.run(HOUR)
    assert world.truth.requests == ()
    assert world.l1() is None


def test_who_sleeps_a_moment_goes_on() -> None:
    world = SharedWorld(sinks=BOX)

    deliver(world, Stop(4, LEASE - timedelta(minutes=1)))

    assert world.truth.requests == ()


def test_nobody_waits_longer_than_the_lease_of_the_dead() -> None:
    world = SharedWorld(sinks=BOX)
    at_delivery(world)
    world.restart()
    world.identity.store.claim(NAME)  # and is never seen again

    world.run(LEASE + timedelta(minutes=1))

    assert world.backup("box")
