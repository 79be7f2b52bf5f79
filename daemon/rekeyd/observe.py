"""One look: what IAM lists, what the sinks hold and what custody knows become a `Snapshot`."""

import time
from dataclasses import replace
from datetime import UTC, datetime

from rekeyd.errors import Gone, RekeydError, Transient
from rekeyd.model import Custody, Key, SinkView, Snapshot
from rekeyd.ports import Identity, Sink
from rekeyd.rules import due

STALE = 60.0
"""Seconds after which what IAM listed no longer justifies a step: somebody may have acted since."""


def look(who: Identity) -> Snapshot:
    """Look at everything once, changing nothing.

    Raises `Transient` or `Refused` when IAM or custody cannot be read: without them nothing is
    decided. A sink that cannot be read is a fact like any other, and so is one that is slow: IAM is
    asked again then, so that it keeps nobody from a step.
    """
    custody = who.store.load(who.name)
    seen = _ask_iam(who, custody)
    if seen.user_id is None:
        return seen
    minting = due(seen, who.timing)
    views = tuple(who.each(lambda sink: _view(sink, custody, minting), who.sinks))
    if _age(seen) > STALE / 4:
        seen = _ask_iam(who, custody)
    return replace(seen, sinks=views)


def must_be_fresh(seen: Snapshot) -> None:
    """Raise `Transient` when a look took too long to act on: the process may have been stopped."""
    if (age := _age(seen)) >= STALE:
        raise Transient(
            f"IAM was asked {age:.0f} s ago, so what it listed may be untrue; nothing is done",
            "see whether AWS, the network or this machine is slow",
        )


def _age(seen: Snapshot) -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME) - seen.taken


def _ask_iam(who: Identity, custody: Custody) -> Snapshot:
    taken = time.clock_gettime(time.CLOCK_BOOTTIME)
    root = who.iam.caller_is_root()
    user_id = who.iam.user_id()
    try:
        listing = who.iam.list_keys() if user_id else None
    except Gone:
        listing = None
    if listing is None:
        return Snapshot(now=datetime.now(UTC), user_id=None, root=root, custody=custody)
    seen = Snapshot(
        now=listing.now,
        user_id=user_id,
        taken=taken,
        root=root,
        keys=listing.keys,
        custody=custody,
    )
    keys = tuple(_with_last_use(who, seen, _with_birth(custody, key)) for key in listing.keys)
    return replace(seen, keys=keys)


def _with_birth(custody: Custody, key: Key) -> Key:
    """What a store does not tell of our own keys, custody does."""
    minted = {pair.key_id: pair.minted for pair in custody.pairs}
    return replace(key, created=key.created or minted.get(key.id))


def _with_last_use(who: Identity, seen: Snapshot, key: Key) -> Key:
    """Ask only where it can decide something: each answer is a call."""
    current = seen.target and seen.target.key_id == key.id
    unknown = key.id not in seen.ours and seen.custody.intent is None
    if current or unknown:
        return key
    try:
        return replace(key, last_used=who.iam.last_used(key.id))
    except Gone:
        return key


def _view(sink: Sink, custody: Custody, minting: bool) -> SinkView:
    view = SinkView(sink.name, mark=sink.mark)
    try:
        if minting:
            sink.check()
        if not sink.readable:
            return replace(view, holds=custody.ledger.get(sink.mark))
        held = sink.read()
    except RekeydError as error:
        return replace(view, problem=error.in_full)
    if held is None or not held.key_id.isascii():  # no id of a key has other characters
        return view
    prints = {p.fingerprint for p in custody.pairs if p.key_id == held.key_id and p.fingerprint}
    broken = prints and held.fingerprint() not in prints
    return replace(view, holds=None if broken else held.key_id)
