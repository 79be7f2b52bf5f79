"""The invariants of rekeyd.model, checked at every effect by one who knows the truth.

A person may break an invariant: what a person did, and rekeyd could not have seen, is excused. Only
that. Each check says in one sentence what it excuses.
"""

from datetime import timedelta
from typing import TYPE_CHECKING

from rekeyd.model import Custody, Pair
from rekeyd.secret import AccessPair
from world.truth import ACTIVE, INACTIVE, PERSON, US, TrueKey

if TYPE_CHECKING:
    from world.world import World

SKEW = timedelta(seconds=5)
MINT_WINDOW = timedelta(minutes=2)
"""How long after its intent a mint may commit: only a key made in it can be taken for ours."""


class Violation(AssertionError):  # noqa: N818 (it is a finding, not a mistake of the tests)
    """An invariant was broken. The message is the story that led there."""


class Checker:
    """Looks over the program's shoulder, just before each effect commits."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self.found: list[str] = []

    def creating(self) -> None:
        """S3. Excused: a key that a person made so lately that the listing need not show it."""
        world, truth = self._world, self._world.truth
        shown = world.looked - world.delays.list
        known = [k for k in truth.living if k.maker == US or k.created <= shown]
        if len(known) >= 2 or len(world.listed) >= 2:
            self._found(f"S3: a third key is made beside {', '.join(k.id for k in known)}")
        for pair in truth.custody.pairs:
            key = truth.keys.get(pair.key_id)
            waiting = pair.sealed and not pair.given_up and not pair.current and not pair.revoked
            if waiting and key in truth.active and not self._older_is_current(pair):
                self._found(f"S3: a second rotation begins before {pair.key_id} is delivered")

    def putting(self, sink: str, pair: AccessPair) -> None:
        """S1. Excused: a key, or a user, that a person ended."""
        truth = self._world.truth
        key = truth.keys.get(pair.key_id)
        if key is None or pair.secret.reveal() != key.secret:
            self._found(f"S1: {sink} is given a pair that never existed")
        elif key.user_id == truth.user_id and key.status != ACTIVE and self._ended_by_us(key):
            self._found(f"S1: {sink} is given {key.id}, which is {key.status}")
        self._overwriting(sink)

    def _overwriting(self, sink: str) -> None:
        """A key that is not ours is never replaced in a sink. Excused: one put there since."""
        held = self._world.truth.sinks[sink]
        key = held.pair and self._world.truth.keys.get(held.pair.key_id)
        if held.noticed and key and key.maker == PERSON and not self._adopted(key):
            self._found(f"S1: {sink} held {key.id}, which is not ours, and it is overwritten")

    def deactivating(self, key: TrueKey) -> None:
        """S1 and S2. Excused: a sink that a person gave this key, unseen since."""
        truth = self._world.truth
        self._touching(key, "deactivated")
        if key.status != ACTIVE:
            return
        self._last_one(key)
        if key.id in truth.revoked:
            return
        for name, sink in truth.sinks.items():
            until = sink.held.get(key.id)
            if until and truth.now < until + self._world.timing.overlap:
                self._found(
                    f"S1: {key.id} is deactivated {truth.now - until} after {name} held it, "
                    "and a consumer may still have it in memory"
                )

    def _last_one(self, key: TrueKey) -> None:
        """The last key that works stays. Excused: the others ended while every front may lie."""
        world, truth = self._world, self._world.truth
        others = [truth.keys[p.key_id] for p in truth.custody.pairs if p.current]
        others = [other for other in others if other.id != key.id and other.id in truth.keys]
        unseen = min(world.delays.list, world.delays.sts, world.delays.s3)
        if not others or any(
            other.status == ACTIVE or other.changes[-1].at > truth.now - unseen for other in others
        ):
            return
        self._found(f"S1: {key.id} is deactivated, the last key that works")

    def deleting(self, key: TrueKey) -> None:
        """S2. Excused: what a person did to the key and no listing need show yet."""
        world, truth = self._world, self._world.truth
        self._touching(key, "deleted")
        if self._unsaved_mint(key) or key.id in truth.revoked:
            return
        last = key.changes[-1]
        pair = self._pair(key)
        recorded = pair.deactivated if pair else None
        by_person = last.by == PERSON and (
            last.at > truth.now - world.delays.list or (recorded and last.at >= recorded)
        )
        if key.status != INACTIVE:
            if not by_person:
                self._found(f"S2: {key.id} is deleted while {key.status}")
            return
        if truth.now < last.at + world.timing.grace and not by_person:
            self._found(f"S2: {key.id} is deleted {truth.now - last.at} after it became Inactive")
        used = max(
            [use for use in key.uses if use <= truth.now - world.lag]
            + [use for at, use in truth.seen_used.items() if at == key.id],
            default=None,
        )
        handed_out = pair is not None and pair.handed_out
        quiet = world.timing.overlap if handed_out else timedelta()
        superseded = last.by == US  # what a person switched off was in use until then, of course
        if used and superseded and used > last.at - quiet and not (pair and pair.revoked):
            self._found(f"S2: {key.id} is deleted although IAM told of its use at {used:%H:%M:%S}")

    def saving(self, custody: Custody) -> None:
        """S4, and one mint at a time."""
        world = self._world
        self.writing(repr(custody))
        if custody.intent and custody.intent != world.truth.custody.intent:
            intents = (*world.truth.intents, custody.intent.at)[-2:]
            world.truth = world.truth._replace(intents=intents)

    def writing(self, text: str) -> None:
        """S4: no secret is written down in the clear."""
        for key in self._world.truth.keys.values():
            if key.secret in text:
                self._found(f"S4: the secret of {key.id} is written in the clear")

    def _touching(self, key: TrueKey, how: str) -> None:
        """S1 and S2: never a key that a sink holds, never a key that is not ours."""
        truth = self._world.truth
        for name, sink in truth.sinks.items():
            holds = sink.pair is not None and sink.pair.key_id == key.id
            if holds and (sink.by == US or sink.noticed):
                self._found(f"S1: {key.id} is {how} while {name} holds it")
        ours = key.maker == US or self._adopted(key)
        if not ours and not self._looks_like_an_orphan(key):
            self._found(f"S2: {key.id} is {how}, and it is not ours")

    def _looks_like_an_orphan(self, key: TrueKey) -> bool:
        """Whether a person made it just when a mint of ours was interrupted, and never used it."""
        near = any(at - SKEW <= key.created <= at + MINT_WINDOW for at in self._world.truth.intents)
        return near and key.id not in self._world.truth.seen_used

    def _adopted(self, key: TrueKey) -> bool:
        pair = self._pair(key)
        return key.id in self._world.truth.custody.gone or (pair is not None and pair.adopted)

    def _unsaved_mint(self, key: TrueKey) -> bool:
        truth = self._world.truth
        return key.id == truth.minted and not key.uses and not truth.holders(key.id)

    def _older_is_current(self, pair: Pair) -> bool:
        pairs = self._world.truth.custody.pairs
        return any(p.minted > pair.minted and p.sealed and not p.given_up for p in pairs)

    def _ended_by_us(self, key: TrueKey) -> bool:
        return key.changes[-1].by == US

    def _pair(self, key: TrueKey) -> Pair | None:
        pairs = self._world.truth.custody.pairs
        return next((pair for pair in pairs if pair.key_id == key.id), None)

    def _found(self, what: str) -> None:
        self.found.append(what)
        self._world.tell(f"*** {what} ***")
