"""`webhook`: an HTTPS receiver of signed events, as the sink of that name signs its own."""

import json
from datetime import UTC, datetime
from typing import Literal
from uuid import uuid4

from pydantic import Field

from rekeyd.notify.base import ChannelSettings
from rekeyd.ports import Channel, Event
from rekeyd.sinks._http import Address, Call, Client
from rekeyd.sinks._reference import Reference
from rekeyd.sinks.webhook import shared_secret, sign


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
