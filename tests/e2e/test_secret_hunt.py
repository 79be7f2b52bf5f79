"""A known secret goes through everything, with debug logs on, and is found in the sinks alone."""

import json
import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
import yaml
from hunter import Hunter

import processes
from processes import Daemon, EmbeddedAws, Proxy, command, free_port, running
from sinks.described import Receiver, Said, Vault

pytestmark = pytest.mark.e2e

USER = 61797
"""A user whom nobody else runs as."""

PAGES = ("/metrics", "/", "/api/v1/status", "/-/healthy", "/-/ready")
MINTED = re.compile(rb"(?<=<SecretAccessKey>)[^<]+")
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


class CanaryAws(Proxy):
    """Lets the embedded AWS mint secrets that are known, of the shape that AWS gives them."""

    def __init__(self, port: int) -> None:
        self.minted: list[bytes] = []
        self.broken = False
        super().__init__(port)

    def altered(self, action: str, content: bytes) -> bytes:
        if action != "CreateAccessKey" or not MINTED.search(content):
            return content
        middle = "".join(secrets.choice(ALPHABET) for _ in range(34))
        self.minted.append(f"Ca/+{middle}+/".encode())
        content = MINTED.sub(lambda _: self.minted[-1], content)
        return content[:-40] if self.broken else content


class Told(Receiver):
    """A receiver that repeats in its error what it was sent, when it is told to fail."""

    failing = False

    def answer(self, heard: Any) -> Said:
        return Said(400, {"error": heard.body.decode()}) if self.failing else super().answer(heard)


class Telltale(Vault):
    """A Vault that repeats in its error what it was sent, when it is told to fail."""

    failing = False

    def answer(self, heard: Any) -> Said:
        if self.failing and heard.method == "POST" and "/data/" in heard.path:
            return Said(500, {"errors": [heard.body.decode()]})
        return super().answer(heard)


class House:
    """The folders of an unprivileged user who runs rekeyd, and how he runs it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("home", "tmp", "state", "sinks", "core"):
            (folder / name).mkdir()
        self.program = self.as_user(sys.executable, "-m", "rekeyd")
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder / "home"),
            "TMPDIR": str(folder / "tmp"),
            "AWS_SHARED_CREDENTIALS_FILE": str(folder / "home/credentials"),
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            "REKEYD_CONFIG": str(folder / "rekeyd.yaml"),
        }

    def as_user(self, *words: str | Path) -> list[str]:
        """Return a command that runs as the user, who may leave cores of any size.

        He may search every folder, or he could not read a checkout below /root.
        """
        search = "+dac_read_search"
        return [
            *("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"),
            *(f"--inh-caps={search}", f"--ambient-caps={search}", "--"),
            *("env", "-C", str(self.folder / "core"), "prlimit", "--core=unlimited"),
            *map(str, words),
        ]

    def write(self, name: str, content: str | bytes, mode: int = 0o600) -> Path:
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        path.chmod(mode)
        return path

    def handed_over(self) -> None:
        """Give all of it to the user."""
        for path in (self.folder, *self.folder.rglob("*")):
            os.chown(path, USER, USER)

    @property
    def core_files(self) -> list[Path]:
        return list((self.folder / "core").iterdir())


@pytest.fixture
def house() -> Iterator[House]:
    folder = Path(tempfile.mkdtemp(prefix="rekeyd-hunt-"))
    folder.chmod(0o755)
    yield House(folder)
    shutil.rmtree(folder)


@pytest.fixture
def hunter(house: House) -> Iterator[Hunter]:
    folders = {"state folder": house.folder / "state", "$TMPDIR": house.folder / "tmp"}
    sinks = {"the sinks' own files": house.folder / "sinks"}
    with Hunter(USER, folders | sinks) as started:
        yield started


@pytest.fixture
def aws(aws: EmbeddedAws) -> Iterator[CanaryAws]:
    started = CanaryAws(aws.port)
    aws.secretsmanager.create_secret(Name="backup/s3", SecretString="{}")
    yield started
    started.mend()
    started.stop()


EXEC = """#!/bin/sh
umask 077
cat > {sinks}/given
sleep 0.3  # so that the hunter sees this process
if [ -e {sinks}/failing ]; then
    cat {sinks}/given >&2
    sed 's/.*SecretAccessKey": "//; s/"}}//' {sinks}/given | tee {sinks}/bare | base64 >&2
    rev {sinks}/bare >&2
    od -An -tx1 {sinks}/bare | tr -d ' \\n' >&2
    exit 1
