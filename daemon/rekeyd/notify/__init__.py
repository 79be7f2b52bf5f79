"""Tells people about failed rotations and holds, where they look anyway. Off unless configured.

    notify:
      - {type: webhook, url: "https://ops.example.com/rekeyd", secret: "credential:notify"}
      - {type: apprise, urls: "credential:apprise"}    # one Apprise URL a line: mail, chat, pager

A webhook gets the JSON of an event, signed exactly like the sink `webhook`. Apprise reaches more
than a hundred services and is an extra: `pip install rekeyd[apprise]`. Alerts from the metrics
remain the better way for whoever runs Prometheus: they also tell when the daemon itself is gone.

A channel's module is imported only when a configuration names it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from rekeyd.errors import Misconfigured

if TYPE_CHECKING:
    from rekeyd.notify.base import ChannelSettings

KIND = "channel"

CHANNELS = {"apprise": "AppriseSettings", "webhook": "WebhookSettings"}
"""The settings class of each type, in the module of its name."""


def types() -> list[str]:
    """Return every type of channel."""
    return sorted(CHANNELS)


def settings_class(kind: str) -> "type[ChannelSettings]":
    """Import the settings of a type. Raises `Misconfigured` for one that there is not."""
    if kind not in CHANNELS:
        raise Misconfigured(f"no channel of type {kind!r}", f"types: {', '.join(types())}")
    found: type[ChannelSettings] = getattr(import_module(f"{__name__}.{kind}"), CHANNELS[kind])
    return found
