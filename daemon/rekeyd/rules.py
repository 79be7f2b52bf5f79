"""The whole decision: `plan` looks at a snapshot and names the one next step.

The rules are tried in order and the first match wins. Nothing remembers where a rotation was: after
a crash, a restart or a person's hand in IAM the same snapshot leads to the same step.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from rekeyd import holds
from rekeyd.model import Intent, Key, Pair, Snapshot, Timing
from rekeyd.secret import short
from rekeyd.steps import (
    Activate,
    Deactivate,
    Decision,
    Delete,
    Deliver,
    Mint,
    Record,
    Rest,
    Step,
    Verify,
)

CLOCK_SKEW = timedelta(seconds=5)
"""How far apart the Date of IAM's listing and a CreateDate may be: both have whole seconds."""

CALL_WINDOW = timedelta(minutes=2)
"""How long after its intent a mint's call reaches IAM, unless the process was stopped in it."""

NOTHING = timedelta()


def plan(snapshot: Snapshot, timing: Timing) -> Decision:
    """Name the next step, and the rule that asks for it. A dry run is this and nothing else."""
    answers = ((rule.__name__, rule(snapshot, timing)) for rule in RULES)
    return next(Decision(name, step) for name, step in answers if step)  # the last one answers


def guard(s: Snapshot, _: Timing) -> Step | None:
    """Touch nothing unless this is the user that we know, and not with root's credentials."""
    if s.root:
        return holds.ROOT
    if s.user_id is None:
        return holds.USER_MISSING
    if s.custody.user_id is None:
        return Record("met the user", replace(s.custody, user_id=s.user_id))
    if s.custody.user_id != s.user_id:
        return holds.user_replaced(s.user_id)
    return None


def close_a_crashed_mint(s: Snapshot, t: Timing) -> Step | None:
    """Once IAM can no longer hide it, find the key of a mint whose answer was lost.

    One call makes one key, at once. With two that fit, or one that came later or who knows when,
    nobody can tell whether it is ours: the intent stays open, and `mint` waits for a person.
    """
    intent = s.custody.intent
    if intent is None or (intent.found and s.now < _settled(intent, t)):
        return None
    if intent.found is None:
        found = replace(intent, found=s.now)
        return Record("a mint was interrupted", replace(s.custody, intent=found))
    unexplained = _unexplained(s, intent)
    born = {k.id: k.created for k in unexplained if k.created}
    closed = replace(s.custody, intent=None)
    match [name for name, at in born.items() if at <= intent.at + CALL_WINDOW]:
        case [name]:
            orphan = Pair(key_id=name, minted=born[name])
            return Record(
                f"the interrupted mint left {short(name)}, whose secret nobody has",
                replace(closed, pairs=(*closed.pairs, orphan)),
            )
    return None if unexplained else Record("the interrupted mint left no key", closed)


def forget_what_vanished(s: Snapshot, t: Timing) -> Step | None:
    """Follow IAM's listing, slowly: absence changes custody and never justifies a call."""
    former = s.custody.ledger.keys() - {sink.mark for sink in s.sinks}
    if former:  # when one is named again, it may hold anything
        ledger = {mark: held for mark, held in s.custody.ledger.items() if mark not in former}
        return Record("a sink is not named any more", replace(s.custody, ledger=ledger))
    for pair in s.custody.pairs:
        listed = pair.key_id in s.listed
        if pair.deleted and s.now >= pair.deleted + t.settle:
            if listed:
                return _note(s, pair, "is listed again after its deletion", deleted=None)
            return Record(f"{short(pair.key_id)} is gone", s.custody.without_pair(pair.key_id))
        if pair.deleted:
            continue
        if listed and pair.missing:
            return _note(s, pair, "is listed again", missing=None)
        if not listed and s.now >= pair.born + t.settle:
            if pair.missing is None:
                return _note(s, pair, "is not listed any more", missing=s.now)
            if s.now >= pair.missing + t.settle:
                what = f"{short(pair.key_id)} was deleted by somebody else"
                return Record(what, s.custody.without_pair(pair.key_id))
    return None


