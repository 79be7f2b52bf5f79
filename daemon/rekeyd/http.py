"""The listener: serves one WSGI application on `listen`, and lets no client hold it up.

One thread waits for all clients, so an idle one costs a file descriptor and no thread. From the
first byte of its TLS handshake to the last one of its answer a connection has `DEADLINE` seconds.
When there are too many, the one that has waited longest to say what it wants makes room. Each
connection is answered once: a scrape every few seconds gains nothing from keeping it open.
"""

import asyncio
import errno
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import Any, Self
from wsgiref.types import WSGIApplication

import structlog

from rekeyd.access import secured
from rekeyd.config import Listen
from rekeyd.errors import Misconfigured
from rekeyd.wsgi import apply, environ, plain

DEADLINE = 15.0
"""Seconds that a connection may last."""

HANDSHAKE = 5.0
"""Seconds of them for TLS."""

PAUSE = 0.1
"""Seconds without accepting anybody when the process has no file descriptor left."""

MOST_CONNECTIONS = 64
"""At once; far below the 1,024 file descriptors that a service usually has for everything."""

LARGEST_HEAD = 16 * 1024
"""Bytes of a request. There is no body: every request only reads."""

WORKERS = 2
"""Threads that run the application; one more checks passwords, so that guessing delays nobody."""

_log = structlog.get_logger(__name__)


