"""What people ask for, and what custody makes of it."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from rekeyd.errors import Permanent
from rekeyd.model import Custody, Intent, Key, Pair, SinkView, Snapshot
from rekeyd.ports import Request
from rekeyd.requests import alike, grant
from world import HOUR, START, every

USER = "AIDABACKUP"
BORN = START - 2 * HOUR
TIMING = every(24 * HOUR)


def pair(key_id: str, minted: datetime = BORN, current: datetime | None = None) -> Pair:
    known = {"sealed": "sealed", "verified": minted, "current": current, "arrived": current}
    return Pair(key_id=key_id, minted=minted, **known)


OLD, NEW = pair("AKIAOLD", BORN - HOUR), pair("AKIANEW", current=BORN)
SEEN = Snapshot(
    now=START,
    user_id=USER,
    keys=tuple(Key(name, True, BORN) for name in ("AKIAOLD", "AKIANEW", "AKIAFOREIGN")),
    custody=Custody(user_id=USER, pairs=(OLD, NEW)),
    sinks=(SinkView("file", "AKIAELSEWHERE"),),
)


def asked(kind: str, argument: str = "", seen: Snapshot = SEEN) -> Custody:
    return grant(seen, Request(kind, argument), TIMING)


def test_what_is_asked_for_several_times_in_a_row_is_one_request() -> None:
    rotate, one, other = Request("rotate"), Request("adopt", "AKIA1"), Request("adopt", "AKIA2")
    requests = enumerate([rotate, rotate, one, other, rotate], 3)

    assert list(alike(requests)) == [(rotate, [3, 4]), (one, [5]), (other, [6]), (rotate, [7])]


def test_rotate_is_remembered_until_it_is_done() -> None:
    assert asked("rotate") == replace(SEEN.custody, asked=START)


@pytest.mark.parametrize("listed", [True, False])
def test_a_rotation_that_is_on_its_way_is_the_one_that_is_asked_for(listed: bool) -> None:
    on_its_way = replace(NEW, current=None, arrived=None)
    keys = SEEN.keys if listed else SEEN.keys[:1]
    seen = replace(SEEN, keys=keys, custody=replace(SEEN.custody, pairs=(OLD, on_its_way)))

    assert asked("rotate", seen=seen) == seen.custody
    assert asked("revoke", seen=seen).asked == START


def test_a_pair_that_somebody_deactivated_is_not_on_its_way() -> None:
    stopped = replace(NEW, current=None, arrived=None)
    keys = (Key("AKIAOLD", True, BORN), Key("AKIANEW", False, BORN))
    seen = replace(SEEN, keys=keys, custody=replace(SEEN.custody, pairs=(OLD, stopped)))

    assert asked("rotate", seen=seen).asked == START


def test_revoke_calls_every_pair_leaked_and_asks_for_a_new_one() -> None:
    custody = asked("revoke")

    assert custody.asked == START
    assert [p.revoked for p in custody.pairs] == [START, START]


def test_redeliver_puts_a_sink_in_doubt_and_leaves_the_others() -> None:
    known = replace(SEEN, custody=replace(SEEN.custody, ledger={"a": "AKIANEW", "b": "AKIANEW"}))

    assert asked("redeliver", "a", known).ledger == {"a": "", "b": "AKIANEW"}


def test_rollback_chooses_the_superseded_pair_and_gives_the_current_one_up() -> None:
    old, new = asked("rollback").pairs

    assert (old.restored, old.verified, new.given_up) == (START, None, START)


def test_rollback_needs_a_pair_to_go_back_to() -> None:
    alone = replace(SEEN, custody=replace(SEEN.custody, pairs=(NEW,)))

    with pytest.raises(Permanent, match="no superseded pair") as refused:
        asked("rollback", seen=alone)
    assert "rekeyd rotate" in refused.value.do


def test_an_adopted_key_is_ours_from_now_on_without_its_secret() -> None:
    adopted = asked("adopt", "AKIAFOREIGN").pairs[-1]

    assert (adopted.key_id, adopted.adopted, adopted.sealed) == ("AKIAFOREIGN", True, None)
    assert (adopted.minted, adopted.born) == (BORN, START), "its overlap counts from now"
    assert not adopted.fingerprint, "so no sink that holds it counts as broken"


def test_a_key_of_which_nobody_knows_when_it_was_made_can_be_adopted() -> None:
    undated = replace(SEEN, keys=(*SEEN.keys, Key("AKIAUNDATED", True, None)))

    assert asked("adopt", "AKIAUNDATED", undated).pairs[-1].born == START


def test_a_key_that_was_ours_once_can_be_adopted_again() -> None:
    seen = replace(SEEN, custody=replace(SEEN.custody, gone=("AKIAFOREIGN", "AKIAOTHER")))
    custody = asked("adopt", "AKIAFOREIGN", seen)

    assert custody.pairs[-1].adopted
    assert custody.gone == ("AKIAOTHER",)


@pytest.mark.parametrize("name", ["…EIGN", "EIGN", "FOREIGN"])
def test_a_key_may_be_named_as_people_see_it(name: str) -> None:
    assert asked("adopt", name).pairs[-1].key_id == "AKIAFOREIGN"


@pytest.mark.parametrize("name", ["…IGN", "IGN", "…", "…NONE"])
def test_but_not_by_less_nor_when_it_fits_two(name: str) -> None:
    two = (*SEEN.keys, Key("ASIATHENONE", True, BORN), Key("AKIATHENONE", True, BORN))

    with pytest.raises(Permanent):
        asked("adopt", name, replace(SEEN, keys=two))


def test_adopting_a_pair_of_ours_changes_nothing() -> None:
    assert asked("adopt", "AKIANEW") == SEEN.custody


def test_adopting_the_user_that_is_ours_already_changes_nothing() -> None:
    assert asked("adopt", USER) == SEEN.custody


def test_a_key_that_only_a_sink_knows_may_be_overwritten_once_it_is_adopted() -> None:
    assert asked("adopt", "AKIAELSEWHERE").gone == ("AKIAELSEWHERE",)


def test_a_key_that_nobody_knows_cannot_be_adopted() -> None:
    with pytest.raises(Permanent, match="neither a key") as refused:
        asked("adopt", "AKIANOBODY")
    assert "rekeyd status" in refused.value.do


def test_of_a_user_made_again_what_may_be_his_own_is_kept() -> None:
    young = pair("AKIAYOUNG", START - TIMING.settle + timedelta(seconds=1))
    before = replace(
        SEEN.custody,
        user_id="AIDAOLD",
        pairs=(pair("AKIADEAD", START - TIMING.settle), NEW, young),
        intent=Intent(BORN, frozenset()),
        ledger={"file": "AKIADEAD"},
    )
    custody = asked("adopt", USER, replace(SEEN, custody=before))

    assert (custody.user_id, custody.asked) == (USER, START)
    assert (custody.pairs, custody.gone) == ((NEW, young), ("AKIADEAD",))
    assert (custody.intent, custody.ledger) == (before.intent, before.ledger)


def test_no_more_than_sixteen_ids_are_remembered() -> None:
    many = tuple(map(str, range(16)))
    seen = replace(SEEN, custody=replace(SEEN.custody, gone=many))
    anew = replace(seen, custody=Custody(user_id="AIDAOLD", pairs=(pair("DEAD"),), gone=many))

    assert asked("adopt", "AKIAELSEWHERE", seen).gone == (*many[1:], "AKIAELSEWHERE")
    assert asked("adopt", USER, anew).gone == (*many[1:], "DEAD")
