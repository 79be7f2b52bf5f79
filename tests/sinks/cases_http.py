"""Each HTTP sink with the described server that it delivers to, for the contract of all sinks."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from described import (
    Azure,
    CircleCI,
    Described,
    GitHub,
    GitLab,
    Google,
    Kubernetes,
    Receiver,
    Vault,
    opened,
)

from rekeyd.ports import Sink
from rekeyd.sinks._value import KEY_ID, SECRET

TOKEN = "REKEYD_TEST_TOKEN"


@dataclass
class Stage:
    """One sink and its server. `held` is the pair as a consumer reads it: id and secret."""

    sink: Sink
    server: Described
    held: Callable[[], tuple[str, str] | None]
    secret: str = field(repr=False)

    def refuse_token(self) -> None:
        """From now on the credential that the sink signs in with is a wrong one."""
        os.environ[TOKEN] = self.secret

    def forbid(self) -> None:
        """From now on the credential may not even read."""
        self.server.may_read = False
        if isinstance(self.server, Kubernetes):
            self.server.verbs.clear()

    def forbid_writing(self) -> None:
        """From now on the credential may only read."""
        self.server.may_write = False
        if isinstance(self.server, Kubernetes):
            self.server.verbs = {"get"}
        if isinstance(self.server, GitLab):  # whoever may read variables may set them too
            self.server.scopes = ["read_api"]


@dataclass(frozen=True)
class Case:
    """A type of sink, how to open it, and what its credential looks like when it is wrong."""

    kind: str
    server: type[Described]
    settings: Callable[[Described], dict[str, Any]]
    held: Callable[[Any], dict[str, Any] | None]
    right: Callable[[Any], str] = lambda server: server.token
    wrong: Callable[[Any], str] = lambda server: "another-t0k3n"
    check_proves_token: bool = True

    def __str__(self) -> str:
        return self.kind

    @contextmanager
    def staged(self) -> Iterator[Stage]:
        with self.server() as server:
            before = os.environ.get(TOKEN)
            os.environ[TOKEN] = self.right(server)
            try:
                sink = opened(self.kind, **self.settings(server))
                yield Stage(sink, server, lambda: _pair(self.held(server)), self.wrong(server))
            finally:
                os.environ.pop(TOKEN)
                if before is not None:
                    os.environ[TOKEN] = before


def _pair(fields: dict[str, Any] | None) -> tuple[str, str] | None:
    if not fields or KEY_ID not in fields:
        return None
    return fields[KEY_ID], fields[SECRET]


def _json(text: str | bytes | None) -> dict[str, Any] | None:
    found: dict[str, Any] | None = json.loads(text) if text else None
    return found


def _delivered(server: Receiver) -> dict[str, Any] | None:
    if not server.accepted:
        return None
    newest = server.accepted[-1]
    return {KEY_ID: newest["access_key_id"], SECRET: newest["secret_access_key"]}


def _broken_key(server: Google) -> str:
    return Google.key_file.fget(_Stranger(server))  # type: ignore[attr-defined]


class _Stranger:
    """Another service account, whose key Google does not know."""

    def __init__(self, server: Google) -> None:
        from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

        self._key = generate_private_key(public_exponent=65537, key_size=2048)
        self.address = server.address


REFERENCE = f"env:{TOKEN}"

CASES = [
    Case(
        "vault_kv2",
        Vault,
        lambda s: {
            "address": s.address,
            "path": "backup/s3",
            "auth": {"method": "token", "token": REFERENCE},
        },
        lambda s: s.held,
    ),
    Case(
        "kubernetes_secret",
        Kubernetes,
        lambda s: {
            "api_server": s.address,
            "namespace": "backup",
            "secret_name": "backup-s3",
            "token": REFERENCE,
        },
        lambda s: s.held,
    ),
    Case(
        "github_actions_secret",
        GitHub,
        lambda s: {
            "api_url": s.address,
            "repository": "example/backups",
            "secret_name": "BACKUP_S3",
            "token": REFERENCE,
        },
        lambda s: _json(next((secret["value"] for secret in s.secrets.values()), None)),
    ),
    Case(
        "gitlab_variable",
        GitLab,
        lambda s: {
            "address": s.address,
            "project": "example/backups",
            "variable": "BACKUP_S3",
            "token": REFERENCE,
        },
        lambda s: _json(next((variable["value"] for variable in s.variables.values()), None)),
    ),
    Case(
        "circleci_variable",
        CircleCI,
        lambda s: {
            "address": s.address,
            "project": "gh/example/backups",
            "variable": "BACKUP_S3",
            "token": REFERENCE,
        },
        lambda s: _json(s.variables.get("BACKUP_S3")),
    ),
    Case(
        "gcp_secret_manager",
        Google,
        lambda s: {
            "address": s.address,
            "project": "example-backups",
            "secret": "backup-s3",
            "credentials": REFERENCE,
        },
        lambda s: _json(s.versions[-1] if s.versions else None),
        right=lambda s: s.key_file,
        wrong=_broken_key,
    ),
    Case(
        "azure_key_vault",
        Azure,
        lambda s: {
            "vault": s.address,
            "secret": "backup-s3",
            "auth": {
                "method": "client_secret",
                "tenant": "contoso.example",
                "client_id": "11111111-2222",
                "client_secret": REFERENCE,
                "authority": s.address,
            },
        },
        lambda s: _json(s.versions[-1]["value"] if s.versions else None),
        right=lambda s: s.client_secret,
    ),
    Case(
        "webhook",
        Receiver,
        lambda s: {"url": f"{s.address}/hooks/backup/", "secret": REFERENCE},
        _delivered,
        right=lambda s: s.secret,
        wrong=lambda s: "whsec_" + "A" * 43 + "=",
        check_proves_token=False,
    ),
]
