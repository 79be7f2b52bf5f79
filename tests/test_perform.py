"""What each step does, call by call, where the order or the number of calls is the point."""

from dataclasses import replace
from datetime import timedelta
from unittest.mock import Mock

import pytest

from rekeyd.errors import Elsewhere, Gone, Propagating, Refused, RekeydError, Transient
from rekeyd.observe import look
from rekeyd.perform import PROBES, perform
from rekeyd.ports import Listing, Request
from rekeyd.rules import plan
from rekeyd.secret import AccessPair
from rekeyd.steps import Activate, Deactivate, Delete, Deliver, Mint, Rest, Step, Verify
from world import HOUR, MINUTE, Delays, World, every
from world.faults import Crash, Fault

SECOND = MINUTE / 60


def until(world: World, kind: type[Step]) -> Step:
    """Let the program work until its next step is of this kind, and return that step."""
    for _ in range(100):
        seen = look(world.identity)
        step = plan(seen, world.timing).step
        world.calls.clear()
        if isinstance(step, kind):
            return step
        if isinstance(step, Rest):
            world.pass_time(step.until - world.truth.now)
        else:
            perform(world.identity, seen, step)
    raise AssertionError(f"it never comes to {kind.__name__}")


def do(world: World, step: Step) -> list[str]:
    """Do a step; return the calls that it took, after the look."""
    seen = look(world.identity)
    world.calls.clear()
    perform(world.identity, seen, step)
    return [call for call in world.calls if not call.startswith("sealer")]


def spoil(world: World, **faults: Fault) -> None:
    """Let each call of these names go wrong, from the next on: `iam_delete_key` is a name."""
    named = {name.replace("_", ".", 1): fault for name, fault in faults.items()}
    world.faults = lambda number, call: named.get(call)


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


@pytest.mark.parametrize("fault", [Fault.THROTTLED, Fault.DENIED])
def test_a_mint_that_was_certainly_refused_leaves_no_intent(fault: Fault) -> None:
    world = World()
    mint = until(world, Mint)
    spoil(world, iam_create_key=fault)

    with pytest.raises(RekeydError, match=fault.value):
        do(world, mint)

    assert world.truth.custody.intent is None


def test_a_mint_whose_answer_was_lost_leaves_its_intent() -> None:
    world = World()
    mint = until(world, Mint)
    spoil(world, iam_create_key=Fault.LOST_COMMITTED)

    with pytest.raises(RekeydError, match="answer is lost"):
        do(world, mint)

    assert world.truth.custody.intent is not None


@pytest.mark.parametrize("deletion", [None, Fault.LOST_BEFORE])
def test_a_new_key_that_cannot_be_kept_is_deleted_at_once_if_that_can_be(deletion: Fault) -> None:
    world = World()
    mint = until(world, Mint)
    world.faults = lambda number, call: (
        Fault.DISK_FULL
        if (call, bool(world.truth.keys)) == ("store.save", True)
        else deletion
        if call == "iam.delete_key"
        else None
    )

    with pytest.raises(Transient, match=r"store.save: no space left"):
        do(world, mint)

    assert len(world.truth.living) == (deletion is not None)
    assert world.truth.custody.intent is not None


def test_a_new_key_that_is_on_the_disk_in_spite_of_an_error_is_kept() -> None:
    world = World()
    mint = until(world, Mint)
    world.faults = lambda number, call: (
        Fault.DISK_FULL_BUT_DURABLE
        if (call, bool(world.truth.keys)) == ("store.save", True)
        else None
    )

    with pytest.raises(Transient):
        do(world, mint)

    assert [key.id for key in world.truth.living] == [p.key_id for p in world.truth.custody.pairs]


def test_a_pair_must_work_several_times_in_a_row() -> None:
    world = World()
    verify = until(world, Verify)

    assert do(world, verify) == ["consumer.probe"] * PROBES + ["store.save"]
    assert PROBES == 3


