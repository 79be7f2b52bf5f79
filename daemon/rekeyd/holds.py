"""Every reason for which rekeyd waits for a person: what it means, and what to do."""

from collections.abc import Sequence

from rekeyd.model import Key, Pair, SinkView, Timing
from rekeyd.secret import short
from rekeyd.steps import Hold

REASONS = (
    "root",
    "user_missing",
    "user_replaced",
    "deactivated",
    "foreign_in_sink",
    "sink",
    "in_use",
    "put_back",
    "slots_full",
    "interrupted",
)
"""The reasons of the rules. A refused call adds its own: `permission`, `credentials` and others."""

ROOT = Hold(
    "root",
    "rekeyd is running with the account's root credentials",
    "give the daemon an IAM role or user with the policy of `rekeyd policy rotator`",
)

USER_MISSING = Hold(
    "user_missing",
    "IAM knows no such user, so its backups cannot sign in",
    "create it (`rekeyd provision` makes those that have a `group` and a `policy`), "
    "or correct `user` in the configuration",
)


def user_replaced(user_id: str) -> Hold:
    return Hold(
        "user_replaced",
        "the user was deleted and made again, so every pair that the sinks hold is dead",
        f"if that was meant, `rekeyd adopt IDENTITY {user_id}` hands over the new user",
    )


def deactivated(key_id: str) -> Hold:
    return Hold(
        "deactivated",
        f"somebody deactivated the current key {short(key_id)}, so backups are refused",
        "activate it in IAM, or run `rekeyd rotate --revoke-now` for a new one",
    )


def foreign_in_sink(sink: SinkView) -> Hold:
    return Hold(
        "foreign_in_sink",
        f"sink {sink.name} holds {short(sink.holds or '')}, a key that rekeyd does not know",
        "if rekeyd may replace it, `rekeyd adopt IDENTITY KEY_ID` with that key's id; "
        "else point the sink elsewhere",
    )


def sink(troubled: SinkView) -> Hold:
    return Hold(
        "sink",
        f"sink {troubled.name} cannot be used, so no key is made or retired: {troubled.problem}",
        "mend the sink; the current pair goes on working, and rekeyd tries again by itself",
    )


def in_use(key_id: str) -> Hold:
    return Hold(
        "in_use",
        f"the superseded key {short(key_id)} is still used by something that reads no sink",
        "find it (`rekeyd status` says when it was last used) and give it a sink; "
        "`rekeyd rotate --revoke-now` cuts it off",
    )


def put_back(target: Pair | None, t: Timing) -> Hold | None:
    """Say so when something puts an older pair back into sinks, which is never retired then.

    Each time the sinks are given the current one again, and the overlap begins anew. After a first
    time long ago the older pair would be gone by now.
    """
    if not (target and target.arrived and target.current):
        return None
    if target.current - target.arrived <= 2 * (t.overlap + t.grace + t.settle):
        return None
    return Hold(
        "put_back",
        f"a rotation is due, but something puts an older pair than {short(target.key_id)} back "
        "into a sink again and again, so that one cannot be retired",
        "`rekeyd history` names the sink that is given the pair each time; let what else writes "
        "there, such as configuration management, leave it alone",
    )


def slots_full(foreign: Sequence[Key]) -> Hold:
    names = " and ".join(short(key.id) for key in foreign) or "the keys that the sinks hold"
    return Hold(
        "slots_full",
        f"a rotation is due, but IAM allows two keys and {names} cannot be retired",
        "delete the key that nobody uses, or hand it over with `rekeyd adopt IDENTITY KEY_ID`",
    )


def interrupted(unexplained: Sequence[Key]) -> Hold:
    names = " or ".join(short(key.id) for key in unexplained)
    return Hold(
        "interrupted",
        f"a mint was interrupted, and it may have made {names}; until that is known none is made",
        "delete in IAM what nobody made by hand; hand over what somebody did with "
        "`rekeyd adopt IDENTITY KEY_ID`",
    )