class Listener:
    """A bound port from the start; `start` answers on it until `stop`.

    Raises `Misconfigured` when the port cannot be had, or when the certificate or the password
    hashes cannot be used.
    """

    def __init__(self, listen: Listen, application: WSGIApplication) -> None:
        self._secure(listen)
        self._application = application
        self._sockets = _bind(listen)
        self._connections: dict[asyncio.Task[None], None] = {}  # oldest first
        self._silent: dict[asyncio.Task[None], None] = {}  # those that have not asked yet
        self._workers = ThreadPoolExecutor(WORKERS, "http")
        self._doorkeeper = ThreadPoolExecutor(1, "http-password")
        self._loop: asyncio.AbstractEventLoop
        self._stopping: asyncio.Event
        self._running = threading.Event()
        self._thread = threading.Thread(target=self._run, name="http-listener", daemon=True)

    @property
    def port(self) -> int:
        """The port, also where the settings left it to the system."""
        return int(self._sockets[0].getsockname()[1])

    def start(self) -> None:
        self._thread.start()
        self._running.wait()

    def stop(self) -> None:
        """Close the port and every connection; return when that is done."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join()
        self._workers.shutdown(cancel_futures=True)
        self._doorkeeper.shutdown(cancel_futures=True)
        for bound in self._sockets:
            bound.close()

    def reload(self, listen: Listen) -> None:
        """Take over certificate and passwords for the connections to come. The address stays.

        Raises `Misconfigured`, and goes on with the old ones.
        """
        self._secure(listen)

    def alive(self) -> bool:
        """Tell whether it answers its own thread within a second."""
        answered = threading.Event()
        with suppress(RuntimeError):  # the loop is closed
            if self._thread.is_alive():
                self._loop.call_soon_threadsafe(answered.set)
                return answered.wait(1.0)
        return False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _secure(self, listen: Listen) -> None:
        self._tls, self._gate = secured(listen)

    def _run(self) -> None:
        asyncio.run(self._listen())

    async def _listen(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        for bound in self._sockets:
            self._loop.add_reader(bound, self._accept, bound)
        self._running.set()
        await self._stopping.wait()
        for bound in self._sockets:
            self._loop.remove_reader(bound)
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _accept(self, bound: socket.socket) -> None:
        try:
            client, _ = bound.accept()
        except (BlockingIOError, ConnectionError):  # it is gone already
            return
        except OSError:  # no file descriptor is left
            self._loop.remove_reader(bound)
            self._loop.call_later(PAUSE, self._loop.add_reader, bound, self._accept, bound)
            return
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else TLS waits 40 ms
        self._make_room()
        task = self._loop.create_task(self._attend(client))
        self._connections[task] = self._silent[task] = None
        task.add_done_callback(partial(self._close, client))

    def _make_room(self) -> None:
        if len(self._connections) >= MOST_CONNECTIONS:
            oldest = next(iter(self._silent or self._connections))
            oldest.cancel()
            self._forget(oldest)

    def _close(self, client: socket.socket, task: asyncio.Task[None]) -> None:
        client.close()  # also where the task was cancelled before it began
        self._forget(task)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._connections.pop(task, None)
        self._silent.pop(task, None)

    async def _attend(self, client: socket.socket) -> None:
        """Serve one connection from its first byte to its last. A client's fault is not ours."""
        reader = asyncio.StreamReader(LARGEST_HEAD)
        protocol = asyncio.StreamReaderProtocol(reader)
        transport: asyncio.Transport | None = None
        try:
            async with asyncio.timeout(DEADLINE):
                transport, _ = await self._loop.connect_accepted_socket(
                    lambda: protocol, client, **self._tls_options()
                )
                writer = asyncio.StreamWriter(transport, protocol, reader, self._loop)
                writer.write(await self._answer(reader))
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            _log.debug("a client went away", error=type(error).__name__)
        finally:
            if transport:
                transport.abort()

    def _tls_options(self) -> dict[str, Any]:
        if self._tls is None:
            return {}
        return {
            "ssl": self._tls.context(),
            "ssl_handshake_timeout": HANDSHAKE,
            "ssl_shutdown_timeout": 1.0,
        }

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return plain(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        finally:
            self._silent.pop(asyncio.current_task(), None)  # type: ignore[arg-type]
        request = environ(head, "https" if self._tls else "http")
        if request is None:
            return plain(HTTPStatus.BAD_REQUEST)
        if not await self._may_pass(request.pop("HTTP_AUTHORIZATION", "")):
            challenge = {"WWW-Authenticate": 'Basic realm="rekeyd", charset="UTF-8"'}
            return plain(HTTPStatus.UNAUTHORIZED, challenge)
        return await self._loop.run_in_executor(self._workers, apply, self._application, request)

    async def _may_pass(self, authorization: str) -> bool:
        gate = self._gate
        if gate is None or gate.remembers(authorization):
            return True
        return await self._loop.run_in_executor(self._doorkeeper, gate.admits, authorization)


def _bind(listen: Listen) -> list[socket.socket]:
    """Bind every address that the host's name stands for, and that this machine has."""
    bound: list[socket.socket] = []
    port, absent = listen.port, None
    try:
        for family, host in _addresses(listen):
            try:
                opened = socket.create_server(
                    (host, port), family=family, backlog=128, dualstack_ipv6=host == "::"
                )
            except OSError as error:
                if error.errno not in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
                    raise
                absent = error  # localhost is ::1 too, also where IPv6 is switched off
                continue
            opened.setblocking(False)
            bound.append(opened)
            port = opened.getsockname()[1]
        if absent and not bound:
            raise absent
    except OSError as error:
        for opened in bound:
            opened.close()
        raise Misconfigured(*_why_not_bound(listen.address, error)) from None
    return bound


def _addresses(listen: Listen) -> list[tuple[int, str]]:
    found = socket.getaddrinfo(
        listen.host, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    return list(dict.fromkeys((family, str(address[0])) for family, _, _, _, address in found))


def _why_not_bound(address: str, error: OSError) -> tuple[str, str]:
    if isinstance(error, socket.gaierror):
        return f"the host of {address} has no address", "correct `listen` in the configuration"
    match error.errno:
        case errno.EADDRINUSE:
            return (
                f"another program listens on {address} already",
                "stop it (`ss -ltnp` names it), or choose another port in `listen`",
            )
        case errno.EACCES:
            return (
                f"rekeyd may not listen on {address}: the ports below 1024 are root's",
                "choose another port in `listen`",
            )
        case errno.EADDRNOTAVAIL:
            return f"this machine does not have the address {address}", "correct `listen`"
    return f"nothing can listen on {address}: {error.strerror}", "correct `listen`"
