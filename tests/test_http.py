"""The listener: what it serves, whom it lets in, and what hostile clients cannot do to it."""

import base64
import resource
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import Any

import bcrypt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from rekeyd import access, http
from rekeyd.config import Listen, TlsSettings
from rekeyd.errors import Misconfigured
from rekeyd.http import Listener

FREE = "127.0.0.1:0"
HASH = bcrypt.hashpw(b"open sesame", bcrypt.gensalt(4)).decode()


def hello(environ: dict[str, Any], start: Callable[..., Any]) -> list[bytes]:
    start("200 OK", [("Content-Type", "text/plain")])
    return [f"{environ['PATH_INFO']}?{environ['QUERY_STRING']}".encode()]


@contextmanager
def serving(application: Any = hello, **settings: Any) -> Iterator[Listener]:
    with Listener(Listen(address=FREE, **settings), application) as listener:
        yield listener


@pytest.fixture
def listener() -> Iterator[Listener]:
    with serving() as started:
        yield started


@contextmanager
def asking(
    listener: Listener, path: str = "/", method: str = "GET", tls: Any = None, **headers: str
) -> Iterator[HTTPResponse]:
    if tls:
        connection = HTTPSConnection("localhost", listener.port, timeout=5, context=tls)
    else:
        connection = HTTPConnection("localhost", listener.port, timeout=5)
    try:
        connection.request(method, path, headers=headers)
        with connection.getresponse() as answer:
            yield answer
    finally:
        connection.close()


def status(listener: Listener, **asked: Any) -> int:
    with asking(listener, **asked) as answer:
        return answer.status


def connected(listener: Listener) -> socket.socket:
    return socket.create_connection(("127.0.0.1", listener.port), timeout=5)


def said(listener: Listener, sent: bytes) -> bytes:
    """Send bytes, and return everything that comes back."""
    with connected(listener) as client:
        client.sendall(sent)
        answer = b""
        try:
            while more := client.recv(65536):
                answer += more
        except ConnectionResetError:
            pass
        return answer


def is_closed(client: socket.socket) -> bool:
    """Wait until the other side has closed, and left nothing to read."""
    try:
        return client.recv(10) == b""
    except ConnectionResetError:
        return True


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


# What it serves.


def test_the_application_answers(listener: Listener) -> None:
    with asking(listener, "/a%20b?c=d") as answer:
        assert (answer.status, answer.read()) == (200, b"/a b?c=d")


def test_head_gets_the_length_and_no_body(listener: Listener) -> None:
    answer = said(listener, b"HEAD / HTTP/1.1\r\n\r\n")
    assert b"\r\nContent-Length: 2\r\n" in answer
    assert answer.endswith(b"\r\n\r\n")


def test_every_answer_is_kept_from_other_sites_and_from_caches(listener: Listener) -> None:
    with asking(listener) as good:
        pass
    bad = said(listener, b"nonsense\r\n\r\n").decode()
    for name, value in {
        "Cache-Control": "no-store",
        "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }.items():
        assert good.getheader(name) == value
        assert f"{name}: {value}\r\n" in bad
    assert good.getheader("Server") is None


def test_a_fault_of_the_application_is_a_500_that_tells_nothing() -> None:
    def broken(environ: Any, start: Any) -> Any:
        raise ValueError("a secret")

    with serving(broken) as listener, asking(listener) as answer:
        assert (answer.status, answer.read()) == (500, b"500 Internal Server Error\n")


def test_it_is_alive_from_start_to_stop() -> None:
    listener = Listener(Listen(address=FREE), hello)
    assert not listener.alive()
    listener.start()
    assert listener.alive()
    listener.stop()
    assert not listener.alive()


def test_one_that_was_never_started_can_be_stopped() -> None:
    Listener(Listen(address=FREE), hello).stop()


def test_stopping_does_not_wait_for_clients() -> None:
    with serving() as listener, connected(listener) as client:
        client.sendall(b"GET / HT")
        began = time.monotonic()
        listener.stop()
        assert time.monotonic() - began < 2
        assert is_closed(client)


# Where it listens.


def test_a_port_that_is_taken_is_said_before_anything_else() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(Misconfigured, match=f"listens on {address} already") as error:
            Listener(Listen(address=address), hello)
    assert "ss -ltnp" in error.value.do


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("no.such.host.invalid:9797", "the host of no.such.host.invalid:9797 has no address"),
        ("192.0.2.1:0", "this machine does not have the address 192.0.2.1:0"),
    ],
)
def test_an_address_that_cannot_be_had_is_said(address: str, message: str) -> None:
    with pytest.raises(Misconfigured, match=message):
        Listener(Listen(address=address, insecure=True), hello)


