"""The bugs. Each is a small change that somebody could make in good faith, and what must notice it.

`caught_by` names the check: `crash` is the enumeration of crash points with the name of its
scenario, `model` the model check with the name of its model, `rules` tests/test_rules.py and so on.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bug:
    name: str
    caught_by: str
    changes: tuple[tuple[str, str, str], ...]
    """Module, old text, new text."""


def bug(name: str, caught_by: str, *change: str) -> Bug:
    triples = tuple(zip(change[::3], change[1::3], change[2::3], strict=True))
    return Bug(name, caught_by, triples)


BUGS = (
    # What may be destroyed, and when
    bug(
        "with both slots full, the oldest key is deleted",
        "model: one sink",
        "rules",
        "    return holds.slots_full(s.foreign)",
        "    return Delete(min(s.keys, key=lambda k: k.created).id)",
    ),
    bug(
        "no grace before a deletion",
        "crash: normal",
        "rules",
        "grace = NOTHING if pair.revoked else t.grace",
        "grace = NOTHING",
    ),
    bug(
        "no overlap",
        "crash: normal",
        "rules",
        "return t.overlap if pair.handed_out and not pair.revoked else NOTHING",
        "return NOTHING",
    ),
    bug(
        "the overlap is counted from birth",
        "crash: normal",
        "rules",
        "return max(i for i in (pair.born, superseded, key.last_used) if i)",
        "return max(i for i in (pair.born, key.last_used) if i)",
    ),
    bug(
        "a key is deleted without being deactivated first",
        "crash: normal",
        "rules",
        "return Deactivate(key.id) if quiet or pair.revoked else None",
        "return Delete(key.id) if quiet or pair.revoked else None",
    ),
    bug(
        "a use that IAM tells of late is ignored",
        "rules",
        "rules",
        "if key.last_used and key.last_used > decided - overlap and not pair.revoked:",
        "if False:",
    ),
    bug(
        "a late use is measured from the record, not from the decision",
        "rules",
        "rules",
        "decided = pair.retiring or pair.deactivated",
        "decided = pair.deactivated",
    ),
    bug(
        "IAM is never asked when a key was used",
        "model: one sink",
        "observe",
        "return replace(key, last_used=who.iam.last_used(key.id))",
        "return key",
    ),
    bug(
        "a key is retired although a sink holds it",
        "rules",
        "rules",
        "if pair.deleted or pair == target or pair.key_id in {sink.holds for sink in s.sinks}:",
        "if pair.deleted or pair == target:",
    ),
    bug(
        "a key is retired although the new one is not seen Active",
        "rules",
        "rules",
        "return target.current is not None and _shown(s, target)",
        "return target.current is not None",
    ),
    bug(
        "a key is retired without fresh proof that the new one works",
        "perform",
        "perform",
        "    if s.target is None:\n        return\n",
        "    return\n",
    ),
    bug(
        "a sink that cannot be read counts as one that does without",
        "crash: foreign",
        "observe",
        "return SinkView(sink.name, problem=str(error))",
        "return SinkView(sink.name)",
    ),
    bug(
        "a write-only sink in doubt counts as one that does without",
        "rules",
        "rules",
        'return all(sink.holds != "" for sink in s.sinks)',
        "return True",
    ),
    bug(
        "an orphan that somebody uses is deleted all the same",
        "rules",
        "rules",
        "if pair.orphan and key.last_used:",
        "if False:",
    ),
    bug(
        "an adopted key has no overlap",
        "crash: adopt",
        "model",
        "return self.adopted or bool(self.delivered)",
        "return bool(self.delivered)",
    ),
    # Mints
    bug(
        "no intent before CreateAccessKey",
        "crash: normal",
        "perform",
        "    who.store.save(who.name, intending)\n",
        "",
    ),
    bug(
        "the intent is dropped when the answer is lost",
        "crash: normal",
        "perform",
        "        raise  # the intent stays open: the key may exist\n",
        "        who.store.save(who.name, s.custody)\n        raise\n",
    ),
    bug(
        "the intent is forgotten",
        "crash: normal",
        "rules",
        "if intent is None or s.now < intent.at + t.settle:",
        "if True:",
    ),
    bug(
        "CreateAccessKey is sent again when its answer is lost",
        "crash: normal",
        "perform",
        "        raise  # the intent stays open: the key may exist\n",
        "        new = who.iam.create_key()\n",
    ),
    bug(
        "the intent is closed before listings settle",
        "rules",
        "rules",
        "if intent is None or s.now < intent.at + t.settle:",
        "if intent is None:",
    ),
    bug(
        "a new key is made while an intent is open",
        "crash late: normal",
        "rules",
        "if s.custody.intent or not due(s, t):",
        "if not due(s, t):",
    ),
    bug(
        "any unknown key is taken for the orphan",
        "rules",
        "rules",
        "        if key.id not in intent.known\n"
        "        and intent.at - CLOCK_SKEW <= key.created <= intent.at + CALL_WINDOW\n"
        "        and key.last_used is None\n",
        "        if key.id not in intent.known\n",
    ),
    bug(
        "of two keys that fit, one is taken",
        "rules",
        "rules",
        "if len(fitting) != 1:",
        "if not fitting:",
    ),
    bug(
        "a third key is made",
        "model: one sink",
        "rules",
        "if len(s.listed.keys() | expected) < 2:",
        "if len(s.listed.keys() | expected) < 3:",
    ),
    bug(
        "a key that no listing shows yet takes no slot",
        "rules",
        "rules",
        "if len(s.listed.keys() | expected) < 2:",
        "if len(s.listed) < 2:",
    ),
    bug(
        "a new key whose save failed is left behind",
        "crash: normal",
        "perform",
        "            _discard(who, new.pair.key_id)",
        "            pass",
        "rules",
        "if intent is None or s.now < intent.at + t.settle:",
        "if True:",
    ),
    bug(
        "a new key whose save failed is deleted, though custody knows it",
        "crash late: normal",
        "perform",
        "    if all(pair.key_id != key_id for pair in who.store.load(who.name).pairs):\n",
        "    if True:\n",
    ),
    bug(
        "what was asked for is never crossed off",
        "crash: asked_twice",
        "perform",
        "kept = replace(s.custody, asked=None, pairs=(*s.custody.pairs, pair))",
        "kept = replace(s.custody, pairs=(*s.custody.pairs, pair))",
    ),
    bug(
        "the secret is kept in the clear",
        "crash: first",
        "perform",
        "sealed=who.sealer.seal(who.name, new.pair)",
        "sealed=new.pair.secret.reveal()",
    ),
    # Proof and delivery
    bug(
        "a pair is delivered before it is proved",
        "rules",
        "rules",
        "if target is None or target.verified or s.dead(target, t):",
        "if True:",
        "rules",
        "if target is not None and target.verified and not s.dead(target, t):",
        "if target is not None and not s.dead(target, t):",
        "perform",
        "    who.consumer.probe(access)\n    names",
        "    names",
    ),
    bug(
        "one probe is trusted",
        "perform",
        "perform",
        "PROBES = 3",
        "PROBES = 1",
    ),
    bug(
        "a front that flips back is trusted",
        "perform",
        "perform",
        "if pair.refused and s.now - pair.refused < _unsteady(pair):",
        "if False:",
    ),
    bug(
        "a pair that never works is kept for ever",
        "rules",
        "rules",
        "if late and not s.holders(target.key_id):",
        "if False:",
    ),
    bug(
        "one early refusal is enough to give a pair up",
        "rules",
        "rules",
        "late = target.refused is not None and target.refused >= target.born + t.settle",
        "late = target.refused is not None and s.now >= target.born + t.settle",
    ),
    bug(
        "a key that is not ours is overwritten in a sink",
        "crash: foreign",
        "rules",
        "barred = [sink for sink in s.sinks if sink.problem or sink in s.strangers]",
        "barred = [sink for sink in s.sinks if sink.problem]",
    ),
    bug(
        "a sink that cannot be read is written all the same",
        "crash: foreign",
        "rules",
        "barred = [sink for sink in s.sinks if sink.problem or sink in s.strangers]",
        "barred = s.strangers",
    ),
    bug(
        "the read-back is skipped",
        "perform",
        "perform",
        "if sink.readable and _fingerprint(sink.read()) != access.fingerprint():",
        "if False:",
    ),
    bug(
        "a failed put is written down as done",
        "crash: normal with box",
        "perform",
        "for name, error in errors.items() if error is None}",
        "for name, error in errors.items()}",
    ),
    bug(
        "custody is written after the put only",
        "perform",
        "perform",
        "    begun = _save_pair(who, begun, pair.key_id, delivered=handed, current=None)\n",
        "    begun = begun.with_pair(pair.key_id, delivered=handed, current=None)\n",
    ),
    bug(
        "a repaired sink does not begin the overlap again",
        "crash: repair_overwritten",
        "perform",
        "delivered=handed, current=None)",
        "delivered=handed)",
    ),
    bug(
        "a sink with a wrong secret passes for a good one",
        "crash: repair_broken",
        "observe",
        "return SinkView(sink.name, None if broken else held.key_id)",
        "return SinkView(sink.name, held.key_id)",
    ),
    # The way back, people, and time
    bug(
        "there is no way back",
        "rules",
        "rules",
        "    if s.dead(target, t):\n        if s.fallback:\n",
        "    if s.dead(target, t):\n        if False:\n",
    ),
    bug(
        "the way back leads to an Inactive key",
        "crash: go_back_far",
        "rules",
        "return Activate(target.key_id) if target.deactivated else None",
        "return None",
    ),
    bug(
        "on the way back, a stale listing is believed",
        "rules",
        "model",
        "off = pair.deactivated or pair.retiring or (None if key.active else now)",
        "off = None if key.active else now",
    ),
    bug(
        "the way back leads to a leaked pair",
        "rules",
        "model",
        "p.verified and not p.revoked and",
        "p.verified and",
    ),
    bug(
        "an Activate is not written down",
        "crash: rollback_far",
        "perform",
        "pair.key_id, deactivated=None, retiring=None, restored=at)",
        "pair.key_id)",
    ),
    bug(
        "the oldest pair is the one to deliver",
        "crash: normal",
        "model",
        "return usable[::-1]",
        "return usable",
    ),
    bug(
        "absence from one listing means deletion",
        "rules",
        "model",
        "return gone and self.now >= pair.born + timing.settle",
        "return gone",
    ),
    bug(
        "a user made again passes for the one that we know",
        "rules",
        "rules",
        "if s.custody.user_id != s.user_id:",
        "if False:",
    ),
    bug(
        "a request is crossed off without being granted",
        "crash: adopt",
        "reconcile",
        "self.who.store.settle(self.who.name, number, custody)",
        "self.who.store.settle(self.who.name, number, None)",
    ),
    bug(
        "revoke-now is an ordinary rotation",
        "requests",
        "requests",
        "leaked = tuple(replace(pair, revoked=s.now) for pair in s.custody.pairs)",
        "leaked = s.custody.pairs",
    ),
    bug(
        "a leaked key keeps its overlap",
        "rules",
        "rules",
        "return Deactivate(key.id) if quiet or pair.revoked else None",
        "return Deactivate(key.id) if quiet else None",
        "rules",
        "return t.overlap if pair.handed_out and not pair.revoked else NOTHING",
        "return t.overlap if pair.handed_out else NOTHING",
    ),
    bug(
        "rest forgets the overlap",
        "rules",
        "rules",
        "            instants.append(_needed_until(s, pair, key) + _overlap(t, pair))",
        "            pass",
    ),
    bug(
        "rest lasts until the next rotation",
        "crash: normal",
        "rules",
        "return Rest(min((i for i in instants if i > s.now), default=s.now + t.settle))",
        "return Rest(max(instants, default=s.now + t.settle))",
    ),
    bug(
        "a look justifies a step however old it is",
        "loop",
        "reconcile",
        "STALE = 60.0",
        "STALE = 1e9",
    ),
)
