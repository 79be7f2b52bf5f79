"""`vault_kv2`: two fields of one entry in a KV version 2 engine of HashiCorp Vault or OpenBao.

Who reads it: Vault Agent, the External Secrets Operator, Nomad, `vault kv get`, any client library.

Both fields are written in one version, with check-and-set on the version that was read: a reader
sees the old pair or the new one, and a write by somebody else at the same moment is never lost.
Other fields of the entry stay as they are. Writing a pair that is there already makes no version.

Least rights of the token (for mount `secret` and path `backup/s3`):

    path "secret/data/backup/s3" { capabilities = ["create", "read", "update"] }

The `default` policy adds `sys/capabilities-self`, with which `check` proves these rights without
writing. AppRole and Kubernetes tokens are asked for anew each time: give the role a `token_ttl` of
some minutes (`token_type=batch` leaves nothing to clean up) and no limit of uses.

    - type: vault_kv2
      address: https://vault.example.com:8200
      path: backup/s3
      auth: {method: approle, role_id: 3f6c…, secret_id: file:/etc/rekeyd/vault-secret-id}
"""

from typing import Annotated, Any, Literal, Self
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field

from rekeyd.errors import Refused, Transient
from rekeyd.ports import Sink
from rekeyd.secret import AccessPair
from rekeyd.sinks._http import Address, Answer, Call, Client, HttpSettings, client
from rekeyd.sinks._reference import Reference, dereference, token
from rekeyd.sinks._value import USUAL_NAMES, FieldNames
from rekeyd.sinks.base import SinkContext

STANDBY = (307, 472, 473)
"""Redirected to the active node; a secondary for disaster recovery; a performance standby."""


