"""The status page."""
from collections.abc import Callable, Sequence
from datetime import datetime
from rekeyd.ports import Event
from rekeyd.view import Status


def page(statuses: Sequence[Status], timeline: Callable[[str], Sequence[Event]], now: datetime) -> bytes:
    return b""
