"""The one HTTP client of the sinks: small, bounded, and strict about where a secret may go.

Python's own `http.client` over a socket that is opened here, because four things must be certain:
the address that was judged is the one that is used (DNS rebinding), no redirect is followed, no
proxy is taken from the environment, and a whole request ends within `LIMIT` even when a server
drips its answer byte by byte. Every request has a connection of its own: none idles for a month.

Answers become `rekeyd.errors` here, once. No error repeats a body, a header or a query: any of
them may hold the secret or the token.
"""

import json
import re
import socket
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from threading import Event, Timer
from typing import Annotated, Any
from urllib.parse import quote, urlencode, urlsplit

from pydantic import AfterValidator, Field

from rekeyd.errors import Refused, RekeydError, Transient, Unanswered
from rekeyd.secret import Secret
from rekeyd.sinks._reference import TOKEN
from rekeyd.sinks.base import SinkContext, SinkSettings

CONNECT = 5.0
"""Seconds to open a connection to one address, TLS included."""

LIMIT = 20.0
"""Seconds to find an address that answers, and as many for a request from its first byte to the
last one of its answer. Only the resolver has limits of its own (resolv.conf(5), `timeout`)."""

LARGEST = 1 << 20
"""Bytes of an answer that are read: every documented one is far smaller."""

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing, so that a lost answer leaves no doubt."""

BUSY = frozenset({408, 425, 429})
"""Statuses below 500 that pass by themselves."""

METADATA = tuple(
    ip_network(network)
    for network in (
        "169.254.0.0/16",  # link-local, with 169.254.169.254 of AWS, Azure and Google
        "fe80::/10",
        "fd00:ec2::/32",  # AWS over IPv6
        "fd20:ce::254/128",  # Google over IPv6
        "168.63.129.16/32",  # Azure's wire server
        "100.100.100.200/32",  # Alibaba Cloud
        "fd00:100::100:200/128",
        "192.0.0.192/32",  # Oracle Cloud
        "fd00:c1::a9fe:a9fe/128",
        "fd00:a9fe:a9fe::1/128",  # Akamai
        "fd00:42::42/128",  # Scaleway
    )
)
"""Addresses at which clouds give out credentials: a sink there is a mistake or an attack."""


class Missing(Refused):
    """404: what the request was about does not exist, or the token may not know that it does."""


def _usable_address(address: str) -> str:
    """Check an address from the configuration without resolving anything."""
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError("is not an address such as https://host or https://host:8200") from None
    if parts.scheme not in {"http", "https"} or not host:
        raise ValueError("is not an address such as https://host or https://host:8200")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("holds more than host, port and path: tokens have settings of their own")
    if not re.fullmatch(r"[!-~]*", parts.path):
        raise ValueError("has characters in its path that must be percent-encoded")
    if parts.scheme == "http" and not _named_loopback(host):
        raise ValueError("is not https: the secret would cross the network in clear text")
    return address


def _named_loopback(host: str) -> bool:
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"


Address = Annotated[
    str,
    AfterValidator(_usable_address),
    Field(description="https://host[:port][/path]; http only to the machine itself."),
]


class HttpSettings(SinkSettings):
    """What all sinks behind HTTP share."""

    ca_file: str | None = Field(
        None, description="PEM file of the CA that signed the server's certificate."
    )


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said, read to its end. Its body may hold the secret and is never shown."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    speaker: str

    @property
    def throttled(self) -> bool:
        """Whether a refusal is about how often, not about what (GitHub answers both with 403)."""
        return "retry-after" in self.headers or self.headers.get("x-ratelimit-remaining") == "0"

    def dig(self, *path: str) -> Any:
        """Return what stands in the JSON body at this path, or None when something is absent.

        Raises `Transient` when the body is no JSON object: it was not the service that answered.
        """
        try:
            found = json.loads(self.body)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise Transient(
                f"{self.speaker} did not answer in JSON, so what it holds is not known",
                "see whether the address leads to the service itself, and not to a login page",
            )
        for step in path:
            found = found.get(step) if isinstance(found, dict) else None
        return found

    def token(self, *path: str) -> Secret | None:
        """Return the token that stands there, None when it is none or could stand in no header."""
        found = self.dig(*path)
        return Secret(found) if isinstance(found, str) and TOKEN.fullmatch(found) else None

    def dig_list(self, *path: str) -> list[Any]:
        """Return the list that stands there, an empty one when there is none."""
        found = self.dig(*path)
        return found if isinstance(found, list) else []


@dataclass(frozen=True, slots=True)
class Call:
    """One request. `content` is sent as JSON; a `form` as OAuth's token endpoints want it."""

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    query: Mapping[str, str] = field(default_factory=dict)
    content: object = field(default=None, repr=False)
    form: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes | None = field(default=None, repr=False)

    def encoded(self) -> tuple[dict[str, str], bytes | None]:
        """Return all headers and the body."""
        headers = {"User-Agent": "rekeyd", "Accept": "application/json", "Connection": "close"}
        body = self.body
        if self.content is not None:
            headers["Content-Type"] = "application/json"
            body = json.dumps(self.content).encode()
        elif self.form:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            body = urlencode(self.form).encode()
        return {**headers, **self.headers}, body