def go_back(s: Snapshot, t: Timing) -> Step | None:
    """When the current key is dead and an older pair still exists, make that one current."""
    target = s.target
    if target is None:
        return None
    if s.dead(target, t):
        if s.fallback:
            what = f"{short(target.key_id)} is dead: going back to {short(s.fallback.key_id)}"
            return Record(what, s.back_to(s.fallback))
        if target.key_id in s.listed and not _wanted(s, target):
            return holds.deactivated(target.key_id)
        return None
    return Activate(target.key_id) if target.deactivated else None


def verify(s: Snapshot, t: Timing) -> Step | None:
    """Prove the new pair before anybody is given it; when it never works, try another one later."""
    target = s.target
    if target is None or target.verified or s.dead(target, t):
        return None
    late = target.refused is not None and target.refused >= target.born + t.settle
    if late and not s.holders(target.key_id):
        if s.fallback:
            what = f"{short(target.key_id)} never worked: going back to {short(s.fallback.key_id)}"
            return Record(what, replace(s.back_to(s.fallback), asked=s.now))
        return _note(s, target, "never worked: giving it up", given_up=s.now)
    return Verify(target.key_id)


def deliver(s: Snapshot, t: Timing) -> Step | None:
    """Give the current pair to every sink that lacks it, but never over a key that is not ours."""
    target = s.target
    if target is not None and target.verified and not s.dead(target, t):
        lacking = [sink for sink in s.sinks if sink.holds != target.key_id]
        barred = [sink for sink in s.sinks if sink.problem or sink in s.strangers]
        todo = tuple(sink.name for sink in lacking if sink not in barred)
        if todo:
            return Deliver(target.key_id, todo)
        if not lacking and target.current is None:
            new, arrived = target.arrived is None, max(target.arrived or s.now, target.born)
            custody = replace(s.custody, rotated=s.now if new else s.custody.rotated)
            custody = custody.with_pair(target.key_id, current=s.now, arrived=arrived)
            return Record(f"every sink holds {short(target.key_id)}", custody, rotated=new)
    if s.strangers:
        return holds.foreign_in_sink(s.strangers[0])
    troubled = next((sink for sink in s.sinks if sink.problem), None)
    return holds.sink(troubled) if troubled else None


def retire(s: Snapshot, t: Timing) -> Step | None:
    """Deactivate, and a grace later delete, what nobody needs: checked afresh before each step."""
    in_use: Pair | None = None
    for pair in s.custody.pairs:
        key = s.listed.get(pair.key_id)
        if key is None or not _dispensable(s, pair):
            continue
        step = _retire_listed(s, t, pair, key)
        if step is not None:
            return step
        if key.active and _used_too_long(s, t, pair, key):
            in_use = pair
    return holds.in_use(in_use.key_id) if in_use else None


def _retire_listed(s: Snapshot, t: Timing, pair: Pair, key: Key) -> Step | None:
    if pair.orphan and key.last_used:  # somebody has its secret: it was never our orphan
        if not key.active:
            return Activate(key.id)
        kept = replace(s.custody, pairs=tuple(p for p in s.custody.pairs if p != pair))
        return Record(f"{short(key.id)} is in use, so it is not ours", kept)
    overlap = _overlap(t, pair)
    if key.active:
        if pair.deactivated is None:
            quiet = s.now >= _needed_until(s, pair, key) + overlap
            return Deactivate(key.id) if quiet or pair.revoked else None
        if s.now < pair.deactivated + t.settle:
            return None  # the listing may be stale
        return _note(
            s, pair, "was activated by somebody", deactivated=None, retiring=None, restored=s.now
        )
    if pair.deactivated is None:
        if s.now < pair.born + t.settle:
            return None  # the listing may be stale
        return _note(s, pair, "is inactive", deactivated=s.now)
    used, decided = key.last_used, pair.retiring  # a person's own Deactivate stands
    if used and decided and used > decided - overlap and not pair.revoked:
        return Activate(key.id)  # IAM tells of a use only now: whoever it was is refused meanwhile
    grace = NOTHING if pair.revoked else t.grace
    return Delete(key.id) if s.now >= pair.deactivated + grace else None


