"""The processes that the tests of the shell run: an embedded AWS, a proxy before it, the daemon."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs
from urllib.request import Request, urlopen

import boto3

PROGRAM = [sys.executable, "-m", "rekeyd"]
"""How the daemon is started; the benchmarks start one that is installed without test tools."""

LONG_ENOUGH = 20.0
"""Seconds to wait for what takes one: other tests run beside this one."""

ANYBODY = {
    "region_name": "us-east-1",
    "aws_access_key_id": "anybody",
    "aws_secret_access_key": "anybody",
}

OPERATOR_ACTIONS = (
    "iam:GetUser",
    "iam:ListAccessKeys",
    "iam:GetAccessKeyLastUsed",
    "iam:CreateAccessKey",
    "iam:UpdateAccessKey",
    "iam:DeleteAccessKey",
)


def free_port() -> int:
    """Return a port of 127.0.0.1 on which nobody listened just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class EmbeddedAws:
    """moto as a process of its own, with a client of each service that signs as anybody."""

    def __init__(self) -> None:
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._wait_until_it_answers()
        self.clients = {
            name: boto3.client(name, endpoint_url=self.endpoint, **ANYBODY)
            for name in ("iam", "s3", "sts", "secretsmanager", "ssm", "kms")
        }

    def __getattr__(self, name: str) -> Any:
        with suppress(KeyError):
            return self.__dict__["clients"][name]
        raise AttributeError(name)

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise TimeoutError("moto did not start")

    def reset(self) -> None:
        """Forget everything, and let anybody do anything again."""
        self._tell("reset")
        self.trust()

    def enforce(self) -> None:
        """From now on check signatures and policies."""
        self._tell("reset-auth", b"0")

    def trust(self) -> None:
        """From now on let anybody do anything."""
        self._tell("reset-auth", b"inf")

    def _tell(self, what: str, body: bytes = b"") -> None:
        url, headers = f"{self.endpoint}/moto-api/{what}", {"Content-Type": "text/plain"}
        with urlopen(Request(url, data=body, headers=headers), timeout=10):
            pass

    def operator(self, *lacking: str) -> dict[str, str]:
        """Make a caller with the rotator's rights but these; return its environment."""
        name = "operator-without-" + "-".join(lacking).replace(":", "-") if lacking else "operator"
        allowed = [action for action in OPERATOR_ACTIONS if action not in lacking]
        statement = {"Effect": "Allow", "Action": allowed, "Resource": "*"}
        document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        self.iam.create_user(UserName=name)
        self.iam.put_user_policy(UserName=name, PolicyName="rights", PolicyDocument=document)
        key = self.iam.create_access_key(UserName=name)["AccessKey"]
        return {
            "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
        }

    def keys(self, user: str = "backup_user") -> dict[str, str]:
        """Return the user's keys and whether each is Active or Inactive."""
        listed = self.iam.list_access_keys(UserName=user)["AccessKeyMetadata"]
        return {key["AccessKeyId"]: key["Status"] for key in listed}

    def stop(self) -> None:
        for client in self.clients.values():
            client.close()
        self._process.terminate()
        self._process.wait(timeout=10)


@dataclass
class Gate:
    """Stops calls on their way: tells when the first arrived, and lets all go on when opened."""

    arrived: threading.Event = field(default_factory=threading.Event)
    opened: threading.Event = field(default_factory=threading.Event)