fi
"""
TEMPLATE = "id {{ access_key_id }}\nsecret {{ secret_access_key }}\n"


def sinks(house: House, vault: Vault, receiver: Receiver) -> list[dict[str, Any]]:
    folder = house.folder / "sinks"
    program = house.write("home/store", EXEC.format(sinks=shlex.quote(str(folder))), 0o755)
    house.write("home/vault-token", vault.token)
    house.write("home/hook-secret", receiver.secret)
    login = {"method": "token", "token": f"file:{house.folder}/home/vault-token"}
    hook = f"file:{house.folder}/home/hook-secret"
    return [
        {"type": "aws_credentials", "path": f"{folder}/credentials", "profile": "backup"},
        {"type": "env_file", "path": f"{folder}/env", "dialect": "shell"},
        {"type": "credential_process", "path": f"{folder}/pair.json"},
        {"type": "template", "path": f"{folder}/rendered", "template": TEMPLATE},
        {"type": "exec", "command": [str(program)]},
        {"type": "secrets_manager", "secret_id": "backup/s3"},
        {"type": "ssm_parameter", "parameter": "/backup/s3"},
        {"type": "vault_kv2", "address": vault.address, "path": "backup/s3", "auth": login},
        {"type": "webhook", "url": f"{receiver.address}/hooks/backup/", "secret": hook},
    ]


def configure(house: House, aws: CanaryAws, delivered: list[dict[str, Any]], **top: Any) -> None:
    identity = {
        "user": "backup_user",
        "group": "backup_group",
        "policy": {"name": "S3BackupPolicy", "bucket": "backup-bucket"},
        "verify": ["sts"],
        "rotation": {"every": "30d", "overlap": "4s", "grace": "1s", "settle": "1s"},
        "sinks": delivered,
    }
    settings = {
        "state": str(house.folder / "state"),
        "listen": "none",
        "log": {"format": "json", "level": "debug"},
        "aws": {"region": "us-east-1", "endpoint_url": aws.endpoint},
        "identities": [identity],
    }
    house.write("rekeyd.yaml", yaml.safe_dump(settings | top))
    house.handed_over()


def ask(house: House, hunter: Hunter, *arguments: str, code: int | None = 0) -> None:
    """Run a command, and show the hunter what it printed."""
    done = command(arguments, house.environment, house.program)
    hunter.see(f"rekeyd {arguments[0]}", done.stdout + done.stderr)
    assert code in {None, done.returncode}, arguments


def scrape(hunter: Hunter, port: int) -> None:
    for page in PAGES:
        connection = HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", page)
        with connection.getresponse() as answer:
            hunter.see(f"page {page}", str(answer.getheaders()).encode() + answer.read())
        connection.close()


def rotate_in_trouble(
    daemon: Daemon, cause: Callable[[], object], cure: Callable[[], object], outcome: str
) -> None:
    """Ask for a rotation that cannot end until the cause of its trouble is gone."""
    daemon.rests(60)
    cause()
    daemon.signal(signal.SIGUSR1)
    daemon.expect(outcome, within=60)
    cure()
    daemon.signal(signal.SIGUSR1)
    daemon.expect("rotated", within=60)


def table(hunter: Hunter, title: str) -> str:
    rows = [
        f"  {place:24} {len(hunter.seen[place]):6} {sum(map(len, hunter.seen[place])):10} "
        f"{found.total():6}"
        for place, found in hunter.found().items()
    ]
    return "\n".join(["", title, f"  {'place':24} {'seen':>6} {'bytes':>10} {'hits':>6}", *rows])


@pytest.mark.timeout(600)
def test_a_secret_is_found_in_the_sinks_alone(
    house: House,
    hunter: Hunter,
    aws: CanaryAws,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(processes, "PROGRAM", house.program)
    operator = b"Op/+erator0123456789abcdefghijABCDEF/+00"
    house.write(
        "home/credentials",
        f"[default]\naws_access_key_id = operator\naws_secret_access_key = {operator.decode()}\n",
    )
    seal, port = os.urandom(32), free_port()
    key = house.write("home/seal.key", seal)
    failing = house.folder / "sinks/failing"
    with ExitStack() as stack:
        vault, receiver = stack.enter_context(Telltale()), stack.enter_context(Told())
        vault.token = "hvs.CAESIJ0123456789abcdefghijABCDEFGHIJ"
        receiver.secret = f"whsec_{b64encode(os.urandom(32)).decode()}"
        own = [operator, seal, vault.token.encode(), b64decode(receiver.secret[6:])]
        hunter.secrets.update([*own, receiver.secret[6:].encode()])
        places = sinks(house, vault, receiver)
        configure(house, aws, places, seal=f"file:{key}", listen=f"127.0.0.1:{port}")

        def everybody_fails(now: bool) -> None:
            vault.failing = receiver.failing = now
            failing.touch() if now else failing.unlink()

        for words in (["check"], ["check", "--offline"], ["plan"], ["provision", "--dry-run"]):
            ask(house, hunter, *words, code=None)
        for party in ("rotator", "provisioner", "backup"):
            ask(house, hunter, "policy", party)
        with running(house.folder / "rekeyd.yaml", house.environment) as daemon:
            daemon.expect("rotated")
            scrape(hunter, port)
            daemon.signal(signal.SIGUSR1)
            daemon.expect("rotated", within=60)
            for words in (["status"], ["history"], ["plan"], ["check"]):
                ask(house, hunter, *words, code=None)
                ask(house, hunter, *words, "--json", code=None)
            rotate_in_trouble(
                daemon,
                lambda: everybody_fails(True),
                lambda: everybody_fails(False),
                "retry",
            )
            rotate_in_trouble(
                daemon,
                lambda: aws.fail("CreateAccessKey", "AccessDenied", 403),
                aws.mend,
                "refused",
            )
            rotate_in_trouble(
                daemon,
                lambda: setattr(aws, "broken", True),
                lambda: setattr(aws, "broken", False),
                "retry",
            )
            daemon.signal(signal.SIGHUP, signal.SIGUSR2)
            daemon.rests(60)
            ask(house, hunter, "rotate", "--json", code=None)
            daemon.expect("rotated", within=60)
            ask(house, hunter, "rollback", "backup_user")  # moto loses count of versions by it
            for words in (["status", "--json"], ["history", "--json", "-n", "500"]):
                ask(house, hunter, *words)
            scrape(hunter, port)
            assert daemon.stop() == 0
            hunter.see("log: JSON", daemon.log)
        ask(house, hunter, "rotate", "--due", code=None)
        hunter.secrets.update(aws.minted)
        journal_of_a_daemon_with_kms(house, hunter, aws, places)

    hunter.secrets.update(aws.minted)
    with capsys.disabled():
        print(table(hunter, f"{len(hunter.secrets)} secrets, {len(aws.minted)} of them minted"))
    assert len(aws.minted) >= 8
    assert any("home/store" in program for program in hunter.programs), "no child was seen"
    found = hunter.found()
    assert found.pop("the sinks' own files")["plain"] > 20
    assert {place: forms for place, forms in found.items() if forms} == {}


def journal_of_a_daemon_with_kms(
    house: House, hunter: Hunter, aws: CanaryAws, places: list[dict[str, Any]]
) -> None:
    """Run on another state, sealed by KMS, with the journal at standard error."""
    kms = processes.boto3.client("kms", endpoint_url=aws.endpoint, **processes.ANYBODY)
    name = kms.create_key()["KeyMetadata"]["KeyId"]
    kms.close()
    state = house.folder / "state/kms"
    state.mkdir()
    top = {"state": str(state), "seal": f"kms:{name}", "log": {"format": "auto", "level": "debug"}}
    for held in (house.folder / "sinks").iterdir():
        held.unlink()
    configure(house, aws, [one for one in places if one["type"] in {"env_file", "exec"}], **top)
    journal = house.folder / "home/journal"
    iam = processes.boto3.client("iam", endpoint_url=aws.endpoint, **processes.ANYBODY)
    for listed in iam.list_access_keys(UserName="backup_user")["AccessKeyMetadata"]:
        iam.delete_access_key(UserName="backup_user", AccessKeyId=listed["AccessKeyId"])
    iam.close()
    with journal.open("wb") as stderr:
        stream = os.fstat(stderr.fileno())
        named = {"JOURNAL_STREAM": f"{stream.st_dev}:{stream.st_ino}"}
        process = subprocess.Popen(
            [*house.program, "run"], env=house.environment | named, stderr=stderr
        )
        until = time.monotonic() + 30
        while b'"rotated"' not in journal.read_bytes() and time.monotonic() < until:
            time.sleep(0.05)
        process.terminate()
        assert process.wait(20) == 0
    shown = journal.read_bytes()
    assert shown.startswith(b"<") and b'"rotated"' in shown, shown
    hunter.see("log: journal", shown)


LEAKY = """
import base64, http.server, os, subprocess, sys, threading, time
secret, port, state, tmp, sink = sys.argv[1], int(sys.argv[2]), *sys.argv[3:]
for folder, text in ((state, secret[::-1]), (tmp, secret.encode().hex()), (sink, secret)):
    open(folder + "/leak", "w").write(text)