def mint(s: Snapshot, t: Timing) -> Step | None:
    """Make a new pair when it is due and there is room for it. Every sink could take it."""
    if intent := s.custody.intent:
        waiting = s.now < _settled(intent, t)
        return None if waiting else holds.interrupted(_unexplained(s, intent))
    if not due(s, t):
        return None
    expected = {p.key_id for p in s.custody.pairs if not p.deleted and not p.missing}
    if len(s.listed.keys() | expected) < 2:
        return Mint(frozenset(s.listed))
    if any(pair.deleted or _dispensable(s, pair) for pair in s.custody.pairs):
        return holds.put_back(s.target, t)  # else a slot becomes free by itself
    if any(s.now < p.born + t.settle and not _shown(s, p) for p in s.custody.pairs):
        return None  # the listing is stale, so what it shows of the rest may be too
    return holds.slots_full(s.foreign)


def rest(s: Snapshot, t: Timing) -> Step:
    """Sleep until the next instant at which a rule could match."""
    instants = [t.due(s.target.born)] if s.target else []
    if s.custody.intent:
        instants.append(_settled(s.custody.intent, t))
    for pair in s.custody.pairs:
        since = (pair.born, pair.missing, pair.deleted, pair.deactivated)
        instants += [instant + t.settle for instant in since if instant]
        if pair.deactivated:
            instants.append(pair.deactivated + t.grace)
        if key := s.listed.get(pair.key_id):
            instants.append(_needed_until(s, pair, key) + _overlap(t, pair))
    return Rest(min((i for i in instants if i > s.now), default=s.now + t.settle))


RULES: tuple[Callable[[Snapshot, Timing], Step | None], ...] = (
    guard,
    close_a_crashed_mint,
    forget_what_vanished,
    go_back,
    verify,
    deliver,
    retire,
    mint,
    rest,
)


def _note(s: Snapshot, pair: Pair, what: str, **changes: datetime | None) -> Record:
    return Record(f"{short(pair.key_id)} {what}", s.custody.with_pair(pair.key_id, **changes))


def _wanted(s: Snapshot, target: Pair) -> bool:
    return bool(s.custody.asked or target.revoked)


def due(s: Snapshot, t: Timing) -> bool:
    """Tell whether a new pair should be made as soon as one can be."""
    target = s.target
    if target is None or _wanted(s, target):
        return True
    vanished = target.key_id not in s.listed and s.dead(target, t)
    return vanished or s.now >= t.due(target.born)


def _dispensable(s: Snapshot, pair: Pair) -> bool:
    """Whether every sink is seen to do without it. A sink that cannot be read may need it."""
    target = s.target
    if pair.deleted or pair == target or pair.key_id in {sink.holds for sink in s.sinks}:
        return False
    if any(sink.problem for sink in s.sinks):
        return False
    if target is None:
        return all(sink.holds != "" for sink in s.sinks)
    return target.current is not None and _shown(s, target)  # however young it is


def _shown(s: Snapshot, pair: Pair) -> bool:
    """Whether this very listing shows it Active."""
    return any(key.id == pair.key_id and key.active for key in s.keys)


def _settled(intent: Intent, t: Timing) -> datetime:
    """When no listing can hide the key of an interrupted mint any more."""
    return (intent.found or intent.at) + t.settle


def _unexplained(s: Snapshot, intent: Intent) -> list[Key]:
    """The unused keys that came after an intent: its call may have made one of them."""
    since = intent.at - CLOCK_SKEW
    new = [k for k in s.foreign if not (k.last_used or k.id in intent.known or s.holders(k.id))]
    return [key for key in new if key.created is None or key.created >= since]


def _overlap(t: Timing, pair: Pair) -> timedelta:
    return t.overlap if pair.handed_out else NOTHING


def _needed_until(s: Snapshot, pair: Pair, key: Key) -> datetime:
    """The last instant at which something may have needed it: a sink, a person, or a consumer."""
    superseded = s.target.current if s.target else None
    return max(i for i in (pair.born, superseded, key.last_used) if i)


def _used_too_long(s: Snapshot, t: Timing, pair: Pair, key: Key) -> bool:
    superseded = s.target.current if s.target else None
    if not (superseded and key.last_used) or pair.deactivated:
        return False
    return key.last_used > max(superseded, pair.born) + _overlap(t, pair)