def test_a_port_that_is_roots_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket, "create_server", refuse)
    with pytest.raises(Misconfigured, match="the ports below 1024"):
        Listener(Listen(address="127.0.0.1:80"), hello)


def test_any_other_trouble_is_said_in_the_systems_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(socket, "create_server", refuse)
    with pytest.raises(Misconfigured, match="Too many open files"):
        Listener(Listen(address=FREE), hello)


def test_localhost_works_where_ipv6_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    create = socket.create_server

    def without_ip6(address: Any, *, family: int, **rest: Any) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(99, "Cannot assign requested address")
        return create(address, family=family, **rest)

    found = [
        (family, socket.SOCK_STREAM, 6, "", (host, 0))
        for family, host in ((socket.AF_INET6, "::1"), (socket.AF_INET, "127.0.0.1"))
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    monkeypatch.setattr(socket, "create_server", without_ip6)
    listener = Listener(Listen(address="localhost:0"), hello)
    monkeypatch.undo()
    with listener:
        assert status(listener) == 200


# What it makes of bad requests.


@pytest.mark.parametrize(
    "request_line",
    [
        b"nonsense",
        b"GET /",
        b"GET / HTTP/2.0",
        b"get / HTTP/1.1",
        b"GET http://elsewhere/ HTTP/1.1",
        b"GET /\x00 HTTP/1.1",
        b"GET /\xff HTTP/1.1",
        b"GET / HTTP/1.1\r\nno colon",
        b"GET / HTTP/1.1\r\nsmuggled : x",
        b"GET / HTTP/1.1\r\nHost: a\r\n folded",
        b"GET / HTTP/1.1\r\nHost: a\rb",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"",
    ],
)
def test_a_malformed_request_is_refused(listener: Listener, request_line: bytes) -> None:
    assert said(listener, request_line + b"\r\n\r\n").startswith(b"HTTP/1.1 400 Bad Request\r\n")


def test_an_oversized_request_is_refused_and_not_kept(listener: Listener) -> None:
    with connected(listener) as client:
        sent = 0
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            while sent < 50_000_000:
                sent += client.send(b"GET /" + b"x" * 65536)
    assert sent < 20_000_000
    assert status(listener) == 200


def test_an_oversized_head_is_called_so(listener: Listener) -> None:
    head = b"GET / HTTP/1.1\r\nX: " + b"x" * http.LARGEST_HEAD + b"\r\n\r\n"
    assert said(listener, head).startswith(b"HTTP/1.1 431 ")


# Passwords.


@pytest.fixture
def guarded() -> Iterator[Listener]:
    with serving(basic_auth_users={"prometheus": HASH}) as listener:
        yield listener


def test_nobody_reads_without_the_password(guarded: Listener) -> None:
    with asking(guarded, "/metrics") as answer:
        assert answer.status == 401
        assert answer.getheader("WWW-Authenticate") == 'Basic realm="rekeyd", charset="UTF-8"'
        assert b"metrics" not in answer.read()


def test_whoever_has_the_password_reads(guarded: Listener) -> None:
    for _ in range(2):
        assert status(guarded, Authorization=basic("prometheus", "open sesame")) == 200


@pytest.mark.parametrize(
    "header",
    [
        basic("prometheus", "open"),
        basic("prometheus", ""),
        basic("somebody", "open sesame"),
        basic("", ""),
        basic("prometheus", "x" * 200),
        basic("prometheus", "open sesame\x00"),
        "Basic ???",
        "Basic " + base64.b64encode(b"\xff\xfe:x").decode(),
        "Bearer open sesame",
        "Basic",
    ],
)
def test_a_wrong_password_stays_outside(guarded: Listener, header: str) -> None:
    assert status(guarded, Authorization=basic("prometheus", "open sesame")) == 200
    assert status(guarded, Authorization=header) == 401


def test_a_password_is_hashed_once_while_it_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    checked = []
    monkeypatch.setattr(bcrypt, "checkpw", lambda *given: checked.append(given) or True)
    gate = access.Gate({"prometheus": HASH})
    header = basic("prometheus", "x")
    assert not gate.remembers(header)
    assert gate.admits(header)
    assert gate.remembers(header)
    assert not gate.remembers(basic("prometheus", "y"))
    assert len(checked) == 1


def test_an_unknown_user_takes_as_long_as_a_known_one(monkeypatch: pytest.MonkeyPatch) -> None:
    checked = []
    monkeypatch.setattr(bcrypt, "checkpw", lambda *given: checked.append(given) or True)
    assert not access.Gate({"prometheus": HASH}).admits(basic("somebody", "x"))
    assert checked == [(b"x", HASH.encode())]


def test_guessing_delays_nobody_who_was_let_in_before(
    guarded: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = basic("prometheus", "open sesame")
    assert status(guarded, Authorization=right) == 200
    going_on = threading.Event()
    monkeypatch.setattr(guarded._gate, "admits", lambda _: not going_on.wait(5))
    guess = f"GET / HTTP/1.1\r\nAuthorization: {basic('prometheus', 'guess')}\r\n\r\n".encode()
    with ExitStack() as stack:
        guessers = [stack.enter_context(connected(guarded)) for _ in range(2 * http.WORKERS)]
        for guesser in guessers:
            guesser.sendall(guess)
        assert status(guarded, Authorization=right) == 200
        going_on.set()
        for guesser in guessers:
            assert guesser.recv(100).startswith(b"HTTP/1.1 401")


def test_passwords_without_bcrypt_are_a_mistake_that_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "bcrypt", None)
    with pytest.raises(Misconfigured, match="bcrypt") as error:
        Listener(Listen(address=FREE, basic_auth_users={"prometheus": HASH}), hello)
    assert "rekeyd[web]" in error.value.do


def test_passwords_can_be_changed_without_a_restart(guarded: Listener) -> None:
    old = basic("prometheus", "open sesame")
    assert status(guarded, Authorization=old) == 200
    changed = bcrypt.hashpw(b"other", bcrypt.gensalt(4)).decode()
    guarded.reload(Listen(address=FREE, basic_auth_users={"prometheus": changed}))
    assert status(guarded, Authorization=old) == 401
    assert status(guarded, Authorization=basic("prometheus", "other")) == 200


# TLS.


def certificate(folder: Path, name: str = "localhost") -> TlsSettings:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    settings = TlsSettings(cert_file=str(folder / "tls.pem"), key_file=str(folder / "tls.key"))
    Path(settings.cert_file).write_bytes(made.public_bytes(serialization.Encoding.PEM))
    Path(settings.key_file).write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return settings


def trusting(settings: TlsSettings) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=settings.cert_file)


