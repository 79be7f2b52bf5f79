"""`webhook`: an HTTPS POST with the pair, signed, to a receiver of your own.

Who reads it: whatever you build: a deployer, a configuration manager, a store without a sink here.
The body is one JSON object:

    {"type": "access_key.current", "timestamp": "2026-11-23T22:00:00Z", "data":
     {"identity": "backup_user", "access_key_id": "…", "secret_access_key": "…"}}

It is signed as Standard Webhooks (standardwebhooks.com) says, for which libraries exist in many
languages. Three headers: `webhook-id`, another one each time, since a pair may come back after a
`rollback`; `webhook-timestamp`, Unix seconds; `webhook-signature`, `v1,` and the Base64 of
HMAC-SHA256 over `ID.TIMESTAMP.BODY`, with the bytes of the shared secret as the key. A receiver
must compare in constant time, and refuse a timestamp more than five minutes off its own clock:
else whoever records one delivery can repeat it later and bring a dead pair back.

The shared secret is `whsec_` and the Base64 of 24 to 64 random bytes:
`echo "whsec_$(openssl rand -base64 32)"`. An answer of 200 to 299 means that the pair is durably
stored; anything else is repeated. HTTPS only, unless the receiver is on this machine; no redirects;
link-local and metadata addresses are refused after the name was resolved, and the connection goes
to the address that was judged.

A receiver gives nothing back, so this sink is write-only. `check` connects, proves the certificate
and that the shared secret can be read, and sends nothing: whether the receiver accepts the
signature only a delivery can tell.

    - type: webhook
      url: https://deploy.example.com/hooks/backup-key
      secret: credential:webhook
"""

import json
from base64 import b64decode, b64encode
from datetime import UTC, datetime
from hmac import digest
from typing import Literal
from urllib.parse import urlsplit
from uuid import uuid4

from rekeyd.errors import Refused
from rekeyd.ports import Sink
from rekeyd.secret import AccessPair
from rekeyd.sinks._http import Address, Call, Client, HttpSettings, client
from rekeyd.sinks._reference import Reference, dereference
from rekeyd.sinks.base import SinkContext


class Webhook(HttpSettings):
    """An HTTPS receiver of your own, which gets the pair in a signed POST."""

    type: Literal["webhook"]
    url: Address
    secret: Reference

    @property
    def place(self) -> str:
        return self.url

    @property
    def label(self) -> str:
        """The path may be hard to guess on purpose, so it stands in no log."""
        return self.name or f"{self.type}:{urlsplit(self.url).netloc}"

    def open(self, context: SinkContext) -> Sink:
        needs = "see in the receiver's log whether it refuses the signature or the timestamp"
        speaker = client(self, context, self.url, service="the webhook", needs=needs)
        return _WebhookSink(self, context.identity, speaker)


class _WebhookSink:
    """A pair sent to a receiver."""

    readable = False

    def __init__(self, settings: Webhook, identity: str, speaker: Client) -> None:
        self.name, self.mark = settings.label, settings.mark
        self._settings = settings
        self._identity = identity
        self._client = speaker

    def check(self) -> str:
        """Connect, and read the shared secret. Nothing is sent, so no more is proved."""
        shared_secret(self._settings.secret)
        self._client.reach()
        return "only a delivery shows whether the receiver accepts the signature"

    def read(self) -> AccessPair | None:
        raise NotImplementedError("a receiver gives nothing back")

    def put(self, pair: AccessPair) -> None:
        now = datetime.now(UTC)
        body = json.dumps(
            {
                "type": "access_key.current",
                "timestamp": f"{now:%Y-%m-%dT%H:%M:%SZ}",
                "data": {
                    "identity": self._identity,
                    "access_key_id": pair.key_id,
                    "secret_access_key": pair.secret.reveal(),
                },
            }
        ).encode()
        key = shared_secret(self._settings.secret)
        headers = sign(key, f"msg_{uuid4().hex}", now, body)
        self._client.send(Call("POST", "", headers, body=body))


def shared_secret(reference: str) -> bytes:
    """Read the key of the signature. Raises `Refused` when it is not of the documented form."""
    text = dereference(reference).reveal()
    try:
        key = b64decode(text.removeprefix("whsec_"), validate=True)
    except ValueError:
        key = b""
    if not (text.startswith("whsec_") and 24 <= len(key) <= 64):
        raise Refused(
            f"what stands at {reference} is no webhook secret: whsec_ and the Base64 of 24 to 64 "
            "bytes",
            'make one with `echo "whsec_$(openssl rand -base64 32)"`, and give it to the receiver',
        )
    return key


def sign(key: bytes, message_id: str, at: datetime, body: bytes) -> dict[str, str]:
    """Return the headers of a signed message (Standard Webhooks, "Signature scheme")."""
    stamp = str(int(at.timestamp()))
    signature = digest(key, f"{message_id}.{stamp}.".encode() + body, "sha256")
    return {
        "Content-Type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": stamp,
        "webhook-signature": f"v1,{b64encode(signature).decode()}",
    }
