"""The rotations there are, each prepared up to the instant at which it begins."""

from collections.abc import Callable, Mapping
from datetime import timedelta

from rekeyd.model import Custody, Timing
from world.faults import Chooser
from world.world import HOUR, MINUTE, Delays, World, every

ONE = {"file": True}
TWO = {"file": True, "vault": True}
THREE = {"file": True, "vault": True, "box": False}
WRITE_ONLY = {"box": False}

TIMING = every(24 * HOUR)

TEN_YEARS = timedelta(days=3650)


def steady(world: World) -> str:
    """A first rotation is long over. Return the current key."""
    world.run(6 * HOUR)
    (key,) = world.truth.active
    return key.id


def superseded(world: World) -> tuple[str, str]:
    """A second rotation has just been delivered. Return the superseded and the current key."""
    steady(world)
    world.ask("rotate")
    world.run(20 * MINUTE)
    old, new = world.truth.active
    return old.id, new.id


def first(_world: World) -> None:
    """Nothing is known and there is no key."""


def normal(world: World) -> None:
    """The current key is due."""
    steady(world)
    world.pass_time(24 * HOUR)


def repair(world: World) -> None:
    """A person empties a sink."""
    steady(world)
    world.person_writes(next(iter(world.truth.sinks)), None)


def repair_broken(world: World) -> None:
    """A person mistypes the secret in a sink, and saves it as no UTF-8."""
    key = steady(world)
    world.person_writes(next(iter(world.truth.sinks)), key, secret="mistyp\udce9d")


def repair_overwritten(world: World) -> None:
    """A person puts the superseded pair back into a sink."""
    old, _ = superseded(world)
    world.person_writes(next(iter(world.truth.sinks)), old)


def go_back(world: World) -> None:
    """A person deletes the current key while the superseded one is still Active."""
    _, new = superseded(world)
    world.person_deletes(new)


def go_back_far(world: World) -> None:
    """A person deletes the current key when the superseded one is Inactive already."""
    _, new = superseded(world)
    world.run(HOUR)
    world.person_deletes(new)


def old_deleted(world: World) -> None:
    """A person deletes the superseded key during the overlap."""
    old, _ = superseded(world)
    world.person_deletes(old)


def vanished(world: World) -> None:
    """A person deletes the only key."""
    world.person_deletes(steady(world))


def adopt(world: World) -> None:
    """The sinks hold a key that a person made, and the person hands it over."""
    key = world.person_creates()
    for sink in world.truth.sinks:
        world.person_writes(sink, key.id)
    world.run(HOUR)
    world.ask("adopt", key.id)


def revoke(world: World) -> None:
    """The current key has leaked."""
    steady(world)
    world.ask("revoke")


def revoke_both(world: World) -> None:
    """The keys have leaked while the superseded one is still Active."""
    superseded(world)
    world.ask("revoke")


def rollback(world: World) -> None:
    """The new pair troubles its consumers: a person asks for the superseded one."""
    superseded(world)
    world.ask("rollback")


def rollback_far(world: World) -> None:
    """A person asks for the superseded pair when it is Inactive already."""
    superseded(world)
    world.run(HOUR)
    world.ask("rollback")


def asked_twice(world: World) -> None:
    """A person asks for a rotation while another is in its overlap."""
    superseded(world)
    world.ask("rotate")


def user_replaced(world: World) -> None:
    """The user was deleted and made again, and the person hands it over."""
    steady(world)
    world.person_replaces_user()
    world.run(HOUR)
    world.ask("adopt", world.truth.user_id or "")


def foreign(world: World) -> None:
    """A person puts a key of their own into a sink."""
    steady(world)
    world.person_writes(next(iter(world.truth.sinks)), world.person_creates().id)


def full(world: World) -> None:
    """A person holds the second slot, and a rotation is asked for."""
    steady(world)
    world.person_creates()
    world.ask("rotate")


def crowded(world: World) -> None:
    """IAM lists three keys, which it should not, and a rotation is asked for."""
    steady(world)
    world.key_limit = 5
    world.person_creates()
    world.person_creates()
    world.run(HOUR)
    world.ask("rotate")


def state_lost(world: World) -> None:
    """The state is gone."""
    steady(world)
    world.person_puts_back(Custody())


def state_of_before(world: World) -> None:
    """The state is put back as it was before the last rotation."""
    steady(world)
    kept = world.truth.custody
    world.ask("rotate")
    world.run(6 * HOUR)
    world.person_puts_back(kept)


def state_of_the_overlap(world: World) -> None:
    """The state is put back as it was when the superseded key still was there."""
    superseded(world)
    kept = world.truth.custody
    world.run(6 * HOUR)
    world.person_puts_back(kept)


def deactivated(world: World) -> None:
    """A person deactivates the only key."""
    world.person_deactivates(steady(world))


def deleted_user(world: World) -> None:
    """A person deletes the user."""
    steady(world)
    world.person_deletes_user()


def broken_sink(world: World) -> None:
    """The rotation is due, and a sink is out of order."""
    normal(world)
    world.trouble(next(iter(world.truth.sinks)), "down")


Scenario = tuple[Callable[[World], None], Mapping[str, bool]]

SCENARIOS: tuple[Scenario, ...] = (
    (first, ONE),
    (first, THREE),
    (normal, ONE),
    (normal, WRITE_ONLY),
    (normal, TWO),
    (normal, THREE),
    (repair, ONE),
    (repair, THREE),
    (repair_broken, TWO),
    (repair_overwritten, TWO),
    (go_back, ONE),
    (go_back, THREE),
    (go_back_far, TWO),
    (old_deleted, ONE),
    (vanished, ONE),
    (vanished, WRITE_ONLY),
    (adopt, ONE),
    (adopt, TWO),
    (revoke, ONE),
    (revoke_both, TWO),
    (rollback, ONE),
    (rollback, THREE),
    (rollback_far, ONE),
    (asked_twice, ONE),
    (user_replaced, ONE),
    (foreign, TWO),
    (full, ONE),
    (crowded, ONE),
    (state_lost, TWO),
    (state_of_before, TWO),
    (state_of_the_overlap, THREE),
    (deactivated, ONE),
    (deleted_user, ONE),
    (broken_sink, TWO),
)

HELD: dict[Callable[[World], None], str] = {
    foreign: "foreign_in_sink",
    full: "slots_full",
    crowded: "slots_full",
    state_lost: "foreign_in_sink",
    state_of_before: "foreign_in_sink",
    deactivated: "deactivated",
    deleted_user: "user_missing",
    broken_sink: "sink",
}
"""The scenarios that wait for a person, whatever faults there are, and for what reason."""


def prepared(
    scenario: Scenario,
    *,
    timing: Timing = TIMING,
    delay: timedelta = timedelta(),
    chooser: Chooser | None = None,
) -> World:
    """Return a world at the instant at which the scenario's rotation begins.

    The clock of the program's machine is wrong there: it decides nothing.
    """
    prepare, sinks = scenario
    world = World(sinks=sinks, timing=timing)
    prepare(world)
    world.delays = Delays.all(delay)
    world.clock_jumps(TEN_YEARS)
    world.chooser = chooser or world.chooser
    return world


def name(scenario: Scenario) -> str:
    prepare, sinks = scenario
    return f"{prepare.__name__} with {', '.join(sinks)}"


def expected_holds(scenario: Scenario) -> set[str]:
    """Return the reasons of the holds in which a scenario ends; none for most."""
    reason = HELD.get(scenario[0])
    return {reason} if reason else set()
