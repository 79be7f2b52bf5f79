"""How identities stand, as the JSON document of `/api/v1/status` and of `rekeyd status --json`."""

from collections.abc import Iterable, Sequence
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from typing import Any

from rekeyd.view import Status

UNSEEN = "never looked at"
"""The stage of an identity that is in the configuration and was not looked at yet."""


def document(
    statuses: Sequence[Status], now: datetime, names: Iterable[str] = ()
) -> dict[str, Any]:
    """Tell how identities stand, ready for JSON. Fields may be added; none changes its meaning.

    `names` are those of all identities, also of the ones that have no status yet.

    - `now`: when the document was made.
    - `identities`, a list by name. Of each:
      - `identity`: its name; `at`: when rekeyd last looked at it, by IAM's clock.
      - Where that was never, `stage` is "never looked at", and `at` and `rule` are null.
      - `stage`: what rekeyd is doing with it; `rule`: the rule that says so; `message`: a sentence.
      - `hold`: null, or why rekeyd waits for a person: `reason` for machines, `what` and `do`.
      - `failing`: null, or why the last step failed; `retry_at`: when it is tried again.
      - `asked`: whether a rotation was asked for and has not begun.
      - `next_rotation`, `last_rotation`: null where there is none.
      - `keys`, a list: `key` (its last four characters), `state` (current, pending, superseded,
        orphan, foreign), `active`, `created`, and null or when it was `last_used`, `verified`,
        `current_since`, `deactivated`.
      - `sinks`, a list: `name`, `current` (whether it holds the newest pair), `problem` or null.

    Every instant is UTC as RFC 3339 writes it. No secret and no whole key id is in it.
    """
    seen = {status.identity: _plain(status) for status in statuses}
    told = {name: _unseen(name, now) for name in names} | seen
    return {"now": _plain(now), "identities": [told[name] for name in sorted(told)]}


def _unseen(name: str, now: datetime) -> dict[str, Any]:
    message = "rekeyd has not looked at it yet"
    nothing = Status(identity=name, at=now, stage=UNSEEN, rule="", message=message)
    return {**_plain(nothing), "at": None, "rule": None}


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value
