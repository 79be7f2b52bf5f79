"""A real daemon rotates and is scraped while hostile clients hold on to its listener."""

import resource
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from statistics import median
from typing import Any

import bcrypt
import pytest

from processes import Daemon, free_port, running
from test_http import basic, certificate, trusting

pytestmark = pytest.mark.e2e

IDLE = 1000
"""Connections that say nothing, of which each is kept open on its side."""

ROTATIONS = 3
"""How many are timed, with the hostile clients and without."""

DELAY, NOISE = 3.0, 0.2
"""How many times as long a rotation may take, and seconds on top: they share two cores."""

SCRAPE = 1.0
"""Seconds in which the slowest scrape is answered. Prometheus itself waits for ten."""

GROWTH = 24 * 1024
"""KiB that the daemon may grow by while it is attacked."""

PATHS = ("/metrics", "/", "/api/v1/status", "/-/healthy", "/-/ready", "/nothing")


@pytest.fixture(autouse=True)
def many_files() -> Iterator[None]:
    """Let this process have more sockets open than is usual."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def drip(client: socket.socket, over: threading.Event) -> None:
    """Begin a request, and never end it."""
    client.sendall(b"GET /metrics HTTP/1.1\r\nX: ")
    while not over.wait(0.05):
        client.sendall(b"x")


def overflow(client: socket.socket, _: threading.Event) -> None:
    for _ in range(16):
        client.sendall(b"X: " + b"x" * 65536)


def babble(client: socket.socket, _: threading.Event) -> None:
    client.sendall(b"\x16\x03\x01 no request at all \x00\xff\r\n\r\n")
    client.recv(4096)


def pipeline(client: socket.socket, _: threading.Event) -> None:
    """Ask a hundred times without waiting for an answer, and read none of them."""
    client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 100)


@contextmanager
def hostile(port: int) -> Iterator[None]:
    """Have them all at once, and again as soon as they are let go."""
    over = threading.Event()

    def attack(how: Callable[[socket.socket, threading.Event], None]) -> None:
        while not over.wait(0.02):
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 5) as client:
                how(client, over)

    kinds = (drip, drip, overflow, babble, pipeline)
    threads = [threading.Thread(target=attack, args=(kind,)) for kind in kinds]
    with ExitStack() as stack:
        for _ in range(IDLE):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), 5))
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            over.set()
            for thread in threads:
                thread.join()


def seconds_to_rotate(daemon: Daemon) -> float:
    daemon.rests()
    began = time.monotonic()
    daemon.signal(signal.SIGUSR1)
    daemon.expect("rotated")
    took = time.monotonic() - began
    daemon.expect("delete")
    return took


def seconds_to_scrape(port: int) -> float:
    began = time.monotonic()
    assert asked(port, "/metrics")[0] == 200
    return time.monotonic() - began


def asked(port: int, path: str, tls: Any = None, **headers: str) -> tuple[int, bytes]:
    """Return the status and the body of an answer."""
    if tls:
        connection = HTTPSConnection("localhost", port, timeout=10, context=tls)
    else:
        connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path, headers=headers)
        with connection.getresponse() as answer:
            return answer.status, answer.read()
    finally:
        connection.close()


def memory(daemon: Daemon) -> int:
    """Return the KiB that a daemon has in memory."""
    lines = Path(f"/proc/{daemon.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def test_hostile_clients_delay_neither_a_rotation_nor_a_scrape(config: Any, capsys: Any) -> None:
    port = free_port()
    with running(config(top={"listen": f"127.0.0.1:{port}"})) as daemon:
        daemon.expect("rotated")
        alone = [seconds_to_rotate(daemon) for _ in range(ROTATIONS)]
        seconds_to_scrape(port)
        before = memory(daemon)

        with hostile(port):
            scrapes: list[float] = []
            attacked = []
            for _ in range(ROTATIONS):
                scrapes += [seconds_to_scrape(port) for _ in range(10)]
                attacked.append(seconds_to_rotate(daemon))
            grown = memory(daemon) - before
            files = len(list(Path(f"/proc/{daemon.process.pid}/fd").iterdir()))
            assert asked(port, "/-/healthy")[0] == 200

        assert daemon.stop() == 0
    with capsys.disabled():
        print(
            f"\n{IDLE} idle and hostile clients: a rotation takes {median(attacked):.2f} s instead "
            f"of {median(alone):.2f} s, the slowest of {len(scrapes)} scrapes {max(scrapes):.3f} s,"
            f" memory {grown / 1024:+.1f} MiB, {files} files open"
        )
    assert median(attacked) < DELAY * median(alone) + NOISE
    assert max(scrapes) < SCRAPE
    assert grown < GROWTH
    assert files < 128


def test_nobody_reads_anything_without_the_password(config: Any, tmp_path: Path) -> None:
    port, tls = free_port(), certificate(tmp_path)
    listen = {
        "address": f"127.0.0.1:{port}",
        "tls_server_config": {"cert_file": tls.cert_file, "key_file": tls.key_file},
        "basic_auth_users": {"prometheus": bcrypt.hashpw(b"sesame", bcrypt.gensalt(4)).decode()},
    }
    trust = trusting(tls)
    with running(config(top={"listen": listen})) as daemon:
        daemon.expect("rotated")
        for path in PATHS:
            for header in ({}, {"Authorization": basic("prometheus", "guess")}):
                status, body = asked(port, path, trust, **header)
                assert (status, body) == (401, b"401 Unauthorized\n"), path
        right = {"Authorization": basic("prometheus", "sesame")}
        status, body = asked(port, "/metrics", trust, **right)
        assert (status, b"rekeyd_rotations_total" in body) == (200, True)
        with pytest.raises(OSError):
            asked(port, "/metrics", **right)
        assert "sesame" not in daemon.log
        assert daemon.stop() == 0


def test_others_are_shown_nothing_in_plain_http_unless_it_is_said(config: Any, aws: Any) -> None:
    address = f"0.0.0.0:{free_port()}"
    with running(config(top={"listen": address})) as refused:
        assert refused.ended() == 78
    assert "insecure: true" in refused.log
    assert aws.keys() == {}

    with running(config(top={"listen": {"address": address, "insecure": True}})) as daemon:
        daemon.expect("ready")
        assert daemon.stop() == 0