Answer = tuple[int, bytes] | None
Rule = Callable[[BaseHTTPRequestHandler], Answer]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that break off: some are killed."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class Proxy:
    """Stands before the embedded AWS, and spoils the calls that a test names by their action."""

    def __init__(self, port: int) -> None:
        self.rules: dict[str, Rule] = {}
        self.lost: set[str] = set()
        self.timeless = False
        self.clock: Callable[[str, str], str] = lambda _, date: date
        self.calls: list[str] = []
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *_: object) -> None:
                pass

            def answer(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                proxy.answer(self, self.rfile.read(length), port)

            do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = answer  # noqa: N815

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.port = int(self._server.server_address[1])
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def fail(
        self, action: str, code: str, status: int = 400, unless_signed_by: str | None = None
    ) -> None:
        """Answer an action (`*` for each of them) with an error of AWS."""
        error = f"<Error><Type>Sender</Type><Code>{code}</Code><Message>no</Message></Error>"
        body = f"<ErrorResponse>{error}<RequestId>1</RequestId></ErrorResponse>".encode()

        def refuse(request: BaseHTTPRequestHandler) -> Answer:
            signer = f"Credential={unless_signed_by}/"
            return None if signer in request.headers["Authorization"] else (status, body)

        self.rules[action] = refuse

    def reply(self, action: str, body: str) -> None:
        """Answer an action with this instead."""
        self.rules[action] = lambda _: (200, body.encode())

    def hold(self, action: str) -> Gate:
        """Stop an action on its way until the gate is opened."""
        gate = Gate()

        def wait(_: object) -> None:
            gate.arrived.set()
            gate.opened.wait(LONG_ENOUGH)

        self.rules[action] = wait
        return gate

    def mend(self) -> None:
        self.rules.clear()
        self.timeless = False
        self.lost.clear()

    def answer(self, handler: BaseHTTPRequestHandler, body: bytes, port: int) -> None:
        action = parse_qs(body.decode("latin-1")).get("Action", [handler.command])[0]
        self.calls.append(action)
        rule = self.rules.get(action) or self.rules.get("*")
        spoiled = rule(handler) if rule else None
        status, headers, content = (
            (spoiled[0], [("Date", handler.date_time_string())], spoiled[1])
            if spoiled
            else _forward(handler, body, port)
        )
        content = self.altered(action, content)
        self.passed(action, content)
        self.answered(handler, status)
        if action in self.lost:
            handler.close_connection = True
            return
        handler.send_response_only(status)
        headed = handler.command == "HEAD"  # tells a length of what it leaves out
        own = {"connection", "transfer-encoding"} | ({"content-length"} if not headed else set())
        for name, value in headers:
            if name.lower() not in own:
                dated = name.lower() == "date"
                shown = self.clock(action, value) if dated else value
                handler.send_header("X-" * (self.timeless and dated) + name, shown)
        if not headed:
            handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        if not headed:
            handler.wfile.write(content)

    def altered(self, action: str, content: bytes) -> bytes:
        """Return what to answer instead of what came through."""
        return content

    def passed(self, action: str, content: bytes) -> None:
        """Is told every answer that came through."""

    def answered(self, handler: BaseHTTPRequestHandler, status: int) -> None:
        """Is told the status of every answer."""

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _forward(
    handler: BaseHTTPRequestHandler, body: bytes, port: int
) -> tuple[int, list[tuple[str, str]], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LONG_ENOUGH)
    try:
        connection.request(handler.command, handler.path, body, dict(handler.headers))
        answer = connection.getresponse()
        return answer.status, answer.getheaders(), answer.read()
    finally:
        connection.close()


def command(
    arguments: Sequence[str | Path],
    environment: dict[str, str],
    program: Sequence[str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command of rekeyd's in a process of its own, to its end, which shows no traceback."""
    done = subprocess.run(
        [*(program or PROGRAM), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done


class Daemon:
    """`rekeyd run` as a process, and what it logs, as it logs it."""

    def __init__(self, config: Path, environment: dict[str, str] | None = None) -> None:
        self.lines: list[str] = []
        self.events: list[dict[str, Any]] = []
        self._news = threading.Condition()
        self._told = 0
        self.process = subprocess.Popen(
            [*PROGRAM, "-c", str(config), "run"],
            env=os.environ | (environment or {}),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            with self._news:
                self.lines.append(line)
                if line.startswith("{"):
                    self.events.append(json.loads(line))
                self._news.notify_all()

    def expect(self, event: str, within: float = LONG_ENOUGH, **fields: Any) -> dict[str, Any]:
        """Wait for the next event with these fields, and return it."""

        def next_one() -> dict[str, Any] | None:
            for number in range(self._told, len(self.events)):
                found = self.events[number]
                if found["event"] == event and fields.items() <= found.items():
                    self._told = number + 1
                    return found
            return None

        with self._news:
            found = self._news.wait_for(next_one, within)
        assert found, f"no event {event} {fields} within {within} s in:\n{self.log}"
        return found

    def rests(self, within: float = LONG_ENOUGH) -> None:
        """Ask for its status until it says that it has come to rest."""
        until = time.monotonic() + within
        while time.monotonic() < until:
            self.signal(signal.SIGUSR2)
            if self.expect("status")["stage"] == "resting":
                return
            time.sleep(0.05)
        raise AssertionError(f"it does not rest within {within} s:\n{self.log}")

    @property
    def log(self) -> str:
        return "".join(self.lines)

    def signal(self, *numbers: signal.Signals) -> None:
        for number in numbers:
            self.process.send_signal(number)

    def blocked(self) -> set[int]:
        """Return the signals that its main thread lets wait (proc_pid_status(5), SigBlk)."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        mask = int(status.split("SigBlk:")[1].split()[0], 16)
        return {number for number in signal.valid_signals() if mask >> (number - 1) & 1}

    def ended(self, within: float = LONG_ENOUGH) -> int:
        """Wait for its end and return the exit code."""
        code = self.process.wait(within)
        self._reader.join(within)
        assert self.process.stderr
        self.process.stderr.close()
        assert "Traceback" not in self.log
        return code

    def stop(self, within: float = LONG_ENOUGH) -> int:
        """End it as systemd would, and return its exit code."""
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        return self.ended(within)

    def kill(self) -> None:
        self.process.kill()
        self.ended()


@contextmanager
def running(config: Path, environment: dict[str, str] | None = None) -> Iterator[Daemon]:
    """Run a daemon, and end it whatever happens."""
    daemon = Daemon(config, environment)
    try:
        yield daemon
    finally:
        if daemon.process.poll() is None:
            daemon.kill()
        elif daemon.process.stderr and not daemon.process.stderr.closed:
            daemon.ended()
