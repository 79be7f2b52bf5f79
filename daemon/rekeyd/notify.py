"""Tells people about failed rotations and holds, where they look anyway. Off unless configured.

    notify:
      - {type: webhook, url: "https://ops.example.com/rekeyd", secret: "credential:notify"}
      - {type: apprise, urls: "credential:apprise"}    # one Apprise URL a line: mail, chat, pager

A webhook gets the JSON of an event, signed exactly like the sink `webhook`. Apprise reaches more
than a hundred services and is an extra: `pip install rekeyd[apprise]`. Alerts from the metrics
remain the better way for whoever runs Prometheus: they also tell when the daemon itself is gone.
"""

import json
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from logging import CRITICAL, getLogger
from queue import Empty, Full, Queue
from threading import Event as Flag
from threading import Thread
from time import monotonic
from typing import Any, Literal, Protocol
from uuid import uuid4

import structlog
from pydantic import Field

from rekeyd.config.settings import ChannelSettings
from rekeyd.errors import Misconfigured, Refused, RekeydError, Transient
from rekeyd.ports import Event
from rekeyd.sinks._http import Address, Call, Client
from rekeyd.sinks._reference import Reference, dereference
from rekeyd.sinks.webhook import shared_secret, sign

PATIENCE = 15 * 60.0
"""Seconds that a failure may take to mend itself before anybody is told."""

QUIET = 60 * 60.0
"""Seconds for which the same trouble of the same identity is not told again."""

LARGEST_BURST = 20
"""Messages in any hour, whatever happens: a hundred identities can fail of one cause."""

WAITS = (5.0, 60.0)
"""Seconds before a message is tried again; after the last it is given up, and the log says so."""


class Channel(Protocol):
    """One way to reach people."""

    name: str

    def check(self) -> None:
        """Prove what can be proved without telling anybody. Raises `rekeyd.errors`."""

    def deliver(self, event: Event) -> None:
        """Hand one event over. Raises `Transient` when trying again may help, else `Refused`."""


class WebhookSettings(ChannelSettings):
    """An HTTPS receiver of signed events."""

    type: Literal["webhook"]
    url: Address
    secret: Reference
    ca_file: str | None = Field(
        None, description="PEM file of the CA that signed the server's certificate."
    )

    def open(self) -> Channel:
        return _Webhook(self)


class AppriseSettings(ChannelSettings):
    """Mail, chat, pagers: the services that Apprise knows. Needs `rekeyd[apprise]`."""

    type: Literal["apprise"]
    urls: Reference = Field(
        description="Where their Apprise URLs stand, one a line; they hold passwords."
    )

    def open(self) -> Channel:
        return _Apprise(self)


KIND = "channel"

_CHANNELS: dict[str, type[ChannelSettings]] = {
    "apprise": AppriseSettings,
    "webhook": WebhookSettings,
}


def types() -> list[str]:
    """Return every type of channel."""
    return sorted(_CHANNELS)


def settings_class(kind: str) -> type[ChannelSettings]:
    """Return the settings of a type. Raises `Misconfigured` for one that there is not."""
    if kind not in _CHANNELS:
        raise Misconfigured(f"no channel of type {kind!r}", f"types: {', '.join(types())}")
    return _CHANNELS[kind]


