"""An AWS in front of the embedded one that tells of its keys late, as the real one does.

Every service is a front of its own: it does not know a new key for a while, then knows it now and
then, then for good; and it refuses Inactive keys, which moto accepts.
"""

import random
import re
import time
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs

from processes import Answer, Proxy

UNKNOWN = {
    "sts": (403, "InvalidClientTokenId"),
    "s3": (403, "InvalidAccessKeyId"),
}
"""What each front says of a key that it does not know (AWS, the services' error pages)."""

SIGNER = re.compile(r"Credential=([A-Z0-9]+)/\d+/[^/]+/([a-z0-9]+)/")
MADE = re.compile(rb"<AccessKeyId>([A-Z0-9]+)</AccessKeyId>")


class Fronts(Proxy):
    """A proxy that refuses keys which are too young, Inactive or deleted, each service apart."""

    def __init__(self, port: int, delay: float, seed: int = 1) -> None:
        self.delay = delay
        self.refused = 0
        self._random = random.Random(seed)
        self._known: dict[tuple[str, str], tuple[float, float]] = {}
        self._dead: set[str] = set()
        super().__init__(port)
        self.rules["*"] = self._judge

    def answer(self, handler: BaseHTTPRequestHandler, body: bytes, port: int) -> None:
        said = {name: values[0] for name, values in parse_qs(body.decode("latin-1")).items()}
        if said.get("Action") == "UpdateAccessKey":
            change = self._dead.discard if said["Status"] == "Active" else self._dead.add
            change(said["AccessKeyId"])
        if said.get("Action") == "DeleteAccessKey":
            self._dead.add(said["AccessKeyId"])
        super().answer(handler, body, port)

    def passed(self, action: str, content: bytes) -> None:
        """Remember a key that was made, and from when each front will know of it."""
        if action == "CreateAccessKey" and (made := MADE.search(content)):
            for service in UNKNOWN:
                flips = time.monotonic() + self._random.uniform(0, self.delay)
                steady = flips + self._random.uniform(0, self.delay / 2)
                self._known[made[1].decode(), service] = flips, steady

    def _judge(self, handler: BaseHTTPRequestHandler) -> Answer:
        signed = SIGNER.search(handler.headers.get("Authorization", ""))
        if not signed or signed[2] not in UNKNOWN:
            return None
        key, service = signed.groups()
        flips, steady = self._known.get((key, service), (0.0, 0.0))
        now = time.monotonic()
        unknown = now < flips or (now < steady and self._random.random() < 0.5)
        if not unknown and key not in self._dead:
            return None
        self.refused += 1
        status, code = UNKNOWN[service]
        error = f"<Error><Code>{code}</Code><Message>unknown</Message></Error>"
        return status, (
            error if service == "s3" else f"<ErrorResponse>{error}</ErrorResponse>"
        ).encode()
