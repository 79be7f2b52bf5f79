"""One step becomes one effect and its fact. What must outlive a crash is saved before and after.

The order of the two decides what a crash can leave behind: before an effect that cannot be taken
back, custody says that it may have happened; after it, custody says that it has.
"""

from contextlib import suppress
from dataclasses import replace
from datetime import datetime

from rekeyd.errors import (
    Elsewhere,
    Gone,
    Propagating,
    Refused,
    RekeydError,
    Transient,
    Unanswered,
)
from rekeyd.model import Custody, Intent, Pair, Snapshot, Timing
from rekeyd.ports import Identity, NewKey, Request, Sink
from rekeyd.secret import AccessPair, short
from rekeyd.steps import Activate, Deactivate, Delete, Deliver, Mint, Record, Step, Verify

PROBES = 3
"""Times in a row, each on fresh connections, that a new pair must work: IAM's fronts differ."""


def perform(who: Identity, s: Snapshot, step: Step) -> str | None:
    """Do one step and record its fact; return what a plan could not tell, such as a new key's id.

    Raises when it could not be done, leaving facts only.
    """
    match step:
        case Record(_, custody, _):
            who.store.save(who.name, custody)
        case Mint(known):
            return f"made {short(_mint(who, s, known))}"
        case Verify(key_id):
            _verify(who, s, _pair(s, key_id))
        case Deliver(key_id, sinks):
            _deliver(who, s, _pair(s, key_id), [k for k in who.sinks if k.name in sinks])
        case Activate(key_id):
            _activate(who, s, _pair(s, key_id))
        case Deactivate(key_id):
            _prove_current(who, s)
            retiring = _save_pair(who, s.custody, key_id, retiring=s.now)
            at = _switch(who, key_id, active=False)
            _save_pair(who, retiring, key_id, deactivated=at)
        case Delete(key_id):
            _prove_current(who, s)
            _save_pair(who, s.custody, key_id, deleted=who.iam.delete_key(key_id))
    return None


def _mint(who: Identity, s: Snapshot, known: frozenset[str]) -> str:
    intending = replace(s.custody, intent=Intent(s.now, known))
    who.store.save(who.name, intending)
    try:
        new = who.iam.create_key()
    except Unanswered:
        raise  # the intent stays open: the key may exist
    except RekeydError:
        who.store.save(who.name, s.custody)
        raise
    try:
        _keep(who, s, new)
    except Exception:
        with suppress(RekeydError):
            _discard(who, new.pair.key_id)
        raise
    return new.pair.key_id


def _discard(who: Identity, key_id: str) -> None:
    """Delete a key whose secret is lost, unless custody knows it: a failed save may be on disk."""
    if all(pair.key_id != key_id for pair in who.store.load(who.name).pairs):
        who.iam.delete_key(key_id)


def _keep(who: Identity, s: Snapshot, new: NewKey) -> None:
    pair = Pair(
        key_id=new.pair.key_id,
        minted=new.created,
        sealed=who.sealer.seal(who.name, new.pair),
        fingerprint=new.pair.fingerprint(),
    )
    kept = replace(s.custody, asked=None, pairs=(*s.custody.pairs, pair))
    who.store.save(who.name, kept)


def _verify(who: Identity, s: Snapshot, pair: Pair) -> None:
    access = _unseal(who, pair)
    try:
        for _ in range(PROBES):
            who.consumer.probe(access)
    except Gone:
        raise  # what is missing, such as the bucket, tells nothing of the pair
    except (Propagating, Refused) as error:
        _save_pair(who, s.custody, pair.key_id, refused=s.now)
        if s.now < pair.born + who.timing.settle:
            raise Propagating(
                f"{short(pair.key_id)} is not accepted everywhere yet: {error}"
            ) from None
        raise
    if pair.refused and s.now < _steady(pair, pair.refused, who.timing):
        raise Propagating(f"{short(pair.key_id)} works, but was refused a moment ago")
    _save_pair(who, s.custody, pair.key_id, verified=s.now)


def _steady(pair: Pair, refused: datetime, timing: Timing) -> datetime:
    """Fronts can flip back, so a pair must work for as long as it did not, or until all know it."""
    return min(refused + (refused - pair.born), pair.born + timing.settle)


def _deliver(who: Identity, s: Snapshot, pair: Pair, sinks: list[Sink]) -> None:
    access = _unseal(who, pair)
    who.consumer.probe(access)
    marks = [sink.mark for sink in sinks]
    handed = {**dict.fromkeys(marks, s.now), **pair.delivered}
    in_doubt = {**s.custody.ledger, **dict.fromkeys(marks, "")}
    begun = replace(s.custody, ledger=in_doubt)
    begun = _save_pair(who, begun, pair.key_id, delivered=handed, current=None)

    errors = who.each(lambda sink: _put(who, sink, access), sinks)
    tried = [*zip(marks, sinks, errors, strict=True)]
    done = {mark: pair.key_id for mark, _, error in tried if error is None}
    try:
        who.store.save(who.name, replace(begun, ledger={**in_doubt, **done}))
    except Elsewhere:  # a put may have come late, over what another replica put since
        for mark in marks:
            who.store.ask(who.name, Request("redeliver", mark))
        raise
    failed = {sink.name: error for _, sink, error in tried if error}
    if failed:
        kind = Transient if any(isinstance(e, Transient) for e in failed.values()) else Refused
        raise kind(
            "; ".join(f"sink {name}: {error}" for name, error in failed.items()),
            "; ".join(dict.fromkeys(error.do for error in failed.values() if error.do)),
        )


def _put(who: Identity, sink: Sink, access: AccessPair) -> RekeydError | None:
    try:
        who.store.renew(who.name)
        sink.put(access)
        if sink.readable and _fingerprint(sink.read()) != access.fingerprint():
            return Transient("it does not hold what was written to it")
    except RekeydError as error:
        return error
    return None


def _fingerprint(access: AccessPair | None) -> str | None:
    return access.fingerprint() if access else None


def _activate(who: Identity, s: Snapshot, pair: Pair) -> None:
    at = _switch(who, pair.key_id, active=True)
    _save_pair(who, s.custody, pair.key_id, deactivated=None, retiring=None, restored=at)


def _switch(who: Identity, key_id: str, *, active: bool) -> datetime:
    try:
        return who.iam.set_active(key_id, active)
    except Gone:
        raise Transient(f"{short(key_id)} was deleted meanwhile") from None


def _prove_current(who: Identity, s: Snapshot) -> None:
    """Nothing is taken away without fresh proof that what replaced it works."""
    if s.target is None:
        return
    try:
        who.consumer.probe(_unseal(who, s.target))
    except (Propagating, Refused) as error:
        raise Transient(
            f"nothing is retired while the current pair is refused: {error}",
            "backups may be failing: see `rekeyd status`; `rekeyd rollback` goes back",
        ) from None


def _pair(s: Snapshot, key_id: str) -> Pair:
    return next(pair for pair in s.custody.pairs if pair.key_id == key_id)


def _unseal(who: Identity, pair: Pair) -> AccessPair:
    return AccessPair(pair.key_id, who.sealer.unseal(who.name, pair.key_id, pair.sealed or ""))


def _save_pair(who: Identity, custody: Custody, key_id: str, **changes: object) -> Custody:
    changed = custody.with_pair(key_id, **changes)
    who.store.save(who.name, changed)
    return changed