@pytest.mark.parametrize("fault", [Fault.UNKNOWN_KEY, Fault.DENIED])
def test_a_refusal_is_noted_and_means_little_while_the_key_is_younger_than_settle(
    fault: Fault,
) -> None:
    world = World()
    verify = until(world, Verify)
    spoil(world, consumer_probe=fault)

    with pytest.raises(Propagating, match="is not accepted everywhere yet"):
        do(world, verify)
    assert world.truth.custody.pairs[0].refused == world.truth.now

    world.pass_time(world.timing.settle)
    with pytest.raises(RekeydError, match=f"^consumer.probe: {fault.value}"):
        do(world, verify)
    assert world.truth.custody.pairs[0].refused == world.truth.now


def test_a_pair_must_work_for_as_long_as_it_was_refused() -> None:
    world = World(delays=Delays(sts=MINUTE))
    verify = until(world, Verify)
    world.pass_time(MINUTE / 2)
    world.faults = lambda number, call: Fault.UNKNOWN_KEY if call == "consumer.probe" else None
    with pytest.raises(RekeydError):
        do(world, verify)
    world.faults = lambda number, call: None

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


def test_whoever_is_killed_in_a_put_leaves_the_sink_in_doubt_and_the_pair_handed_out() -> None:
    world = World()
    deliver = until(world, Deliver)
    spoil(world, sink_put=Fault.CRASH_BEFORE)

    with pytest.raises(Crash):
        do(world, deliver)

    assert world.truth.custody.ledger == {"file": ""}
    assert world.truth.custody.pairs[0].delivered == {"file": world.truth.now}


def test_a_pair_that_is_being_delivered_again_is_not_current_meanwhile() -> None:
    world = World()
    world.run(HOUR)
    world.person_writes("file", None)
    deliver = until(world, Deliver)

    do(world, deliver)

    assert world.truth.custody.pairs[0].current is None


def test_only_the_sinks_that_were_named_are_written() -> None:
    world = World(sinks={"a": True, "b": True})
    deliver = until(world, Deliver)
    assert isinstance(deliver, Deliver)

    do(world, replace(deliver, sinks=("b",)))

    assert [sink.pair is None for sink in world.truth.sinks.values()] == [True, False]


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


def test_a_put_that_may_come_late_is_repeated_by_whoever_took_over() -> None:
    world = World(sinks={"a": True, "b": True})
    deliver = until(world, Deliver)
    taken_over = Elsewhere("another replica has taken over")
    world.identity.store.save = Mock(side_effect=[None, taken_over])  # type: ignore[method-assign]

    with pytest.raises(Elsewhere):
        do(world, deliver)

    asked = [request for _, request in world.identity.store.requests("user")]
    assert asked == [Request("redeliver", "a"), Request("redeliver", "b")]


def test_no_sink_is_written_once_another_replica_has_taken_over() -> None:
    world = World(sinks={"a": True, "b": True})
    deliver = until(world, Deliver)
    taken_over = Elsewhere("another replica has taken over")
    world.identity.store.renew = Mock(side_effect=taken_over)  # type: ignore[method-assign]

    with pytest.raises(RekeydError, match="taken over"):
        do(world, deliver)

    assert [sink.pair for sink in world.truth.sinks.values()] == [None, None]


def test_what_several_sinks_want_done_is_told_once() -> None:
    world = World(sinks={"a": True, "b": True, "c": True})
    deliver = until(world, Deliver)
    for sink, do_this in zip(world.identity.sinks, ("", "mend it", "mend it"), strict=True):

        def refuse(_: object, do_this: str = do_this) -> None:
            raise Refused("it says no", do_this)

        sink.put = refuse  # type: ignore[method-assign]

    with pytest.raises(Refused, match=r"sink a: .*; sink b: .*; sink c: ") as refused:
        do(world, deliver)

    assert refused.value.do == "mend it"


def test_a_sink_of_which_nobody_tells_how_its_put_went_is_a_mistake_of_the_program() -> None:
    world = World()
    deliver = until(world, Deliver)
    forgetful = replace(world.identity, each=lambda function, items: [])

    with pytest.raises(ValueError, match="shorter"):
        perform(forgetful, look(world.identity), deliver)


def test_a_write_only_sink_that_points_elsewhere_is_given_the_pair_again() -> None:
    world = World(sinks={"box": False})
    world.run(HOUR)
    world.change_sink("box", pair=None)
    world.identity.sinks[0].mark = "another place"

    world.run(HOUR)

    assert world.truth.sinks["box"].pair is not None


