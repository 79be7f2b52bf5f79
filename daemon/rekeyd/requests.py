"""What people ask for, taken into custody where the rules find it."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import groupby

from rekeyd.errors import Permanent
from rekeyd.model import Custody, Pair, Snapshot
from rekeyd.ports import Request
from rekeyd.secret import short


def alike(asked: Iterable[tuple[int, Request]]) -> Iterator[tuple[Request, list[int]]]:
    """Yield each request with the numbers under which it was asked for, several times in a row.

    Who asks again during an outage wants no second pair.
    """
    for request, run in groupby(asked, lambda entry: entry[1]):
        yield request, [number for number, _ in run]


def grant(s: Snapshot, request: Request) -> Custody:
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
            return _adopt(s, request.argument)


def _on_its_way(s: Snapshot) -> bool:
    """Whether a new pair exists that has not reached every sink: it is what is asked for."""
    target = s.target
    if target is None or target.arrived:
        return False
    key = s.listed.get(target.key_id)
    return key is None or key.active  # a young one may not be listed yet


def _adopt(s: Snapshot, name: str) -> Custody:
    if name == s.user_id and name != s.custody.user_id:
        dead = tuple(pair.key_id for pair in s.custody.pairs if pair.key_id not in s.listed)
        return Custody(user_id=s.user_id, asked=s.now, gone=(*s.custody.gone, *dead)[-16:])
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