open("/tmp/rekeyd-hunt-leak", "w").write("user:" + secret[:20])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"x" + base64.b64encode(b"user:" + secret.encode()))
    def log_message(self, *_): pass
server = http.server.HTTPServer(("127.0.0.1", port), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
child = subprocess.Popen(["sleep", "30"], env={"LEAK": secret})
print("log", secret.replace("/", "%2F").replace("+", "%2B"), file=sys.stderr, flush=True)
sys.stdin.read()
child.kill()
"""


def test_the_hunter_finds_what_was_planted_in_each_place(house: House, hunter: Hunter) -> None:
    secret, port = "Ca/+planted0123456789abcdefghijABCDEF+/0", free_port()
    hunter.secrets.add(secret.encode())
    house.handed_over()
    folders = [str(house.folder / name) for name in ("state", "tmp", "sinks")]
    leak = Path("/tmp/rekeyd-hunt-leak")
    try:
        with subprocess.Popen(
            house.as_user(sys.executable, "-c", LEAKY, secret, str(port), *folders),
            env=house.environment,
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as leaky:
            assert leaky.stdin and leaky.stderr
            hunter.see("log: JSON", leaky.stderr.readline())
            scrape(hunter, port)
            hunter.look()
            leaky.stdin.close()
    finally:
        leak.unlink(missing_ok=True)

    found = hunter.found()
    assert {place for place, forms in found.items() if not forms} == set()
    assert {"/tmp", "/proc/PID/environ", "/proc/PID/cmdline"} < found.keys()
    assert "base64" in found["page /metrics"]
    assert "reversed" in found["state folder"]
    assert "hex" in found["$TMPDIR"]
    assert "URL-quoted" in found["log: JSON"]


# what is in memory


@contextmanager
def waiting(house: House) -> Iterator[int]:
    """Run a program that keeps nothing to itself; yield its process id."""
    with subprocess.Popen(
        house.as_user(sys.executable, "-c", "print(flush=True); input()"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout
        process.stdout.readline()
        yield process.pid
        process.communicate()


PRY = """
import ctypes, os, sys
pid = int(sys.argv[1])
def tried(name, attempt):
    try:
        attempt()
    except OSError:
        return
    print(name)
tried("mem", lambda: open(f"/proc/{pid}/mem", "rb", 0).close())
tried("environ", lambda: open(f"/proc/{pid}/environ", "rb", 0).close())
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long] * 4
def attach():
    if libc.ptrace(0x4206, pid, 0, 0) != 0:  # PTRACE_SEIZE
        raise OSError(ctypes.get_errno(), "ptrace")