@pytest.fixture
def tls(tmp_path: Path) -> TlsSettings:
    return certificate(tmp_path)


def test_https_is_served_with_the_certificate(tls: TlsSettings) -> None:
    with serving(tls_server_config=tls) as listener:
        assert status(listener, tls=trusting(tls)) == 200


def test_an_answer_over_tls_does_not_wait_for_a_delayed_acknowledgement(tls: TlsSettings) -> None:
    def seconds() -> float:
        began = time.monotonic()
        assert status(listener, tls=trust) == 200
        return time.monotonic() - began

    trust = trusting(tls)
    with serving(tls_server_config=tls) as listener:
        assert min(seconds() for _ in range(10)) < 0.03


def test_plain_http_is_not_answered_where_tls_is_set(tls: TlsSettings) -> None:
    with serving(tls_server_config=tls) as listener:
        assert not said(listener, b"GET / HTTP/1.1\r\n\r\n").startswith(b"HTTP/")


def test_old_versions_of_tls_are_refused(tls: TlsSettings) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.load_verify_locations(tls.cert_file)
    old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    with (
        serving(tls_server_config=tls) as listener,
        pytest.raises(ssl.SSLError),
        asking(listener, tls=old),
    ):
        pass


def test_a_renewed_certificate_is_shown_without_a_signal(tls: TlsSettings) -> None:
    with serving(tls_server_config=tls) as listener:
        assert status(listener, tls=trusting(tls)) == 200
        certificate(Path(tls.cert_file).parent)
        assert status(listener, tls=trusting(tls)) == 200


def test_a_certificate_that_was_spoiled_does_not_replace_the_good_one(tls: TlsSettings) -> None:
    with serving(tls_server_config=tls) as listener:
        trust = trusting(tls)
        Path(tls.cert_file).write_text("half a fi")
        assert status(listener, tls=trust) == 200


def spoil(tls: TlsSettings) -> None:
    Path(tls.cert_file).write_text("no certificate")


def remove(tls: TlsSettings) -> None:
    Path(tls.key_file).unlink()


def swap(tls: TlsSettings) -> None:
    kept = Path(tls.cert_file).read_bytes()
    certificate(Path(tls.cert_file).parent)
    Path(tls.cert_file).write_bytes(kept)


def seal(tls: TlsSettings) -> None:
    key = serialization.load_pem_private_key(Path(tls.key_file).read_bytes(), None)
    Path(tls.key_file).write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"passphrase"),
        )
    )