def test_a_write_only_sink_that_was_pointed_elsewhere_during_a_put_is_given_the_pair_again() -> (
    None
):
    world = World(sinks={"box": False})
    deliver = until(world, Deliver)
    box = world.identity.sinks[0]
    put = box.put

    def pointed_elsewhere(pair: AccessPair) -> None:
        put(pair)
        box.mark = "another place"

    box.put = pointed_elsewhere  # type: ignore[method-assign]
    do(world, deliver)

    assert world.truth.custody.ledger["box"]
    until(world, Deliver)


def test_a_bucket_that_is_missing_says_nothing_of_the_pair() -> None:
    world = World()
    verify = until(world, Verify)
    world.identity.consumer.probe = Mock(side_effect=Gone("no bucket"))  # type: ignore[method-assign]

    with pytest.raises(Gone):
        do(world, verify)

    assert world.truth.custody.pairs[0].refused is None


@pytest.mark.parametrize(
    ("refused", "works"),
    [(5 * SECOND, 10 * SECOND), (5 * MINUTE, 10 * MINUTE), (10 * MINUTE, 15 * MINUTE)],
)
def test_a_pair_must_work_for_as_long_as_it_did_not_or_until_all_know_it(
    refused: timedelta, works: timedelta
) -> None:
    world = World(timing=every(24 * HOUR, settle=15 * MINUTE))
    verify = until(world, Verify)
    world.pass_time(refused)
    world.denied = True
    with pytest.raises(Propagating, match="is not accepted everywhere yet"):
        do(world, verify)

    world.denied = False
    world.pass_time(works - refused - SECOND)
    with pytest.raises(Propagating, match="was refused a moment ago"):
        do(world, verify)
    world.pass_time(SECOND)
    do(world, verify)

    assert world.truth.custody.pairs[0].verified


@pytest.mark.parametrize("fault", [Fault.DENIED, Fault.UNKNOWN_KEY])
@pytest.mark.parametrize("kind", [Deactivate, Delete])
def test_nothing_is_retired_while_the_current_pair_is_refused(
    kind: type[Step], fault: Fault
) -> None:
    world = World()
    world.run(25 * HOUR)
    retire = until(world, kind)
    spoil(world, consumer_probe=fault)
    before = world.truth.keys

    with pytest.raises(Transient, match="nothing is retired") as held_back:
        do(world, retire)

    assert world.truth.keys == before
    assert "rekeyd rollback" in held_back.value.do


def test_custody_tells_when_a_deactivation_was_decided_and_when_it_was_done() -> None:
    world = World()
    world.run(25 * HOUR)
    deactivate = until(world, Deactivate)
    world.latency = MINUTE / 60
    do(world, deactivate)
    old = world.truth.custody.pairs[0]

    assert old.retiring and old.deactivated
    assert old.retiring < old.deactivated == world.truth.keys[old.key_id].changes[-1].at


def test_a_deletion_is_written_down() -> None:
    world = World()
    world.run(25 * HOUR)
    do(world, until(world, Delete))

    assert world.truth.custody.pairs[0].deleted == world.truth.now


def test_what_is_activated_again_is_as_if_it_had_never_been_retired() -> None:
    world = World()
    world.run(25 * HOUR)
    until(world, Delete)
    old = world.truth.custody.pairs[0]
    assert old.retiring and old.deactivated

    do(world, Activate(old.key_id))

    again = world.truth.custody.pairs[0]
    assert world.truth.keys[old.key_id] in world.truth.active
    assert (again.retiring, again.deactivated, again.restored) == (None, None, world.truth.now)


def test_a_key_that_a_person_deletes_meanwhile_cannot_be_switched() -> None:
    world = World()
    world.run(25 * HOUR)
    until(world, Delete)
    old = world.truth.custody.pairs[0].key_id
    seen = look(world.identity)
    world.person_deletes(old)

    with pytest.raises(Transient, match=f"…{old[-4:]} was deleted meanwhile"):
        perform(world.identity, seen, Activate(old))