class Client:
    """Speaks to one service. `needs` tells a person which right a refused token lacks."""

    def __init__(
        self,
        address: str,
        *,
        service: str,
        needs: str,
        ca_file: str | None = None,
        metadata: bool = False,
    ) -> None:
        """`metadata` allows a cloud's metadata server, in clear text: nothing else may use it."""
        parts = urlsplit(address)
        self._tls = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if self._tls else 80)
        self._base = parts.path
        self._needs = needs
        self._ca_file = ca_file
        self._metadata = metadata
        self.speaker = f"{service} at {parts.netloc}"

    def send(self, call: Call, accept: Sequence[int] = ()) -> Answer:
        """Send one request, once, and return its answer when it is a success or in `accept`.

        Raises `Transient` when the service cannot be reached or is busy, `Unanswered` when the
        answer to a change was lost, `Missing` for 404, and `Refused` for every other no.
        """
        with self._connected() as (connection, cut):
            try:
                answer = self._exchange(connection, call)
            except (OSError, HTTPException, ValueError):  # ValueError: http.client's for bad chunks
                raise self._lost(call.method) from None
            if cut.is_set():  # what was read may look whole and is not
                raise self._lost(call.method)
        if not (200 <= answer.status < 300 or answer.status in accept):
            raise self._error(call.method, answer)
        return answer

    def reach(self) -> None:
        """Prove that the service can be reached and is who it claims to be, sending nothing."""
        with self._connected():
            pass

    def _exchange(self, connection: HTTPConnection, call: Call) -> Answer:
        path = self._base.rstrip("/") + call.path if call.path else self._base or "/"
        target = path + (f"?{urlencode(call.query)}" if call.query else "")
        headers, body = call.encoded()
        connection.request(call.method, target, body=body, headers=headers)
        with connection.getresponse() as response:
            content = response.read(LARGEST + 1)
            found = {name.lower(): value for name, value in response.getheaders()}
            whole = not response.length and len(content) <= LARGEST
        if not whole:
            raise HTTPException
        return Answer(response.status, found, content, self.speaker)

    @contextmanager
    def _connected(self) -> Iterator[tuple[HTTPConnection, Event]]:
        """Open a connection that nobody can hold for longer than `LIMIT`, which sets the event."""
        context = self._context() if self._tls else None
        line = self._dial()
        wire = line.dup()  # TLS takes `line` over, and the alarm still has to reach it
        cut = Event()
        alarm = Timer(LIMIT, _cut, [wire, cut])
        alarm.daemon = True
        alarm.start()
        connection = (
            HTTPSConnection(self._host, self._port, context=context)
            if context
            else HTTPConnection(self._host, self._port)
        )
        try:
            connection.sock = self._secure(line, context) if context else line
            connection.sock.settimeout(LIMIT)
            yield connection, cut
        finally:
            alarm.cancel()
            connection.close()
            line.close()
            wire.close()

    def _dial(self) -> socket.socket:
        """Connect to an address that was judged, not to a name that may have changed meanwhile."""
        reason = "it has no address"
        addresses = self._addresses()
        until = time.monotonic() + LIMIT
        for address in addresses:
            left = until - time.monotonic()
            if left <= 0:
                break
            try:
                return socket.create_connection((address, self._port), timeout=min(CONNECT, left))
            except OSError as error:
                reason = error.strerror or "timed out"
        raise self._unreachable(reason.lower())

    def _addresses(self) -> list[str]:
        try:
            found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise self._unreachable("its name does not resolve") from None
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        for address in addresses:
            self._judge(address)
        return addresses

    def _judge(self, address: str) -> None:
        if self._metadata:
            return
        plain = _embedded(ip_address(address.partition("%")[0]))
        if any(plain in network for network in METADATA) or _nowhere(plain):
            raise Refused(
                f"{self.speaker} resolves to a link-local or metadata address, where no sink is",
                "correct the address, or find out who changed the DNS entry",
                reason="sink",
            )
        if not self._tls and not plain.is_loopback:
            raise Refused(
                f"{self.speaker} is not this machine, and the secret would travel in clear text",
                "use an https address",
                reason="sink",
            )

    def _context(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=self._ca_file)
        except OSError:
            raise Refused(
                f"the CA file {self._ca_file} cannot be used, so {self.speaker} cannot be trusted",
                "put a readable PEM file there",
                reason="sink",
            ) from None

    def _secure(self, line: socket.socket, context: ssl.SSLContext) -> ssl.SSLSocket:
        try:
            return context.wrap_socket(line, server_hostname=self._host)
        except ssl.SSLCertVerificationError as error:
            raise Refused(
                f"{self.speaker} has a certificate that is not trusted ({error.verify_message}), "
                "so nothing was sent",
                "renew the certificate, or name its CA in `ca_file`",
                reason="sink",
            ) from None
        except OSError:
            raise self._unreachable("no TLS connection came about") from None

    def _unreachable(self, why: str) -> Transient:
        return Transient(
            f"{self.speaker} could not be reached: {why}",
            "rekeyd tries again by itself; see whether the address is right, the service runs "
            "and no firewall is between",
        )

    def _lost(self, method: str) -> Transient:
        do = "rekeyd looks again by itself; see whether the service is healthy"
        if method in SAFE:
            return Transient(f"{self.speaker} broke off, so what it holds is not known", do)
        return Unanswered(
            f"{self.speaker} broke off after the request was sent, so nobody knows whether it "
            "was done",
            do,
        )

    def _error(self, method: str, answer: Answer) -> RekeydError:
        status, who = answer.status, self.speaker
        if status in BUSY or status >= 500 or (status == 403 and answer.throttled):
            return Transient(
                f"{who} cannot answer just now ({status})",
                "rekeyd tries again by itself; see whether the service is healthy",
            )
        if status in {409, 412}:
            return Transient(
                f"{who} was changed by somebody else at the same moment ({status})",
                "rekeyd looks again and repeats it by itself",
            )
        if status == 401:
            return Refused(
                f"{who} does not accept the token (401), so this sink cannot be used",
                "the token is wrong, expired or revoked: put a new one where the setting points",
            )
        if status == 403:
            deed = "read there" if method in SAFE else "write there"
            return Refused(f"{who} does not let this token {deed} (403)", self._needs)
        if status == 404:
            return Missing(
                f"{who} knows nothing there, or does not show it to this token (404)",
                f"see whether the names in the configuration are right; else: {self._needs}",
                reason="sink",
            )
        if 300 <= status < 400:
            return Refused(
                f"{who} redirects elsewhere ({status}), and a secret follows no redirect",
                "set the address to where the service really is",
                reason="sink",
            )
        return Refused(
            f"{who} does not take the request ({status})",
            "see whether the settings of the sink fit the service",
            reason="sink",
        )


def client(
    settings: HttpSettings, context: SinkContext, address: str, *, service: str, needs: str
) -> Client:
    """Make the client of a sink, with the CA that its settings or its surroundings name."""
    ca_file = settings.ca_file or context.tls_ca
    return Client(address, service=service, needs=needs, ca_file=ca_file)


def plain(address: str) -> str:
    """Return an address as people say it."""
    return address.partition("://")[2].rstrip("/")


def segment(text: str) -> str:
    """Quote one segment of a path, slashes included."""
    return quote(text, safe="")


def bearer(token: Secret) -> dict[str, str]:
    return {"Authorization": f"Bearer {token.reveal()}"}


def _embedded(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address inside an IPv6 one (mapped, 6to4, NAT64), which is where packets end up."""
    if isinstance(address, IPv4Address):
        return address
    if address in ip_network("64:ff9b::/96"):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address


def _nowhere(address: IPv4Address | IPv6Address) -> bool:
    return address.is_unspecified or address.is_multicast


def _cut(line: socket.socket, cut: Event) -> None:
    """End a connection under whoever waits on it, who must know of it before reading the end."""
    cut.set()
    with suppress(OSError):
        line.shutdown(socket.SHUT_RDWR)
