"""What fails for an hour, from any call of a rotation on: nothing is lost, and it ends by itself.

Time is virtual, the program's own waits count, and S1 to S4 are checked at every effect.
"""

from datetime import timedelta
from itertools import count

import pytest

from world import HOUR, MINUTE, POSSIBLE, Fault, World, proof
from world.scenarios import THREE, TIMING, first, normal, prepared

pytestmark = pytest.mark.proof

Failing = dict[str, Fault]

BACK = 15 * MINUTE
"""The longest wait between two tries, after which it has noticed that the outage is over."""


def calls(*parts: str, ways: tuple[Fault, ...]) -> Failing:
    """Let every call to these parts go wrong in the first of these ways that it can."""
    return {
        call: next(way for way in ways if way in POSSIBLE[call])
        for call in POSSIBLE
        if call.startswith(parts)
    }


DOWN = (Fault.SERVICE_FAILURE, Fault.LOST_BEFORE)
OUTAGES = {
    "IAM": calls("iam.", ways=DOWN),
    "IAM, throttled": calls("iam.", ways=(Fault.THROTTLED,)),
    "IAM, without a right": calls("iam.", ways=(Fault.DENIED,)),
    "what backups use": calls("consumer.", ways=DOWN),
    "every sink": calls("sink.", ways=DOWN),
    "the right to every sink": calls("sink.", ways=(Fault.DENIED,)),
    "the disk": calls("store.save", "store.settle", ways=(Fault.DISK_FULL,)),
    "the network": calls("iam.", "consumer.", "sink.", ways=DOWN),
}


class Outage:
    """Lets some calls fail for an hour, from the one with this number on."""

    def __init__(self, world: World, failing: Failing, begins: int) -> None:
        self._world, self._failing, self._begins = world, failing, begins
        self._numbers = count()
        self.until = None

    def __call__(self, _number: int, call: str) -> Fault | None:
        now = self._world.truth.now
        if next(self._numbers) == self._begins:
            self.until = now + HOUR
        over = self.until is None or now >= self.until
        return None if over else self._failing.get(call)


def due(scenario=normal, *, sinks=THREE) -> World:
    world = prepared((scenario, sinks), delay=MINUTE / 4)
    world.diary.rotations = 0
    return world


def rotated(world: World) -> int:
    """Let a rotation run; return how many calls it took."""
    before = len(world.calls)
    world.run(30 * MINUTE)
    assert world.diary.rotations == 1
    return len(world.calls) - before


def go_on_by_itself(scenario, failing: Failing, after: timedelta) -> int:
    """Begin an outage at each call in turn; the rotation is done when so much time has passed."""
    calls = rotated(due(scenario))
    for begins in range(calls):
        world = due(scenario)
        world.faults = Outage(world, failing, begins)

        world.run(after)
        assert world.diary.rotations == 1, f"from call {begins} on"
        assert all(world.backup(sink) for sink in world.truth.sinks)

        world.run(4 * HOUR)
        assert world.l1() is None, f"from call {begins} on"
    return calls


@pytest.mark.parametrize("scenario", [first, normal])
@pytest.mark.parametrize("outage", OUTAGES)
def test_it_goes_on_by_itself_when_the_hour_is_over(scenario, outage):
    with proof.counting("outages", f"{outage}, {scenario.__name__}") as counted:
        after = HOUR + BACK + TIMING.settle + BACK
        counted["outages"] = go_on_by_itself(scenario, OUTAGES[outage], after)


@pytest.mark.parametrize("scenario", [first, normal])
def test_a_new_pair_that_may_do_nothing_for_an_hour_is_given_up_and_another_one_tried(scenario):
    """It keeps one of the two slots until its grace is over, as every key does."""
    with proof.counting("outages", f"a new pair is refused, {scenario.__name__}") as counted:
        refused = {"consumer.probe": Fault.DENIED}
        after = HOUR + TIMING.grace + TIMING.settle + BACK
        counted["outages"] = go_on_by_itself(scenario, refused, after)
