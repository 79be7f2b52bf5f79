"""The HTTP client of the sinks: where it may go, what ends it, and what it says when it fails."""

import datetime as dt
import ipaddress
import socket
import ssl
import threading
from contextlib import contextmanager, suppress

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from described import Described, Said, route
from pydantic import TypeAdapter, ValidationError

from rekeyd.errors import Refused, Transient, Unanswered
from rekeyd.sinks import _http
from rekeyd.sinks._http import Address, Call, Client, Missing


class Plain(Described):
    """Two operations, one that reads and one that writes."""

    @route("GET", "/thing")
    def get(self, heard):
        return Said(200, {"held": {"by": "nobody"}})

    @route("PUT", "/thing")
    def put(self, heard):
        self.writes += 1
        return Said(204)


@pytest.fixture
def server():
    with Plain() as running:
        yield running


def client(address, **more):
    return Client(address, service="Thing", needs="give it the right to things", **more)


GET = Call("GET", "/thing")
PUT = Call("PUT", "/thing", {"Authorization": "Bearer t0k3n"}, content={"secret": "s3cr3t"})


def test_an_answer_is_read_and_dug_into(server):
    answer = client(server.address).send(GET)

    assert answer.dig("held", "by") == "nobody"
    assert answer.dig("held", "by", "whom") is None
    assert answer.dig_list("held") == []


def test_the_programs_name_goes_with_every_request(server):
    client(server.address).send(GET)

    assert server.heard[0].headers["user-agent"] == "rekeyd"


@pytest.mark.parametrize(
    ("status", "kind", "says"),
    [
        (401, Refused, "does not accept the token"),
        (403, Refused, "does not let this token"),
        (404, Missing, "knows nothing there"),
        (409, Transient, "somebody else"),
        (412, Transient, "somebody else"),
        (422, Refused, "does not take the request"),
        (429, Transient, "just now"),
        (500, Transient, "just now"),
        (503, Transient, "just now"),
    ],
)
def test_each_no_becomes_one_of_our_errors(server, status, kind, says):
    server.instead = Said(status, {"echo": "Bearer t0k3n s3cr3t"})

    with pytest.raises(kind, match=says) as caught:
        client(server.address).send(PUT)

    assert str(status) in str(caught.value)
    assert caught.value.do
    assert "s3cr3t" not in repr(caught.value) + caught.value.do
    assert "t0k3n" not in repr(caught.value) + caught.value.do
    assert caught.value.__cause__ is None


def test_a_refused_token_is_told_what_it_lacks(server):
    server.instead = Said(403)

    with pytest.raises(Refused) as caught:
        client(server.address).send(GET)

    assert caught.value.do == "give it the right to things"


@pytest.mark.parametrize("header", [{"Retry-After": "60"}, {"X-RateLimit-Remaining": "0"}])
def test_a_403_about_how_often_passes_by_itself(server, header):
    server.instead = Said(403, headers=header)

    with pytest.raises(Transient):
        client(server.address).send(GET)


def test_no_redirect_is_followed(server):
    with Plain() as elsewhere:
        server.instead = Said(307, headers={"Location": f"{elsewhere.address}/thing"})

        with pytest.raises(Refused, match="redirects"):
            client(server.address).send(PUT)

        assert elsewhere.heard == []


