"""`apprise`: mail, chat, pagers: the services that Apprise knows."""

from logging import CRITICAL, getLogger
from typing import Any, Literal

from pydantic import Field

from rekeyd.errors import Refused, RekeydError, Transient
from rekeyd.notify.base import ChannelSettings
from rekeyd.ports import Channel, Event
from rekeyd.sinks._reference import Reference, dereference


class AppriseSettings(ChannelSettings):
    """Mail, chat, pagers: the services that Apprise knows. Needs `rekeyd[apprise]`."""

    type: Literal["apprise"]
    urls: Reference = Field(
        description="Where their Apprise URLs stand, one a line; they hold passwords."
    )

    def open(self) -> Channel:
        return _Apprise(self)


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
