"""What makes two instants of the world the same: a key that forgets names and absolute time.

Keys are numbered by age and instants become "so many seconds ago", up to `FAR`, from which on the
rules make no difference any more. What no rule and no front can show any more is left out.
"""

from datetime import datetime, timedelta
from typing import Any

from rekeyd.model import Intent, Pair
from world.truth import TrueKey, TrueSink, Truth


class Canon:
    """Makes keys of truths for one world, whose delays say how long the past is visible."""

    def __init__(self, far: timedelta, visible: timedelta, lag: timedelta) -> None:
        self.far = far.total_seconds()
        self.visible = visible
        self.lag = lag

    def key(self, truth: Truth) -> tuple[Any, ...]:
        """Return a hashable key: equal for truths from which the same can happen."""
        return _Keyed(self, truth).key()

    def shows(self, now: datetime, key: TrueKey) -> bool:
        return key.exists or key.changes[-1].at > now - self.visible


class _Keyed:
    def __init__(self, canon: Canon, truth: Truth) -> None:
        self.canon, self.truth = canon, truth
        self.now, self.far = truth.now, canon.far
        named = {pair.key_id for pair in truth.custody.pairs}
        named |= {sink.pair.key_id for sink in truth.sinks.values() if sink.pair}
        named |= {request.argument for _, request in truth.requests}
        kept = [k for i, k in truth.keys.items() if i in named or canon.shows(truth.now, k)]
        self.names = {key.id: number for number, key in enumerate(kept)}
        self.kept = kept

    def key(self) -> tuple[Any, ...]:
        truth, custody = self.truth, self.truth.custody
        names = self.names
        return (
            truth.user_id,
            custody.user_id,
            self._ago(truth.users[-1][0]),
            tuple([self._key(key) for key in self.kept]),
            tuple([self._sink(sink) for sink in truth.sinks.values()]),
            tuple([self._pair(pair) for pair in custody.pairs]),
            self._intent(custody.intent),
            self._ago(custody.asked),
            tuple([(sink, names.get(held, held)) for sink, held in custody.ledger.items()]),
            self._named(custody.gone),
            tuple([(r.kind, names.get(r.argument, r.argument)) for _, r in truth.requests]),
            tuple([self._ago(at) for at in truth.intents if self._ago(at) != self.far]),
            names.get(truth.minted or ""),
            truth.lease.held and self._ago(truth.lease.renewed),
        )

    def _ago(self, instant: datetime | None) -> float | None:
        if instant is None:
            return None
        ago = (self.now - instant).total_seconds()
        return ago if ago < self.far else self.far  # noqa: FURB136 (min takes twice as long)

    def _named(self, ids: Any) -> frozenset[int]:
        return frozenset([self.names[i] for i in ids if i in self.names])

    def _intent(self, intent: Intent | None) -> tuple[Any, ...]:
        if intent is None:
            return ()
        return self._ago(intent.at), self._ago(intent.found), self._named(intent.known)

    def _key(self, key: TrueKey) -> tuple[Any, ...]:
        truth, canon = self.truth, self.canon
        visible, recent = truth.now - canon.visible, []
        for change in reversed(key.changes):
            recent.append((self._ago(change.at), change.status, change.by))
            if change.at <= visible:
                break
        uses = [self._ago(use) for use in key.uses if use > truth.now - canon.lag] or [
            self._ago(key.uses[-1]) if key.uses else None
        ]
        return (
            tuple(recent),
            self._ago(key.created),
            key.maker,
            key.user_id == truth.user_id,
            tuple(uses),
            self._ago(truth.seen_used.get(key.id)),
            key.id in truth.revoked,
        )

    def _sink(self, sink: TrueSink) -> tuple[Any, ...]:
        held = sink.pair
        right = held and held.secret.reveal() == self.truth.keys[held.key_id].secret
        left = [(self.names[i], self._ago(at)) for i, at in sink.held.items() if i in self.names]
        return (
            held and self.names[held.key_id],
            right,
            sink.by,
            sink.noticed,
            sink.trouble,
            tuple(left),
        )

    def _pair(self, pair: Pair) -> tuple[Any, ...]:
        ago = self._ago
        return (
            self.names.get(pair.key_id),
            ago(pair.minted),
            pair.sealed is None,
            pair.adopted,
            ago(pair.refused),
            ago(pair.verified),
            tuple(pair.delivered),
            ago(pair.arrived),
            ago(pair.current),
            ago(pair.given_up),
            ago(pair.retiring),
            ago(pair.deactivated),
            ago(pair.restored),
            ago(pair.revoked),
            ago(pair.missing),
            ago(pair.deleted),
        )