class _Auth(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


class TokenAuth(_Auth):
    method: Literal["token"]
    token: Reference


class AppRoleAuth(_Auth):
    method: Literal["approle"]
    role_id: str = Field(description="The role's id, which is no secret.")
    secret_id: Reference
    mount: str = Field("approle", description="Where this way to log in is mounted.")

    def login(self) -> dict[str, str]:
        return {"role_id": self.role_id, "secret_id": dereference(self.secret_id).reveal()}


class KubernetesAuth(_Auth):
    method: Literal["kubernetes"]
    role: str = Field(description="The role of Vault that the service account has.")
    jwt: Reference = "file:/var/run/secrets/kubernetes.io/serviceaccount/token"
    mount: str = Field("kubernetes", description="Where this way to log in is mounted.")

    def login(self) -> dict[str, str]:
        return {"role": self.role, "jwt": dereference(self.jwt).reveal()}


class VaultKv2(HttpSettings):
    """An entry of the key-value engine, version 2, of Vault or OpenBao."""

    type: Literal["vault_kv2"]
    address: Address
    mount: str = Field("secret", description="Where the KV version 2 engine is mounted.")
    path: str = Field(min_length=1, description="The entry below the mount, without `data/`.")
    namespace: str | None = Field(None, description="Vault Enterprise or OpenBao namespace.")
    auth: Annotated[TokenAuth | AppRoleAuth | KubernetesAuth, Field(discriminator="method")] = (
        Field(description="How rekeyd logs in, by `method`: token, approle or kubernetes.")
    )
    fields: FieldNames = Field(
        USUAL_NAMES, description="Names of the two fields. Other fields of the entry are kept."
    )

    @property
    def place(self) -> str:
        inside = f"{self.namespace.strip('/')}/" if self.namespace else ""
        return f"{self.address.rstrip('/')}/{inside}{self.mount.strip('/')}/{self.path.strip('/')}"

    def open(self, context: SinkContext) -> Sink:
        needs = f"give the token's policy create, read and update on {_data_path(self)}"
        speaker = client(self, context, self.address, service="Vault", needs=needs)
        return _VaultKv2Sink(self, speaker)


def _data_path(settings: VaultKv2) -> str:
    """The path of the entry as policies name it."""
    return f"{settings.mount.strip('/')}/data/{settings.path.strip('/')}"


class _Entry:
    """One version of the entry: its number (0 when there never was one) and its fields."""

    def __init__(self, version: int, fields: dict[str, Any]) -> None:
        self.version = version
        self.fields = fields

    @classmethod
    def of(cls, answer: Answer) -> Self:
        version = answer.dig("data", "metadata", "version")
        fields = answer.dig("data", "data")
        return cls(
            version if isinstance(version, int) else 0, fields if isinstance(fields, dict) else {}
        )


class _VaultKv2Sink:
    """A pair in one version of a KV version 2 entry."""

    readable = True

    def __init__(self, settings: VaultKv2, speaker: Client) -> None:
        self.name, self.mark = settings.label, settings.mark
        self._settings = settings
        self._client = speaker
        self._data = _data_path(settings)

    def check(self) -> str | None:
        """Prove reachability, the engine's version and the policy. Vault is only asked."""
        headers = self._signed_in()
        self._check_engine(headers)
        found = self._entry(headers)
        return self._check_policy(headers, {"read", "update" if found.version else "create"})

    def read(self) -> AccessPair | None:
        fields = self._entry(self._signed_in()).fields
        return self._settings.fields.pick(fields)

    def put(self, pair: AccessPair) -> None:
        headers = self._signed_in()
        found = self._entry(headers)
        wanted = {**found.fields, **self._settings.fields.fill(pair)}
        if wanted == found.fields:
            return
        content = {"options": {"cas": found.version}, "data": wanted}
        answer = self._ask("POST", self._data, headers, content, accept=(400,))
        if answer.status == 400 and self._entry(headers).version != found.version:
            raise Transient(
                f"{self._client.speaker}: somebody else wrote {self._data} at the same moment",
                "rekeyd looks again and repeats it by itself",
            )
        if answer.status == 400:
            raise Refused(
                f"{self._client.speaker} does not take a new version of {self._data} (400)",
                "see whether the entry's size or a control group forbids it",
                reason="sink",
            )

    def _signed_in(self) -> dict[str, str]:
        auth = self._settings.auth
        inside = {"X-Vault-Namespace": self._settings.namespace} if self._settings.namespace else {}
        headers = {"X-Vault-Request": "true", **inside}
        if isinstance(auth, TokenAuth):
            return {**headers, "X-Vault-Token": token(auth.token).reveal()}
        path = f"auth/{auth.mount.strip('/')}/login"
        answer = self._ask("POST", path, headers, auth.login(), accept=(400, 403))
        issued = answer.token("auth", "client_token")
        if answer.status != 200 or issued is None:
            raise Refused(
                f"{self._client.speaker} does not accept the {auth.method} login "
                f"({answer.status}), so this sink cannot be used",
                f"see whether the role exists at auth/{auth.mount} and what it signs in with "
                "is still valid",
            )
        return {**headers, "X-Vault-Token": issued.reveal()}

    def _entry(self, headers: dict[str, str]) -> _Entry:
        return _Entry.of(self._ask("GET", self._data, headers, accept=(404,)))

    def _check_engine(self, headers: dict[str, str]) -> None:
        mount = self._settings.mount.strip("/")
        answer = self._ask("GET", f"sys/internal/ui/mounts/{mount}", headers)
        kind, version = answer.dig("data", "type"), answer.dig("data", "options", "version")
        if (kind, version) != ("kv", "2"):
            raise Refused(
                f"{self._client.speaker}: {mount} is no KV engine of version 2",
                "correct `mount`, or upgrade it with `vault kv enable-versioning`",
                reason="sink",
            )

    def _check_policy(self, headers: dict[str, str], needed: set[str]) -> str | None:
        content = {"paths": [self._data]}
        answer = self._ask("POST", "sys/capabilities-self", headers, content, accept=(403,))
        if answer.status == 403:
            return "without the policy `default` only a delivery shows whether the token may write"
        granted = answer.dig_list("data", self._data)
        lacking = [right for right in sorted(needed) if right not in granted]
        if lacking and "root" not in granted:
            raise Refused(
                f"the token may not {' and '.join(lacking)} {self._data}, so a new pair "
                "could not be delivered",
                f"give its policy create, read and update on {self._data}",
            )
        return None

    def _ask(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        content: object = None,
        accept: tuple[int, ...] = (),
    ) -> Answer:
        call = Call(method, f"/v1/{quote(path)}", headers, content=content)
        answer = self._client.send(call, (*accept, *STANDBY, 503))
        if answer.status == 503:
            raise Transient(
                f"{self._client.speaker} is {self._state()}, so it can take no pair",
                "unseal it, or see whether it is healthy",
            )
        if answer.status in STANDBY:
            raise Transient(
                f"{self._client.speaker} is a standby that forwards nothing ({answer.status})",
                "set `address` to the active node, or to a load balancer that finds it",
            )
        return answer

    def _state(self) -> str:
        answer = self._client.send(Call("GET", "/v1/sys/seal-status"), (503,))
        return "sealed" if answer.dig("sealed") is True else "out of service (503)"
