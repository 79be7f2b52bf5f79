"""Each rule, and each row of the crash table in the design, as sentences about one look."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from rekeyd import holds
from rekeyd.holds import REASONS
from rekeyd.model import Custody, Intent, Key, Pair, SinkView, Snapshot, Timing
from rekeyd.rules import CALL_WINDOW, CLOCK_SKEW, RULES, deliver, due, plan, rest, retire
from rekeyd.steps import (
    Activate,
    Deactivate,
    Decision,
    Delete,
    Deliver,
    Hold,
    Mint,
    Record,
    Rest,
    Verify,
)
from world import HOUR, MINUTE, START

OVERLAP, GRACE, SETTLE = HOUR, 2 * HOUR, 15 * MINUTE
DAY = 24 * HOUR
TIMING = Timing(lambda born: born + DAY, OVERLAP, GRACE, SETTLE)
NOW = START
USER = "AIDABACKUP"
OLD, NEW, FOREIGN = "AKIAOLD", "AKIANEW", "AKIAFOREIGN"


def ago(duration: timedelta) -> datetime:
    return NOW - duration


def key(key_id: str, age: timedelta, *, active: bool = True, used: Any = None) -> Key:
    return Key(key_id, active, ago(age), used)


def pair(key_id: str, age: timedelta, **facts: Any) -> Pair:
    """A pair of ours that was verified, delivered and current soon after its birth."""
    born = ago(age)
    usual: dict[str, Any] = {
        "sealed": "sealed",
        "verified": born,
        "delivered": {"file": born},
        "current": born,
    }
    return Pair(key_id=key_id, minted=born, **(usual | facts))


def fresh(key_id: str, age: timedelta, **facts: Any) -> Pair:
    """A pair of ours of which nothing is known but its secret."""
    return pair(key_id, age, **({"verified": None, "delivered": {}, "current": None} | facts))


def orphan(key_id: str, age: timedelta, **facts: Any) -> Pair:
    return fresh(key_id, age, sealed=None, **facts)


def look(
    *keys: Key, pairs: tuple[Pair, ...] = (), holds: str | None = None, **custody: Any
) -> Snapshot:
    """One look at our user, with one sink."""
    return Snapshot(
        now=NOW,
        user_id=USER,
        keys=keys,
        custody=Custody(user_id=USER, pairs=pairs, **custody),
        sinks=(SinkView("file", holds, mark="mark"),),
    )


def steady(**changes: Any) -> Snapshot:
    """One key, young enough, verified, current, in the sink."""
    seen = look(key(NEW, 2 * HOUR), pairs=(pair(NEW, 2 * HOUR),), holds=NEW)
    return replace(seen, **changes)


def superseded(age: timedelta, *, old: dict[str, Any], listed: dict[str, Any]) -> Snapshot:
    """The new pair is current since `age`; the old one has these facts and is listed like this."""
    return look(
        key(OLD, DAY, **listed),
        key(NEW, age),
        pairs=(pair(OLD, DAY, **old), pair(NEW, age)),
        holds=NEW,
    )


def decide(seen: Snapshot) -> Decision:
    return plan(seen, TIMING)


def custody_after(seen: Snapshot) -> Custody:
    step = decide(seen).step
    assert isinstance(step, Record), f"expected a fact, not {step}"
    return step.custody


def changed(seen: Snapshot, key_id: str) -> Pair:
    """The pair as the recorded fact leaves it."""
    return next(p for p in custody_after(seen).pairs if p.key_id == key_id)


def reason(seen: Snapshot) -> str:
    step = decide(seen).step
    assert isinstance(step, Hold), f"expected a hold, not {step}"
    return step.reason


def test_the_rules_stand_in_the_order_of_the_design() -> None:
    assert [rule.__name__ for rule in RULES] == [
        "guard",
        "close_a_crashed_mint",
        "forget_what_vanished",
        "go_back",
        "verify",
        "deliver",
        "retire",
        "mint",
        "rest",
    ]


class TestGuard:
    def test_roots_credentials_do_nothing(self) -> None:
        assert reason(steady(root=True)) == "root"

    def test_a_missing_user_is_held(self) -> None:
        assert reason(steady(user_id=None)) == "user_missing"

    def test_a_user_made_again_is_another_user(self) -> None:
        assert reason(steady(user_id="AIDAOTHER")) == "user_replaced"

    def test_a_user_never_met_is_remembered(self) -> None:
        assert custody_after(steady(custody=Custody())).user_id == USER


class TestCloseACrashedMint:
    """An intent is open: the call was not sent, or its answer was lost, or it was not saved."""

    AT = ago(SETTLE)

    def crashed(
        self, *keys: Key, at: datetime = AT, found: datetime | None = AT, **seen: Any
    ) -> Snapshot:
        return look(
            key(OLD, 2 * HOUR),
            *keys,
            pairs=(pair(OLD, 2 * HOUR),),
            holds=seen.pop("holds", OLD),
            intent=Intent(at, frozenset({OLD}), found),
            **seen,
        )

    @pytest.mark.parametrize("at", [AT, ago(MINUTE)])
    def test_from_when_it_is_found_its_call_is_over(self, at: datetime) -> None:
        custody = custody_after(self.crashed(at=at, found=None))

        assert custody.intent == Intent(at, frozenset({OLD}), NOW)

    def test_it_is_waited_for_until_no_listing_can_hide_the_key(self) -> None:
        waiting = self.crashed(key(NEW, SETTLE - MINUTE), found=self.AT + MINUTE)

        assert decide(waiting).rule == "rest"

    def test_a_key_that_appeared_meanwhile_is_our_orphan(self) -> None:
        custody = custody_after(self.crashed(key(NEW, SETTLE)))

        assert custody.intent is None
        assert [p.key_id for p in custody.pairs if p.orphan] == [NEW]

    def test_no_key_closes_it(self) -> None:
        custody = custody_after(self.crashed())

        assert (custody.intent, len(custody.pairs)) == (None, 1)

    @pytest.mark.parametrize(
        ("stranger", "seen"),
        [
            (key(FOREIGN, SETTLE + 6 * timedelta(seconds=1)), {}),
            (key(FOREIGN, SETTLE, used=NOW), {}),
            (key(FOREIGN, SETTLE), {"holds": FOREIGN}),
        ],
        ids=["made before", "used", "in a sink"],
    )
    def test_a_key_that_does_not_fit_is_somebody_elses(self, stranger: Key, seen: Any) -> None:
        custody = custody_after(self.crashed(stranger, **seen))

        assert [p.key_id for p in custody.pairs] == [OLD]

    def test_a_key_known_before_is_somebody_elses(self) -> None:
        seen = self.crashed(key(FOREIGN, SETTLE))
        intent = Intent(self.AT, frozenset({OLD, FOREIGN}), self.AT)

        custody = custody_after(replace(seen, custody=replace(seen.custody, intent=intent)))

        assert [p.key_id for p in custody.pairs] == [OLD]

    @pytest.mark.parametrize(
        "keys",
        [
            (key(FOREIGN, SETTLE - 3 * MINUTE),),
            (key(NEW, SETTLE), key(FOREIGN, SETTLE)),
            (Key(NEW, active=True, created=None),),
        ],
        ids=["made long after", "two that fit", "of a store that does not say when it was made"],
    )
    def test_a_key_that_may_be_ours_is_not_taken_and_a_person_is_asked(
        self, keys: tuple[Key, ...]
    ) -> None:
        decision = decide(self.crashed(*keys))

        assert (decision.rule, reason(self.crashed(*keys))) == ("mint", "interrupted")

    def test_no_second_key_is_made_meanwhile(self) -> None:
        asked = self.crashed(at=ago(MINUTE), found=ago(MINUTE), asked=NOW)

        assert decide(asked).rule == "rest"

    def test_an_orphan_is_deactivated_at_once(self) -> None:
        seen = look(
            key(OLD, 2 * HOUR),
            key(NEW, MINUTE),
            pairs=(pair(OLD, 2 * HOUR), orphan(NEW, MINUTE)),
            holds=OLD,
        )

        assert decide(seen) == Decision("retire", Deactivate(NEW))


class TestForgetWhatVanished:
    def test_what_was_put_into_a_sink_that_is_not_named_any_more(self) -> None:
        seen = look(key(NEW, DAY), pairs=(pair(NEW, DAY),), ledger={"mark": NEW, "former": NEW})

        assert custody_after(seen).ledger == {"mark": NEW}

    def test_a_young_pair_may_be_missing_from_a_listing(self) -> None:
        seen = look(pairs=(pair(NEW, SETTLE - MINUTE),), holds=NEW)

        assert decide(seen).rule == "rest"

    def test_a_missing_pair_is_noted_first(self) -> None:
        assert changed(look(pairs=(pair(NEW, DAY),), holds=NEW), NEW).missing == NOW

    def test_and_forgotten_when_it_stays_missing(self) -> None:
        seen = look(pairs=(pair(NEW, DAY, missing=ago(SETTLE)),), holds=NEW)

        custody = custody_after(seen)

        assert (custody.pairs, custody.gone) == ((), (NEW,))

    def test_a_listing_that_shows_it_again_is_believed(self) -> None:
        seen = look(key(NEW, HOUR), pairs=(pair(NEW, HOUR, missing=NOW),), holds=NEW)

        assert changed(seen, NEW).missing is None

    def test_what_we_deleted_is_forgotten_once_it_is_not_listed_any_more(self) -> None:
        gone = pair(OLD, DAY, deleted=ago(SETTLE))
        seen = look(key(NEW, HOUR), pairs=(gone, pair(NEW, HOUR)), holds=NEW)
        custody = custody_after(seen)

        assert ([p.key_id for p in custody.pairs], custody.gone) == ([NEW], (OLD,))

    def test_what_we_deleted_and_is_still_listed_was_not_deleted(self) -> None:
        seen = superseded(HOUR, old={"deleted": ago(SETTLE)}, listed={"active": False})

        assert changed(seen, OLD).deleted is None

    def test_a_listing_may_show_for_a_while_what_we_deleted(self) -> None:
        seen = superseded(
            HOUR, old={"deactivated": ago(DAY), "deleted": NOW}, listed={"active": False}
        )

        assert decide(seen).rule == "rest"


class TestGoBack:
    """A person ended the current key."""

    def ended(self, *listed: Key, **old: Any) -> Snapshot:
        return look(
            key(OLD, DAY, active=old.pop("active", True)),
            *listed,
            pairs=(pair(OLD, DAY, **old), pair(NEW, HOUR, missing=NOW)),
            holds=NEW,
        )

    def test_the_superseded_pair_becomes_current_again(self) -> None:
        custody = custody_after(self.ended())
        old, new = custody.pairs

        assert (old.restored, old.verified, old.current) == (NOW, None, None)
        assert new.given_up == NOW

    def test_an_inactive_one_will_be_activated_whoever_deactivated_it(self) -> None:
        assert changed(self.ended(active=False), OLD).deactivated == NOW
        since = ago(HOUR)
        assert changed(self.ended(active=False, deactivated=since), OLD).deactivated == since

    def test_a_listing_that_still_shows_it_active_is_not_believed(self) -> None:
        since = ago(MINUTE)
        assert changed(self.ended(deactivated=since), OLD).deactivated == since
        assert changed(self.ended(retiring=since), OLD).deactivated == since

    def test_what_is_current_and_was_deactivated_by_us_is_activated(self) -> None:
        chosen = fresh(NEW, HOUR, deactivated=ago(MINUTE))

        assert decide(look(key(NEW, HOUR, active=False), pairs=(chosen,), holds=NEW)) == Decision(
            "go_back", Activate(NEW)
        )

    def test_a_deactivated_key_with_nothing_to_go_back_to_is_held(self) -> None:
        seen = look(key(NEW, HOUR, active=False), pairs=(pair(NEW, HOUR),), holds=NEW)

        assert reason(seen) == "deactivated"

    @pytest.mark.parametrize("wish", [{"asked": NOW}, {"pairs": (pair(NEW, HOUR, revoked=NOW),)}])
    def test_unless_a_new_one_is_wanted_anyway(self, wish: Any) -> None:
        facts = {"pairs": (pair(NEW, HOUR),)} | wish
        seen = look(key(NEW, HOUR, active=False), **facts, holds=NEW)

        assert decide(seen) == Decision("mint", Mint(frozenset({NEW})))

    def test_a_deleted_key_with_nothing_to_go_back_to_is_replaced(self) -> None:
        seen = look(pairs=(pair(NEW, HOUR, missing=NOW),), holds=NEW)

        assert decide(seen) == Decision("mint", Mint(frozenset()))

    def test_a_key_that_a_person_deactivated_is_not_due_by_that(self) -> None:
        seen = look(key(NEW, HOUR, active=False), pairs=(pair(NEW, HOUR),), holds=NEW)

        assert not due(seen, TIMING)

    def test_a_chosen_pair_that_a_person_deleted_is_not_activated_but_replaced(self) -> None:
        chosen = pair(NEW, HOUR, deactivated=ago(HOUR), missing=NOW)

        assert decide(look(pairs=(chosen,), holds=NEW)) == Decision("mint", Mint(frozenset()))

    @pytest.mark.parametrize("facts", [{"missing": NOW}, {"deleted": NOW}])
    def test_a_pair_that_is_gone_is_nothing_to_go_back_to(self, facts: dict[str, Any]) -> None:
        listed = (key(OLD, DAY, active=False),) if "deleted" in facts else ()
        seen = look(*listed, pairs=(pair(OLD, DAY, **facts), pair(NEW, HOUR, missing=NOW)))

        assert decide(seen).rule == "mint"

    def test_a_leaked_pair_is_nothing_to_go_back_to(self) -> None:
        assert decide(self.ended(revoked=NOW)).rule != "go_back"

    def test_a_pair_that_never_worked_is_nothing_to_go_back_to(self) -> None:
        assert decide(self.ended(verified=None)).rule != "go_back"


class TestVerify:
    def young(self, age: timedelta = MINUTE, **facts: Any) -> Snapshot:
        return look(
            key(OLD, DAY),
            key(NEW, age),
            pairs=(pair(OLD, DAY), fresh(NEW, age, **facts)),
            holds=OLD,
        )

    def test_a_new_pair_is_proved_before_anybody_is_given_it(self) -> None:
        assert decide(self.young()) == Decision("verify", Verify(NEW))

    def test_a_refusal_while_it_is_young_means_little(self) -> None:
        assert decide(self.young(HOUR, refused=ago(HOUR))).step == Verify(NEW)

    def test_a_key_that_never_worked_is_given_up_for_the_one_that_did(self) -> None:
        custody = custody_after(self.young(HOUR, refused=NOW))
        old, new = custody.pairs

        assert (old.restored, new.given_up) == (NOW, NOW)
        assert custody.asked == NOW, "the rotation is still wanted"

    def test_a_first_key_that_never_worked_is_given_up(self) -> None:
        seen = look(key(NEW, HOUR), pairs=(fresh(NEW, HOUR, refused=NOW),))

        assert changed(seen, NEW).given_up == NOW

    def test_a_refused_key_that_a_sink_holds_is_kept(self) -> None:
        seen = look(key(NEW, HOUR), pairs=(fresh(NEW, HOUR, refused=NOW),), holds=NEW)

        assert decide(seen).step == Verify(NEW)

    def test_a_key_that_somebody_deleted_is_not_asked_to_work(self) -> None:
        seen = look(pairs=(fresh(NEW, HOUR, missing=NOW),))

        assert decide(seen).rule == "mint"


class TestDeliver:
    def with_sinks(self, *sinks: SinkView, **facts: Any) -> Snapshot:
        return steady(sinks=sinks) if not facts else replace(steady(**facts), sinks=sinks)

    def test_every_sink_that_lacks_the_current_pair_is_given_it(self) -> None:
        seen = self.with_sinks(SinkView("a", OLD), SinkView("b"), SinkView("c", NEW))
        seen = replace(seen, custody=replace(seen.custody, gone=(OLD,)))

        assert decide(seen) == Decision("deliver", Deliver(NEW, ("a", "b")))

    def test_a_sink_in_doubt_is_given_it_again(self) -> None:
        assert decide(self.with_sinks(SinkView("a", ""))).step == Deliver(NEW, ("a",))

    def test_a_key_that_is_not_ours_is_never_overwritten(self) -> None:
        seen = self.with_sinks(SinkView("a", FOREIGN), SinkView("b"))
        assert decide(seen).step == Deliver(NEW, ("b",))

        assert reason(self.with_sinks(SinkView("a", FOREIGN), SinkView("b", NEW))) == (
            "foreign_in_sink"
        )

    def test_nor_is_a_sink_that_cannot_be_read(self) -> None:
        seen = self.with_sinks(SinkView("a", problem="down"), SinkView("b"))
        assert decide(seen).step == Deliver(NEW, ("b",))

        assert reason(self.with_sinks(SinkView("a", problem="down"), SinkView("b", NEW))) == "sink"

    def test_when_every_sink_holds_it_the_pair_is_current(self) -> None:
        seen = look(key(NEW, HOUR), pairs=(pair(NEW, HOUR, current=None),), holds=NEW)

        custody = custody_after(seen)

        assert (custody.pairs[0].current, custody.pairs[0].arrived) == (NOW, NOW)
        assert custody.rotated == NOW
        assert decide(seen).step.rotated

    @pytest.mark.parametrize("other", [SinkView("b", FOREIGN), SinkView("b", problem="down")])
    def test_a_pair_is_not_current_before_the_sinks_that_are_barred_hold_it(
        self, other: SinkView
    ) -> None:
        seen = look(key(NEW, HOUR), pairs=(pair(NEW, HOUR, current=None),))

        assert reason(replace(seen, sinks=(SinkView("a", NEW), other)))

    def test_a_pair_that_is_not_proved_or_not_alive_is_given_to_nobody(self) -> None:
        unproved = look(key(NEW, MINUTE), pairs=(fresh(NEW, MINUTE),))
        dead = look(pairs=(pair(NEW, HOUR, missing=NOW),))

        assert deliver(unproved, TIMING) is None
        assert deliver(dead, TIMING) is None

    def test_a_pair_that_is_current_again_is_no_new_rotation(self) -> None:
        before = ago(MINUTE)
        again = pair(NEW, HOUR, current=None, arrived=before)
        seen = look(key(NEW, HOUR), pairs=(again,), holds=NEW, rotated=before)

        custody = custody_after(seen)

        assert (custody.pairs[0].current, custody.pairs[0].arrived) == (NOW, before)
        assert custody.rotated == before
        assert not decide(seen).step.rotated

    def test_a_pair_that_was_gone_back_to_has_arrived_since(self) -> None:
        again = pair(OLD, DAY, current=None, arrived=ago(DAY), restored=ago(MINUTE))
        seen = look(key(OLD, DAY), pairs=(again,), holds=OLD)

        assert custody_after(seen).pairs[0].arrived == again.born

    def test_some_sinks_put_means_going_forward_with_the_same_pair(self) -> None:
        seen = replace(
            look(
                key(OLD, DAY),
                key(NEW, HOUR),
                pairs=(pair(OLD, DAY), pair(NEW, HOUR, current=None)),
            ),
            sinks=(SinkView("a", NEW), SinkView("b", OLD)),
        )

        assert decide(seen).step == Deliver(NEW, ("b",))

    def test_with_custody_lost_nothing_is_made_and_nothing_destroyed(self) -> None:
        assert reason(look(key(FOREIGN, DAY), holds=FOREIGN)) == "foreign_in_sink"


class TestRetire:
    def test_the_old_key_is_left_active_for_the_overlap(self) -> None:
        assert decide(superseded(OVERLAP - MINUTE, old={}, listed={})).rule == "rest"

    def test_then_it_is_deactivated(self) -> None:
        assert decide(superseded(OVERLAP, old={}, listed={})).step == Deactivate(OLD)

    def test_but_not_while_somebody_uses_it(self) -> None:
        used = {"used": ago(OVERLAP - MINUTE)}
        assert decide(superseded(OVERLAP, old={}, listed=used)).rule == "rest"

    def test_a_use_long_after_it_was_superseded_is_reported(self) -> None:
        seen = superseded(3 * OVERLAP, old={}, listed={"used": ago(MINUTE)})

        assert reason(seen) == "in_use"

    def test_but_not_of_a_key_that_was_just_deactivated(self) -> None:
        just = {"deactivated": ago(MINUTE)}
        stale = superseded(3 * OVERLAP, old=just, listed={"used": ago(2 * MINUTE)})

        assert decide(stale).rule == "rest"

    def test_nor_of_one_that_is_shown_inactive(self) -> None:
        quick = Timing(TIMING.due, MINUTE, GRACE, SETTLE)
        restored = {"restored": ago(5 * MINUTE)}
        seen = superseded(HOUR, old=restored, listed={"active": False, "used": ago(MINUTE)})

        assert plan(seen, quick).rule == "rest"

    def test_nor_where_nothing_superseded_it(self) -> None:
        given_up = pair(NEW, HOUR, given_up=NOW)
        seen = look(key(NEW, HOUR, used=ago(MINUTE)), pairs=(given_up,))

        assert decide(seen).step == Mint(frozenset({NEW}))

    def test_an_inactive_old_key_waits_for_its_grace(self) -> None:
        old = {"deactivated": ago(GRACE - MINUTE)}
        assert decide(superseded(DAY, old=old, listed={"active": False})).rule != "retire"

    def test_then_it_is_deleted(self) -> None:
        seen = superseded(4 * HOUR, old={"deactivated": ago(GRACE)}, listed={"active": False})

        assert decide(seen) == Decision("retire", Delete(OLD))

    def test_a_use_that_iam_tells_of_late_brings_it_back(self) -> None:
        old = {"deactivated": ago(GRACE), "retiring": ago(GRACE + MINUTE)}
        late = {"active": False, "used": ago(GRACE + 2 * MINUTE)}

        assert decide(superseded(4 * HOUR, old=old, listed=late)).step == Activate(OLD)

    def test_the_use_is_measured_from_the_decision_not_from_the_record(self) -> None:
        old = {"deactivated": ago(GRACE), "retiring": ago(GRACE + 5 * HOUR)}
        late = {"active": False, "used": ago(GRACE + 5 * HOUR + MINUTE)}

        assert decide(superseded(DAY - HOUR, old=old, listed=late)).step == Activate(OLD)

    def test_what_a_person_deactivated_stays_so_and_is_deleted_after_its_grace(self) -> None:
        lately = {"active": False, "used": ago(GRACE)}
        since = [ago(GRACE - MINUTE), ago(GRACE)]
        seen = [superseded(4 * HOUR, old={"deactivated": at}, listed=lately) for at in since]

        assert [decide(one).rule for one in seen] == ["rest", "retire"]
        assert decide(seen[1]).step == Delete(OLD)

    def test_deactivated_without_a_record_is_noted_and_waits_its_grace(self) -> None:
        seen = superseded(4 * HOUR, old={}, listed={"active": False})

        assert changed(seen, OLD).deactivated == NOW

    def test_a_young_key_may_be_shown_inactive_by_an_old_listing(self) -> None:
        seen = superseded(4 * HOUR, old={"restored": ago(MINUTE)}, listed={"active": False})

        assert decide(seen).rule == "rest"

    def test_a_key_that_somebody_activated_again_has_its_overlap_again(self) -> None:
        seen = superseded(
            4 * HOUR, old={"deactivated": ago(HOUR), "retiring": ago(HOUR)}, listed={}
        )
        old = changed(seen, OLD)

        assert (old.deactivated, old.retiring, old.restored) == (None, None, NOW)

    def test_unless_the_listing_may_be_old(self) -> None:
        assert decide(superseded(4 * HOUR, old={"deactivated": NOW}, listed={})).rule == "rest"

    def test_a_key_that_a_sink_holds_is_needed(self) -> None:
        seen = superseded(4 * HOUR, old={}, listed={})
        seen = replace(seen, sinks=(SinkView("a", NEW), SinkView("b", OLD)))

        assert decide(seen).step == Deliver(NEW, ("b",))

    def test_nothing_is_retired_while_a_sink_cannot_be_read(self) -> None:
        seen = superseded(4 * HOUR, old={}, listed={})
        seen = replace(seen, sinks=(SinkView("a", NEW), SinkView("b", problem="down")))

        assert reason(seen) == "sink"
        assert retire(seen, TIMING) is None

    def test_nothing_is_retired_before_the_new_pair_is_current(self) -> None:
        seen = look(
            key(OLD, DAY),
            key(NEW, HOUR),
            pairs=(pair(OLD, DAY), pair(NEW, HOUR, current=None)),
            holds=OLD,
        )

        assert decide(seen).rule == "deliver"
        assert retire(replace(seen, sinks=()), TIMING) is None

    def test_the_current_pair_is_kept_although_no_sink_is_left(self) -> None:
        assert decide(steady(sinks=())).rule == "rest"

    @pytest.mark.parametrize("shown", [(), (key(NEW, 5 * MINUTE, active=False),)])
    def test_nothing_is_retired_unless_the_new_key_is_seen_active(
        self, shown: tuple[Key, ...]
    ) -> None:
        quick = Timing(TIMING.due, MINUTE, MINUTE, SETTLE)
        seen = look(
            key(OLD, 2 * HOUR),
            *shown,
            pairs=(pair(OLD, 2 * HOUR), pair(NEW, 5 * MINUTE)),
            holds=NEW,
        )

        assert plan(seen, quick).rule == "rest"

    def test_a_leaked_key_has_no_overlap(self) -> None:
        assert decide(superseded(MINUTE, old={"revoked": NOW}, listed={})).step == Deactivate(OLD)

    def test_not_even_while_it_is_used_between_the_listing_and_the_question_when(self) -> None:
        seen = superseded(HOUR, old={"revoked": NOW}, listed={"used": NOW + MINUTE / 60})

        assert decide(seen).step == Deactivate(OLD)

    def test_and_no_grace(self) -> None:
        old = {"revoked": ago(MINUTE), "deactivated": ago(MINUTE)}
        listed = {"active": False, "used": NOW}

        assert decide(superseded(MINUTE, old=old, listed=listed)).step == Delete(OLD)

    def test_an_orphan_that_is_used_was_never_ours(self) -> None:
        stray = orphan(OLD, DAY)
        seen = superseded(HOUR, old={}, listed={"used": NOW})
        seen = replace(seen, custody=replace(seen.custody, pairs=(stray, pair(NEW, HOUR))))

        assert [p.key_id for p in custody_after(seen).pairs] == [NEW]

    def test_and_is_given_back_first(self) -> None:
        stray = orphan(OLD, DAY, deactivated=ago(HOUR))
        seen = superseded(HOUR, old={}, listed={"used": NOW, "active": False})
        seen = replace(seen, custody=replace(seen.custody, pairs=(stray, pair(NEW, HOUR))))

        assert decide(seen).step == Activate(OLD)

    def test_an_adopted_key_is_retired_like_our_own(self) -> None:
        adopted: dict[str, Any] = {
            "sealed": None,
            "adopted": True,
            "delivered": {},
            "verified": None,
        }

        assert decide(superseded(OVERLAP, old=adopted, listed={})).step == Deactivate(OLD)
        assert decide(superseded(MINUTE, old=adopted, listed={})).rule == "rest"
        used = {"used": ago(OVERLAP)}
        assert decide(superseded(OVERLAP, old=adopted, listed=used)).step == Deactivate(OLD)

    def test_a_given_up_first_key_is_removed(self) -> None:
        seen = look(key(NEW, HOUR), key(FOREIGN, DAY), pairs=(fresh(NEW, HOUR, given_up=NOW),))

        assert decide(seen).step == Deactivate(NEW)

    def test_but_not_while_a_sink_holds_it(self) -> None:
        seen = look(
            key(NEW, HOUR), key(FOREIGN, DAY), pairs=(pair(NEW, HOUR, given_up=NOW),), holds=NEW
        )

        assert reason(seen) == "slots_full"

    def test_nor_while_a_write_only_sink_may_hold_it(self) -> None:
        seen = look(
            key(NEW, HOUR), key(FOREIGN, DAY), pairs=(fresh(NEW, HOUR, given_up=NOW),), holds=""
        )

        assert reason(seen) == "slots_full"


class TestMint:
    @pytest.mark.parametrize(("late", "held"), [(timedelta(), False), (MINUTE, True)])
    def test_an_older_pair_that_is_put_back_for_long_is_told(
        self, late: timedelta, held: bool
    ) -> None:
        arrived = NOW - 2 * (OVERLAP + GRACE + SETTLE) - late
        pairs = (pair(OLD, 9 * DAY), pair(NEW, 8 * DAY, arrived=arrived, current=NOW))
        seen = look(key(OLD, 9 * DAY), key(NEW, 8 * DAY), pairs=pairs, holds=NEW)

        step = decide(seen).step

        assert isinstance(step, Hold if held else Rest)
        assert not held or reason(seen) == "put_back"

    def test_nothing_is_put_back_over_what_is_not_there_yet(self) -> None:
        on_its_way = pair(NEW, DAY, arrived=ago(DAY), current=None)

        assert holds.put_back(None, TIMING) is holds.put_back(on_its_way, TIMING) is None

    def test_a_user_without_keys_gets_one(self) -> None:
        assert decide(look()) == Decision("mint", Mint(frozenset()))

    def test_a_pair_that_is_due_by_age_is_replaced(self) -> None:
        seen = look(key(NEW, DAY), pairs=(pair(NEW, DAY),), holds=NEW)

        assert decide(seen) == Decision("mint", Mint(frozenset({NEW})))

    def test_so_is_one_whose_rotation_was_asked_for(self) -> None:
        seen = look(key(NEW, HOUR), pairs=(pair(NEW, HOUR),), holds=NEW, asked=NOW)

        assert decide(seen).rule == "mint"

    def test_and_one_that_leaked(self) -> None:
        seen = look(key(NEW, HOUR), pairs=(pair(NEW, HOUR, revoked=NOW),), holds=NEW)

        assert decide(seen).rule == "mint"

    def test_a_key_that_no_listing_shows_yet_takes_a_slot(self) -> None:
        seen = look(
            key(OLD, DAY),
            pairs=(pair(OLD, DAY), pair(NEW, MINUTE, current=ago(MINUTE))),
            holds=NEW,
            asked=NOW,
        )

        assert decide(seen).rule == "rest"

    @pytest.mark.parametrize("facts", [{"missing": ago(MINUTE)}, {"deleted": ago(MINUTE)}])
    def test_a_key_that_is_gone_takes_none(self, facts: dict[str, Any]) -> None:
        pairs = (pair(OLD, DAY, **facts), pair(NEW, HOUR))

        assert decide(look(key(NEW, HOUR), pairs=pairs, holds=NEW, asked=NOW)).rule == "mint"

    @pytest.mark.parametrize(
        ("age", "shown"), [(MINUTE, (key(NEW, MINUTE),)), (SETTLE, ())], ids=["shown", "no more"]
    )
    def test_a_listing_that_is_not_stale_is_believed_when_it_shows_no_free_slot(
        self, age: timedelta, shown: tuple[Key, ...]
    ) -> None:
        others = (key(FOREIGN, DAY), key("AKIAOTHER", DAY))[len(shown) :]
        ours = pair(NEW, age, missing=None if shown else NOW)

        assert reason(look(*shown, *others, pairs=(ours,), holds=NEW, asked=NOW)) == "slots_full"

    def test_a_slot_that_becomes_free_by_itself_is_waited_for(self) -> None:
        seen = superseded(MINUTE, old={}, listed={})

        assert decide(replace(seen, custody=replace(seen.custody, asked=NOW))).rule == "rest"

    def test_a_slot_that_was_just_freed_is_waited_for(self) -> None:
        seen = superseded(HOUR, old={"deactivated": ago(DAY), "deleted": NOW}, listed={})

        assert decide(replace(seen, custody=replace(seen.custody, asked=NOW))).rule == "rest"

    def test_full_slots_are_held_and_the_foreign_key_is_named(self) -> None:
        seen = look(
            key(FOREIGN, DAY), key(NEW, HOUR), pairs=(pair(NEW, HOUR),), holds=NEW, asked=NOW
        )
        step = decide(seen).step

        assert isinstance(step, Hold)
        assert step.reason == "slots_full"
        assert f"two keys and …{FOREIGN[-4:]} cannot be retired" in step.what

    def test_full_slots_are_held_where_both_are_ours_and_in_sinks(self) -> None:
        ours = tuple(pair(name, HOUR, given_up=NOW) for name in (OLD, NEW))
        seen = look(key(OLD, HOUR), key(NEW, HOUR), pairs=ours)
        step = decide(replace(seen, sinks=(SinkView("a", OLD), SinkView("b", NEW)))).step

        assert isinstance(step, Hold)
        assert "the keys that the sinks hold cannot be retired" in step.what


class TestRest:
    def until(self, seen: Snapshot) -> datetime:
        step = decide(seen).step
        assert isinstance(step, Rest), f"expected rest, not {step}"
        return step.until

    def test_until_the_pair_is_due(self) -> None:
        assert self.until(steady()) == ago(2 * HOUR) + DAY

    def test_until_an_interrupted_mint_can_be_closed(self) -> None:
        found = ago(MINUTE)
        intent = Intent(ago(HOUR), frozenset(), found)
        seen = steady(custody=replace(steady().custody, intent=intent))

        assert self.until(seen) == found + SETTLE

    def test_until_the_overlap_is_over(self) -> None:
        assert self.until(superseded(HOUR / 2, old={}, listed={})) == NOW + HOUR / 2

    def test_until_the_grace_is_over(self) -> None:
        since = ago(HOUR)
        seen = superseded(3 * HOUR, old={"deactivated": since}, listed={"active": False})

        assert self.until(seen) == since + GRACE

    def test_until_an_old_listing_can_no_longer_deceive(self) -> None:
        seen = look(pairs=(pair(NEW, MINUTE),), holds=NEW)

        assert self.until(seen) == ago(MINUTE) + SETTLE

    def test_but_never_for_ever(self) -> None:
        found = ago(SETTLE) + MINUTE
        seen = look(holds=None, intent=Intent(found, frozenset(), found))
        assert self.until(seen) == NOW + MINUTE

        far = Timing(lambda born: NOW, OVERLAP, GRACE, SETTLE)
        stuck = superseded(HOUR * 20, old={"deleted": NOW - SETTLE + MINUTE}, listed={})
        assert plan(stuck, far).step == Rest(NOW + MINUTE)


class TestEdges:
    """The instant at which something is due belongs to it, and what is later does not."""

    intent = Intent(ago(20 * MINUTE), frozenset(), ago(SETTLE))

    def test_a_key_made_at_the_end_of_the_calls_window_may_be_the_orphan(self) -> None:
        made = 20 * MINUTE - CALL_WINDOW
        seen = look(key(FOREIGN, made), intent=self.intent)

        assert changed(seen, FOREIGN).orphan

    def test_the_clocks_may_differ_by_five_seconds_and_the_call_take_two_minutes(self) -> None:
        assert timedelta(seconds=5) == CLOCK_SKEW
        assert CALL_WINDOW == 2 * MINUTE

    def test_a_key_made_as_much_before_its_intent_as_clocks_differ_may_be_the_orphan(self) -> None:
        made = 20 * MINUTE + CLOCK_SKEW
        seen = look(key(FOREIGN, made), intent=self.intent)

        assert changed(seen, FOREIGN).orphan

    def test_a_pair_that_was_just_deleted_says_nothing_of_the_others(self) -> None:
        gone = pair(OLD, DAY, deleted=ago(MINUTE), missing=ago(SETTLE))
        other = pair(NEW, 2 * HOUR, missing=ago(HOUR))
        seen = look(key(OLD, DAY), key(NEW, 2 * HOUR), pairs=(gone, other), holds=NEW)

        assert changed(seen, NEW).missing is None

    def test_absence_counts_from_the_instant_at_which_listings_are_steady(self) -> None:
        seen = look(pairs=(pair(NEW, SETTLE),), holds=NEW)

        assert changed(seen, NEW).missing == NOW

    def test_a_refusal_at_the_end_of_settle_is_late(self) -> None:
        refused = fresh(NEW, HOUR, refused=ago(HOUR - SETTLE))
        seen = look(key(NEW, HOUR), pairs=(refused,))

        assert changed(seen, NEW).given_up == NOW

    def test_of_several_sinks_with_unknown_keys_the_first_is_told(self) -> None:
        strange = tuple(SinkView(name, FOREIGN) for name in ("first", "second"))

        step = decide(steady(sinks=strange)).step

        assert isinstance(step, Hold)
        assert "sink first" in step.what

    def test_a_listing_is_believed_from_the_end_of_settle_on(self) -> None:
        activated = superseded(HOUR / 2, old={"deactivated": ago(SETTLE)}, listed={})
        switched_off = superseded(HOUR / 2, old={"restored": ago(SETTLE)}, listed={"active": False})

        assert changed(activated, OLD).deactivated is None
        assert changed(switched_off, OLD).deactivated == NOW

    def test_a_use_when_the_overlap_began_is_no_late_use(self) -> None:
        old = {"deactivated": ago(GRACE), "retiring": ago(GRACE)}
        seen = superseded(DAY / 2, old=old, listed={"active": False, "used": ago(GRACE + OVERLAP)})

        assert decide(seen).step == Delete(OLD)

    def test_a_use_that_ends_with_the_overlap_holds_nothing(self) -> None:
        seen = superseded(HOUR, old={}, listed={"used": NOW})
        at_its_end = replace(seen, now=NOW + HOUR / 2)

        assert not isinstance(decide(seen).step, Hold)
        assert not isinstance(decide(at_its_end).step, Hold)

    def test_a_leaked_key_that_is_used_is_held_against_nobody(self) -> None:
        seen = superseded(HOUR, old={"revoked": ago(MINUTE)}, listed={"used": NOW})

        assert decide(seen).step == Deactivate(OLD)

    def test_without_anything_to_wait_for_it_looks_again_after_settle(self) -> None:
        seen = steady(now=NOW + DAY, custody=Custody(user_id=USER, pairs=()), keys=(), sinks=())

        assert rest(seen, TIMING) == Rest(NOW + DAY + SETTLE)

    def test_a_pair_is_dead_from_the_end_of_settle_on(self) -> None:
        seen = look(pairs=(pair(NEW, SETTLE),))

        assert seen.dead(seen.custody.pairs[0], TIMING)

    def test_no_more_than_sixteen_ids_are_remembered(self) -> None:
        known = Custody(gone=tuple(map(str, range(16))), pairs=(pair(OLD, DAY),))

        assert known.without_pair(OLD).gone == (*map(str, range(1, 16)), OLD)

    def test_what_is_chosen_again_is_not_given_up_itself_nor_are_older_ones(self) -> None:
        pairs = tuple(pair(name, DAY) for name in ("OLDEST", OLD, NEW))
        seen = look(key(OLD, DAY), pairs=pairs)

        chosen = seen.back_to(pairs[1])

        assert [p.given_up for p in chosen.pairs] == [None, None, NOW]

    def test_what_was_given_up_before_stays_so_since_then(self) -> None:
        pairs = (pair(OLD, DAY), pair("AKIABAD", HOUR, given_up=ago(MINUTE)), pair(NEW, HOUR))

        chosen = look(key(OLD, DAY), pairs=pairs).back_to(pairs[0])

        assert [p.given_up for p in chosen.pairs] == [None, ago(MINUTE), NOW]

    def test_every_reason_of_a_hold_is_named(self) -> None:
        every = [
            holds.ROOT,
            holds.USER_MISSING,
            holds.user_replaced(USER),
            holds.deactivated(NEW),
            holds.foreign_in_sink(SinkView("file", FOREIGN)),
            holds.sink(SinkView("file", problem="down")),
            holds.in_use(OLD),
            holds.put_back(pair(NEW, 99 * DAY, arrived=ago(99 * DAY), current=NOW), TIMING),
            holds.slots_full(()),
            holds.interrupted(()),
        ]

        assert tuple(hold.reason for hold in every) == REASONS

    def test_a_hold_names_the_key_that_a_sink_holds(self) -> None:
        step = decide(steady(sinks=(SinkView("file", "AKIAELSEWHERE"),))).step

        assert isinstance(step, Hold)
        assert "…HERE" in step.what
