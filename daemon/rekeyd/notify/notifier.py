"""Passes on to people what is news to them, to each channel at its own speed."""

from collections import deque
from collections.abc import Callable, Sequence
from queue import Empty, Full, Queue
from threading import Event as Flag
from threading import Thread
from time import monotonic

import structlog

from rekeyd.errors import Refused, RekeydError, Transient
from rekeyd.ports import Channel, Event

PATIENCE = 15 * 60.0
"""Seconds that a failure may take to mend itself before anybody is told."""

QUIET = 60 * 60.0
"""Seconds for which the same trouble of the same identity is not told again."""

LARGEST_BURST = 20
"""Messages in any hour, whatever happens: a hundred identities can fail of one cause."""

WAITS = (5.0, 60.0)
"""Seconds before a message is tried again; after the last it is given up, and the log says so."""


class Notifier:
    """Passes on what people must know. `send` returns at once and never raises."""

    def __init__(
        self,
        channels: Sequence[Channel],
        *,
        clock: Callable[[], float] = monotonic,
        waits: Sequence[float] = WAITS,
    ) -> None:
        self._news = _News(clock)
        self._lines = [_Line(channel, waits) for channel in channels]

    def send(self, event: Event) -> None:
        """Take note of an event; tell people when it is news to them."""
        if self._lines and self._news.worth_telling(event):
            for line in self._lines:
                line.take(event)

    def close(self, seconds: float = 5.0) -> None:
        """Finish what is under way, for at most so long."""
        for line in self._lines:
            line.closing.set()
        until = monotonic() + seconds
        for line in self._lines:
            line.join(max(until - monotonic(), 0.0))


class _Line(Thread):
    """One channel, at its own speed: one that is away delays no other."""

    def __init__(self, channel: Channel, waits: Sequence[float]) -> None:
        super().__init__(name=f"notify {channel.name}", daemon=True)
        self.closing = Flag()
        self._channel = channel
        self._waits = waits
        self._queue: Queue[Event] = Queue(maxsize=LARGEST_BURST)
        self._log = structlog.get_logger("rekeyd").bind(channel=channel.name)
        self.start()

    def take(self, event: Event) -> None:
        try:
            self._queue.put_nowait(event)
        except Full:
            self._log.warning("notification dropped", identity=event.identity, why="too many")

    def run(self) -> None:
        while not (self.closing.is_set() and self._queue.empty()):
            try:
                event = self._queue.get(timeout=0.5)
            except Empty:
                continue
            self._deliver(event)

    def _deliver(self, event: Event) -> None:
        for wait in (0.0, *self._waits):
            if wait and self.closing.wait(wait):
                break
            trouble = _attempt(self._channel, event)
            if trouble is None:
                return
            if not isinstance(trouble, Transient):
                break
        self._log.warning("notification failed", identity=event.identity, error=str(trouble))


def _attempt(channel: Channel, event: Event) -> RekeydError | None:
    try:
        channel.deliver(event)
    except RekeydError as error:
        return error
    except Exception as error:  # noqa: BLE001 — whatever a channel does, the next one gets its turn
        return Refused(f"it failed unexpectedly: {type(error).__name__}")
    return None


class _News:
    """Decides what people are told: what does not mend itself, once, and not too much."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failing: dict[tuple[str, str], float] = {}
        self._told: dict[tuple[str, str, str], float] = {}
        self._recent: deque[float] = deque(maxlen=LARGEST_BURST)

    def worth_telling(self, event: Event) -> bool:
        now = self._clock()
        if event.outcome == "done":
            self._forget(event)
            return False
        if event.outcome not in {"retry", "refused"} or event.rule == "request":
            return False
        since = self._failing.setdefault((event.identity, event.step), now)
        if event.outcome == "retry" and now - since < PATIENCE:
            return False
        return self._allowed((event.identity, event.rule, event.outcome), now)

    def _allowed(self, trouble: tuple[str, str, str], now: float) -> bool:
        if now - self._told.get(trouble, -QUIET) < QUIET:
            return False
        if len(self._recent) == LARGEST_BURST and now - self._recent[0] < QUIET:
            return False
        self._told[trouble] = now
        self._recent.append(now)
        return True

    def _forget(self, done: Event) -> None:
        """What fails next is news again, though not within `QUIET`.

        A step mends its own failures only: while a mint fails again and again, the looks between
        succeed, and what they find is recorded. A rotation, or rest with nothing due, mends all.
        """
        if done.step in {"rotated", "rest"}:
            kept = {key: since for key, since in self._failing.items() if key[0] != done.identity}
            self._failing = kept
        else:
            self._failing.pop((done.identity, done.step), None)