class Notifier:
    """Passes on what people must know. `send` returns at once and never raises."""

    def __init__(
        self,
        channels: Sequence[Channel],
        *,
        clock: Callable[[], float] = monotonic,
        waits: Sequence[float] = WAITS,
    ) -> None:
        self._channels = channels
        self._news = _News(clock)
        self._waits = waits
        self._queue: Queue[Event] = Queue(maxsize=LARGEST_BURST)
        self._closing = Flag()
        self._log = structlog.get_logger("rekeyd")
        self._thread = Thread(target=self._work, name="notify", daemon=True)
        if channels:
            self._thread.start()

    def send(self, event: Event) -> None:
        """Take note of an event; tell people when it is news to them."""
        if not self._channels or not self._news.worth_telling(event):
            return
        try:
            self._queue.put_nowait(event)
        except Full:
            self._log.warning("notification dropped", identity=event.identity, why="too many")

    def close(self, seconds: float = 5.0) -> None:
        """Finish what is under way, for at most so long."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(seconds)

    def _work(self) -> None:
        while not (self._closing.is_set() and self._queue.empty()):
            try:
                event = self._queue.get(timeout=0.5)
            except Empty:
                continue
            for channel in self._channels:
                self._deliver(channel, event)

    def _deliver(self, channel: Channel, event: Event) -> None:
        for wait in (0.0, *self._waits):
            if wait and self._closing.wait(wait):
                break
            trouble = _attempt(channel, event)
            if trouble is None:
                return
            if not isinstance(trouble, Transient):
                break
        self._log.warning(
            "notification failed", channel=channel.name, identity=event.identity, error=str(trouble)
        )


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
            self._forget(event.identity)
            return False
        if event.outcome not in {"retry", "refused"} or event.rule == "request":
            return False
        since = self._failing.setdefault((event.identity, event.rule), now)
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

    def _forget(self, identity: str) -> None:
        """A step was done, so whatever fails next is news again, though not within `QUIET`."""
        self._failing = {k: since for k, since in self._failing.items() if k[0] != identity}


class _Webhook:
    def __init__(self, settings: WebhookSettings) -> None:
        needs = "see in the receiver's log whether it refuses the signature or the timestamp"
        self._client = Client(
            settings.url, service="the webhook", needs=needs, ca_file=settings.ca_file
        )
        self._secret = settings.secret
        self.name = self._client.speaker

    def check(self) -> None:
        shared_secret(self._secret)
        self._client.reach()

    def deliver(self, event: Event) -> None:
        told = {
            "type": f"rekeyd.{event.outcome}",
            "timestamp": f"{event.at:%Y-%m-%dT%H:%M:%SZ}",
            "data": {
                "identity": event.identity,
                "rule": event.rule,
                "step": event.step,
                "detail": event.detail,
            },
        }
        body = json.dumps(told).encode()
        number = f"msg_{uuid4().hex}"
        headers = sign(shared_secret(self._secret), number, datetime.now(UTC), body)
        self._client.send(Call("POST", "", headers, body=body))


class _Apprise:
    name = "apprise"

    def __init__(self, settings: AppriseSettings) -> None:
        self._urls = settings.urls

    def check(self) -> None:
        self._services()

    def deliver(self, event: Event) -> None:
        title = f"rekeyd: {event.identity}: {event.step} {event.outcome}"
        try:
            delivered = self._services().notify(body=event.detail or title, title=title)
        except RekeydError:
            raise
        except Exception:  # noqa: BLE001 — over a hundred services, each with errors of its own
            delivered = False
        if not delivered:
            raise Transient(
                "Apprise could not reach every service that it was given",
                f"try the URLs at {self._urls} with the `apprise` command",
            ) from None

    def _services(self) -> Any:
        try:
            import apprise  # noqa: PLC0415 — an extra
        except ImportError:
            raise Refused(
                "Apprise is not installed, so nobody is notified",
                "pip install 'rekeyd[apprise]'",
                reason="notify",
            ) from None
        getLogger("apprise").setLevel(CRITICAL)  # its own messages show URLs with passwords
        services = apprise.Apprise()
        lines = [line.strip() for line in dereference(self._urls).reveal().splitlines()]
        urls = [line for line in lines if line and not line.startswith("#")]
        if not urls or not all(services.add(url) for url in urls):
            raise Refused(
                f"not every line at {self._urls} is an Apprise URL, so nobody is notified",
                "correct it: one URL a line, as `apprise` takes them",
                reason="notify",
            )
        return services