tried("ptrace", attach)
"""


def pried_open(house: House, pid: int) -> set[str]:
    """Return the ways in which another process of the user gets at the memory of one."""
    told = subprocess.run(
        house.as_user(sys.executable, "-c", PRY, str(pid)), capture_output=True, check=True
    )
    return set(told.stdout.decode().split())


@pytest.mark.parametrize("fatal", [signal.SIGABRT, signal.SIGSEGV])
def test_what_the_daemon_has_in_memory_stays_there(
    house: House, aws: CanaryAws, monkeypatch: pytest.MonkeyPatch, fatal: signal.Signals
) -> None:
    monkeypatch.setattr(processes, "PROGRAM", house.program)
    house.write("home/credentials", "[default]\naws_access_key_id=o\naws_secret_access_key=o\n")
    sink = {"type": "credential_process", "path": str(house.folder / "sinks/pair.json")}
    configure(house, aws, [sink])
    with waiting(house) as pid:
        assert pried_open(house, pid) == {"mem", "environ", "ptrace"}
        os.kill(pid, fatal)
    pattern = Path("/proc/sys/kernel/core_pattern").read_text()
    if not pattern.startswith(("|", "/")):
        assert house.core_files, "a program that keeps nothing to itself leaves a core"
        house.core_files[0].unlink()

    with running(house.folder / "rekeyd.yaml", house.environment) as daemon:
        daemon.expect("rotated")
        limits = Path(f"/proc/{daemon.process.pid}/limits").read_text()
        assert re.search(r"Max core file size +0 +0 ", limits)
        assert pried_open(house, daemon.process.pid) == set()
        daemon.signal(fatal)
        assert daemon.ended() == -fatal

    assert house.core_files == []
    assert json.dumps(aws.minted[0].decode())[1:-1] not in daemon.log
