"""Draws one rotation in time: a line for each key, each sink and the faults."""

from collections.abc import Iterable
from datetime import timedelta

from world.faults import Fault
from world.scenarios import TWO, normal, prepared
from world.truth import ABSENT, ACTIVE, INACTIVE, Truth
from world.world import HOUR, MINUTE

COLUMN = 5 * MINUTE
MARKS = {ACTIVE: "━", INACTIVE: "╌", ABSENT: " "}


def picture() -> str:
    """Draw a rotation whose CreateAccessKey takes effect and is never answered."""
    world = prepared((normal, TWO))
    begin = world.truth.now
    struck: list[timedelta] = []

    def fault(_number: int, call: str) -> Fault | None:
        if call == "iam.create_key" and not struck:
            struck.append(world.truth.now - begin)
            return Fault.CRASH_COMMITTED
        return None

    world.faults = fault
    moments: list[Truth] = []
    for _ in range(int(4 * HOUR / COLUMN)):
        moments.append(world.truth)
        world.run(COLUMN, pace=COLUMN / 5)
    return "\n".join(_lines(moments, struck, begin_of=len(world.truth.keys)))


def _lines(moments: list[Truth], struck: list[timedelta], begin_of: int) -> Iterable[str]:
    names = {key: f"key {number}" for number, key in enumerate(moments[-1].keys, 1)}
    assert len(names) == begin_of
    per_hour = int(HOUR / COLUMN)
    yield " " * 14 + "".join(f"{hour} h".ljust(per_hour) for hour in range(4))
    strikes = {int(at / COLUMN) for at in struck}
    yield "fault".ljust(14) + "".join("†" if n in strikes else " " for n in range(len(moments)))
    for key_id, name in names.items():
        states = [m.keys[key_id].status if key_id in m.keys else ABSENT for m in moments]
        yield name.ljust(14) + "".join(MARKS[state] for state in states)
    for sink in moments[0].sinks:
        held = [m.sinks[sink].pair for m in moments]
        yield f"sink {sink}".ljust(14) + "".join(
            names[pair.key_id].removeprefix("key ") if pair else " " for pair in held
        )
    yield ""
    yield "† killed   ━ Active   ╌ Inactive   1 2 3 the key that a sink holds"