def test_no_proxy_is_taken_from_the_environment(server, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")

    client(server.address).send(GET)


def test_a_port_where_nobody_listens_is_unreachable(server):
    server.stop()

    with pytest.raises(Transient, match="could not be reached: connection refused") as caught:
        client(server.address).send(PUT)

    assert not isinstance(caught.value, Unanswered)


def test_a_name_that_does_not_resolve_is_unreachable():
    with pytest.raises(Transient, match="does not resolve"):
        client("https://nowhere.invalid").send(GET)


def test_a_lost_answer_to_a_write_leaves_doubt_and_one_to_a_read_none(server):
    server.drop = True

    with pytest.raises(Unanswered):
        client(server.address).send(PUT)
    with pytest.raises(Transient) as caught:
        client(server.address).send(GET)

    assert not isinstance(caught.value, Unanswered)


def test_a_silent_server_is_left_in_time(server, monkeypatch):
    monkeypatch.setattr(_http, "LIMIT", 0.2)
    server.hang = True

    with pytest.raises(Transient, match="broke off"):
        client(server.address).send(GET)


@contextmanager
def speaking(talk):
    """A server that answers one connection with what `talk` does to the socket."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve():
            line, _ = listening.accept()
            with line, suppress(OSError):
                line.recv(65536)
                talk(line)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        thread.join()


def test_a_server_that_drips_is_left_in_time(monkeypatch):
    monkeypatch.setattr(_http, "LIMIT", 0.3)
    stopped = threading.Event()

    def drip(line):
        line.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        while not stopped.wait(0.02):
            line.sendall(b" ")

    with speaking(drip) as address:
        with pytest.raises(Transient, match="broke off"):
            client(address).send(GET)
        stopped.set()


def test_what_was_cut_off_counts_for_nothing(monkeypatch):
    monkeypatch.setattr(_http, "LIMIT", 0.3)
    stopped = threading.Event()

    def open_ended(line):
        line.sendall(b"HTTP/1.1 200 OK\r\n\r\n{}")
        stopped.wait()

    with speaking(open_ended) as address:
        with pytest.raises(Transient, match="broke off"):
            client(address).send(GET)
        stopped.set()


def test_an_endless_answer_is_not_read(monkeypatch):
    monkeypatch.setattr(_http, "LARGEST", 1000)

    def endless(line):
        line.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 5000)

    with speaking(endless) as address, pytest.raises(Transient, match="broke off"):
        client(address).send(GET)


@pytest.mark.parametrize(
    "answer",
    [
        b"Content-Length: 20\r\n\r\n{}",
        b"Transfer-Encoding: chunked\r\n\r\n-5\r\n{}",
    ],
)
def test_an_answer_that_is_cut_short_or_has_no_end_was_not_read(answer):
    with (
        speaking(lambda line: line.sendall(b"HTTP/1.1 200 OK\r\n" + answer)) as address,
        pytest.raises(Transient, match="broke off"),
    ):
        client(address).send(GET)


@pytest.mark.parametrize("token", [None, 1, "", "a b", "a\nb", "clé", "\ud800"])
def test_what_can_stand_in_no_header_is_no_token(server, token):
    server.instead = Said(200, {"token": token})

    assert client(server.address).send(GET).token("token") is None


def test_something_that_does_not_speak_http_is_transient():
    with (
        speaking(lambda line: line.sendall(b"220 smtp.example.com ESMTP\r\n")) as address,
        pytest.raises(Transient, match="broke off"),
    ):
        client(address).send(GET)


@pytest.mark.parametrize("body", [b"<html>log in</html>", b"[1]", b"", b"[" * 100_000])
def test_an_answer_that_is_no_json_object_is_transient(server, body):
    server.instead = Said(200, body)

    with pytest.raises(Transient, match="did not answer in JSON"):
        client(server.address).send(GET).dig("held")


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "fe80::1",
        "fd00:ec2::254",
        "fd20:ce::254",
        "fd00:c1::a9fe:a9fe",
        "fd00:42::42",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "100.100.100.200",
        "168.63.129.16",
        "0.0.0.0",
        "::",
        "224.0.0.1",
    ],
)
def test_a_name_that_resolves_to_a_metadata_address_is_refused(monkeypatch, address):
    resolve_to(monkeypatch, "8.8.8.8", address)

    with pytest.raises(Refused, match="link-local or metadata"):
        client("https://rebound.example.com").send(GET)


@pytest.mark.parametrize(
    "host",
    ["2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "169.254.43518", "[::ffff:a9fe:a9fe]"],
)
def test_a_metadata_address_is_refused_in_every_way_to_write_it(host):
    with pytest.raises(Refused, match="link-local or metadata"):
        client(f"https://{host}").reach()


def resolve_to(monkeypatch, *addresses):
    """Give every name these addresses; an address stays itself."""
    genuine = socket.getaddrinfo

    def getaddrinfo(host, port, *rest, **more):
        if host[0].isdigit():
            return genuine(host, port, *rest, **more)
        return [(0, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def test_only_who_asks_for_the_metadata_server_gets_to_it(monkeypatch):
    resolve_to(monkeypatch, "169.254.169.254")
    dialled = []
    monkeypatch.setattr(
        socket, "create_connection", lambda where, **_: dialled.append(where) or 1 / 0
    )

    with pytest.raises(ZeroDivisionError):
        client("http://metadata.google.internal", metadata=True).send(GET)

    assert dialled == [("169.254.169.254", 80)]


def test_clear_text_never_leaves_the_machine(monkeypatch):
    resolve_to(monkeypatch, "10.0.0.1")

    with pytest.raises(Refused, match="clear text"):
        client("http://localhost:8200").send(GET)


def test_the_connection_goes_to_the_address_that_was_judged(server, monkeypatch):
    """A name server that changes its mind after the first answer is asked only once."""
    genuine = socket.getaddrinfo
    answers = iter(["127.0.0.1"])
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *rest, **more: genuine(
            next(answers) if host == "localhost" else host, *rest, **more
        ),
    )

    client(server.address.replace("127.0.0.1", "localhost")).send(GET)

    assert len(server.heard) == 1


def test_the_next_address_is_tried_when_one_does_not_answer(server, monkeypatch):
    resolve_to(monkeypatch, "127.0.0.2", "127.0.0.1")

    client(server.address.replace("127.0.0.1", "localhost")).send(GET)


def test_a_name_of_many_dead_addresses_is_given_up_in_time(monkeypatch):
    resolve_to(monkeypatch, *(f"10.0.0.{number}" for number in range(250)))
    now, waits = [0.0], []

    def dead(where, timeout):
        waits.append(timeout)
        now[0] += timeout
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", dead)
    monkeypatch.setattr(_http.time, "monotonic", lambda: now[0])

    with pytest.raises(Transient, match="timed out"):
        client("https://many.example.com").reach()

    assert sum(waits) == _http.LIMIT


@pytest.mark.parametrize(
    "address",
    [
        "vault.example.com",
        "ftp://vault.example.com",
        "http://vault.example.com",
        "http://10.0.0.1",
        "https://user:pa55@vault.example.com",
        "https://vault.example.com?token=pa55",
        "https://vault.example.com:port",
        "https://",
    ],
)
def test_an_address_that_could_not_be_meant_is_a_mistake_in_the_configuration(address):
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Address, config={"hide_input_in_errors": True}).validate_python(address)

    assert "pa55" not in str(caught.value)


@pytest.mark.parametrize(
    "address", ["https://vault.example.com:8200/v", "http://127.0.0.1:1", "http://[::1]:1"]
)
def test_https_anywhere_and_http_to_this_machine_are_addresses(address):
    assert TypeAdapter(Address).validate_python(address) == address


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for 127.0.0.1 that signs itself, with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = dt.datetime.now(dt.UTC)
    loopback = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([loopback]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "certificate.pem"
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_bytes(pem + built.public_bytes(Encoding.PEM))
    return str(file)


@pytest.fixture
def tls_server(server, certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server._server.socket = context.wrap_socket(
        server._server.socket, server_side=True, do_handshake_on_connect=False
    )
    return server.address.replace("http:", "https:")


def test_a_certificate_of_the_named_ca_is_trusted(tls_server, certificate):
    client(tls_server, ca_file=certificate).send(GET)
    client(tls_server, ca_file=certificate).reach()


def test_a_certificate_of_nobodys_ca_is_refused_before_anything_is_sent(tls_server, server):
    with pytest.raises(Refused, match="not trusted"):
        client(tls_server).send(PUT)

    assert server.heard == []


def test_a_certificate_of_another_name_is_refused(tls_server, server, certificate):
    elsewhere = tls_server.replace("127.0.0.1", "localhost")

    with pytest.raises(Refused, match="not trusted"):
        client(elsewhere, ca_file=certificate).send(PUT)

    assert server.heard == []


def test_a_ca_file_that_is_not_there_is_refused(tls_server):
    with pytest.raises(Refused, match="CA file /nowhere"):
        client(tls_server, ca_file="/nowhere").send(GET)


def test_a_port_that_does_not_speak_tls_is_unreachable(server, certificate):
    with pytest.raises(Transient, match="TLS"):
        client(server.address.replace("http:", "https:"), ca_file=certificate).reach()


def test_a_handshake_that_never_ends_is_left_in_time(monkeypatch, certificate):
    monkeypatch.setattr(_http, "LIMIT", 0.2)
    stopped = threading.Event()

    with speaking(lambda line: stopped.wait()) as address:
        with pytest.raises(Transient, match="TLS"):
            client(address.replace("http:", "https:"), ca_file=certificate).reach()
        stopped.set()


@pytest.mark.parametrize("path", ["/clé", "/a b"])
def test_an_address_that_no_request_can_name_is_a_mistake(path):
    with pytest.raises(ValidationError, match="percent-encoded"):
        TypeAdapter(Address).validate_python(f"https://host.example.com{path}")
