"""What people ask for, taken into custody where the rules find it."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import groupby

from rekeyd.errors import Permanent
from rekeyd.model import Custody, Pair, Snapshot, Timing
from rekeyd.ports import Request
from rekeyd.secret import short


def alike(asked: Iterable[tuple[int, Request]]) -> Iterator[tuple[Request, list[int]]]:
    """Yield each request with the numbers under which it was asked for, several times in a row.

    Who asks again during an outage wants no second pair.
    """
    for request, run in groupby(asked, lambda entry: entry[1]):
        yield request, [number for number, _ in run]


def grant(s: Snapshot, request: Request, t: Timing) -> Custody:
    """Take what a person asked for into custody, where the rules find it.

    Raises `Permanent` when it cannot be granted; nothing has changed then.
    """
    match request.kind:
        case "rotate":
            return s.custody if _on_its_way(s) else replace(s.custody, asked=s.now)
        case "revoke":
            leaked = tuple(replace(pair, revoked=s.now) for pair in s.custody.pairs)
            return replace(s.custody, asked=s.now, pairs=leaked)
        case "redeliver":  # of a replica that slept in a put
            return replace(s.custody, ledger={**s.custody.ledger, request.argument: ""})
        case "rollback":
            if s.fallback is None:
                raise Permanent(
                    "there is no superseded pair to go back to",
                    "`rekeyd rotate` makes a fresh pair instead",
                )
            return s.back_to(s.fallback)
        case _:
            return _adopt(s, request.argument, t)


def _on_its_way(s: Snapshot) -> bool:
    """Whether a new pair exists that has not reached every sink: it is what is asked for."""
    target = s.target
    if target is None or target.arrived:
        return False
    key = s.listed.get(target.key_id)
    return key is None or key.active  # a young one may not be listed yet


def _adopt(s: Snapshot, name: str, t: Timing) -> Custody:
    name = _in_full(s, name)
    if name == s.user_id and name != s.custody.user_id:
        return _adopt_user(s, t)
    if name == s.user_id or name in {pair.key_id for pair in s.custody.pairs}:
        return s.custody
    if key := s.listed.get(name):
        pair = Pair(key_id=key.id, minted=key.created or s.now, adopted=True, restored=s.now)
        gone = tuple(other for other in s.custody.gone if other != name)
        return replace(s.custody, pairs=(*s.custody.pairs, pair), gone=gone)
    if s.holders(name):
        return replace(s.custody, gone=(*s.custody.gone, name)[-16:])
    raise Permanent(
        f"{short(name)} is neither a key of this user nor in a sink", "`rekeyd status` lists them"
    )


def _in_full(s: Snapshot, name: str) -> str:
    """Return the one id that ends like this: people see no more of it than `short` shows."""
    known, end = {s.user_id, *s.listed, *(sink.holds for sink in s.sinks)}, name.lstrip("…")
    fit = [one for one in known if one and len(end) > 3 and one.endswith(end)]
    return fit[0] if len(fit) == 1 else name


def _adopt_user(s: Snapshot, t: Timing) -> Custody:
    """Take the user that is there now for the one that we know; its pairs died with the former.

    But not those that are listed, nor one so young that no listing need show it: IAM may have told
    of the former user still while it made that key, and then it is the new one's.
    """
    custody = s.custody
    for pair in s.custody.pairs:
        if pair.key_id not in s.listed and s.now >= pair.born + t.settle:
            custody = custody.without_pair(pair.key_id)
    return replace(custody, user_id=s.user_id, asked=s.now)