@pytest.mark.parametrize("harm", [spoil, remove, swap, seal])
def test_a_certificate_that_cannot_be_used_is_said(
    tls: TlsSettings, harm: Callable[[TlsSettings], None]
) -> None:
    harm(tls)
    with pytest.raises(Misconfigured, match=r"cannot be used: [a-zA-Z ]+$") as error:
        Listener(Listen(address=FREE, tls_server_config=tls), hello)
    assert tls.cert_file in str(error.value)


# Hostile clients.


def test_a_client_that_says_nothing_is_let_go_in_the_end(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "DEADLINE", 0.2)
    with connected(listener) as client:
        assert is_closed(client)


def test_a_client_that_drips_has_no_more_time_than_any_other(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "DEADLINE", 0.3)
    began = time.monotonic()
    with connected(listener) as client, pytest.raises(OSError):
        while time.monotonic() - began < 5:
            client.sendall(b"x")
            threading.Event().wait(0.02)
    assert time.monotonic() - began < 2


def test_a_client_that_does_not_read_has_no_more_time_either(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def large(environ: Any, start: Any) -> list[bytes]:
        start("200 OK", [])
        return [b"x" * 20_000_000]

    monkeypatch.setattr(http, "DEADLINE", 0.5)
    with serving(large) as listener, connected(listener) as client:
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        gone = threading.Event()
        for task in list(listener._connections):
            task.add_done_callback(lambda _: gone.set())
        assert gone.wait(5) or not listener._connections


def test_a_client_without_tls_has_only_the_handshakes_time(
    tls: TlsSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "HANDSHAKE", 0.2)
    with serving(tls_server_config=tls) as listener, connected(listener) as client:
        assert is_closed(client)


@pytest.fixture
def many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("secured", [False, True], ids=["plain", "tls"])
def test_a_thousand_idle_clients_delay_no_scrape(
    secured: bool, tls: TlsSettings, many_files: None
) -> None:
    settings = {"tls_server_config": tls} if secured else {}
    trust = trusting(tls) if secured else None
    with serving(**settings) as listener, ExitStack() as stack:
        slowest = 0.0
        for number in range(1000):
            client = stack.enter_context(connected(listener))
            if number % 3 == 0:
                client.sendall(b"GET / HTTP/1.1\r\nX-Slow: ")
            if number % 100 == 99:
                began = time.monotonic()
                assert status(listener, tls=trust) == 200
                slowest = max(slowest, time.monotonic() - began)
        assert slowest < 1.0
        assert len(listener._connections) <= http.MOST_CONNECTIONS


def test_when_there_are_too_many_the_longest_silent_one_makes_room(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "MOST_CONNECTIONS", 2)
    with connected(listener) as oldest, connected(listener), connected(listener):
        assert is_closed(oldest)


def test_a_client_that_has_asked_is_not_put_out_for_a_silent_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    going_on, asked = threading.Event(), threading.Event()

    def slow(environ: Any, start: Any) -> Any:
        asked.set()
        going_on.wait(5)
        return hello(environ, start)

    monkeypatch.setattr(http, "MOST_CONNECTIONS", 2)
    with serving(slow) as listener, connected(listener) as patient:
        patient.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert asked.wait(5)
        with connected(listener) as silent, connected(listener):
            assert is_closed(silent)
        going_on.set()
        assert patient.recv(100).startswith(b"HTTP/1.1 200")


def test_a_client_put_out_before_its_turn_came_is_closed(listener: Listener) -> None:
    bound, done = listener._sockets[0], threading.Event()

    def accept_and_put_out() -> None:
        listener._accept(bound)
        for task in listener._connections:
            task.cancel()

    listener._loop.call_soon_threadsafe(listener._loop.remove_reader, bound)
    listener._loop.call_soon_threadsafe(done.set)
    assert done.wait(5)
    with connected(listener) as client:
        listener._loop.call_soon_threadsafe(accept_and_put_out)
        assert is_closed(client)


def test_without_file_descriptors_it_waits_and_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listener = Listener(Listen(address=FREE), hello)
    bound, failures = listener._sockets[0], [True]

    class Exhausted(type(bound)):  # type: ignore[misc]
        def accept(self) -> Any:
            if failures:
                failures.pop()
                raise OSError(24, "Too many open files")
            return super().accept()

    listener._sockets[0] = Exhausted(fileno=bound.detach())
    listener._sockets[0].setblocking(False)
    with listener:
        assert status(listener) == 200
    assert not failures


def test_importing_it_needs_no_bcrypt() -> None:
    check = "import sys, rekeyd.http; sys.exit('bcrypt' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
