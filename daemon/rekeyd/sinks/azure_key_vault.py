"""`azure_key_vault`: a new version of a secret in an Azure Key Vault.

Who reads it: App Service and Functions by Key Vault references, the CSI driver of AKS, the Azure
CLI, the External Secrets Operator. Id and secret are one value in one version; content type and
tags of the version before are carried over, and so are other fields of a JSON value. Older versions
are left alone. A pair that the newest version holds already makes no new one.

Least rights: with access policies `Get` and `Set` on secrets; with role assignments "Key Vault
Secrets Officer" on this one secret, or a role of your own with
`Microsoft.KeyVault/vaults/secrets/getSecret/action` and `…/setSecret/action`. `check` proves the
sign-in and the read half; Key Vault has no way to ask for the write half without writing.

    - type: azure_key_vault
      vault: https://example-backups.vault.azure.net
      secret: backup-s3
      auth: {method: managed_identity}    # or client_secret, with tenant, client_id, client_secret
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from rekeyd.errors import Refused
from rekeyd.ports import Sink
from rekeyd.secret import AccessPair
from rekeyd.sinks._http import (
    Address,
    Answer,
    Call,
    Client,
    HttpSettings,
    bearer,
    client,
    plain,
    segment,
)
from rekeyd.sinks._reference import Reference, dereference
from rekeyd.sinks._value import Form, decode, encode, refuse_foreign
from rekeyd.sinks.base import SinkContext

VERSION = {"api-version": "7.4"}

METADATA = "http://169.254.169.254"

TOKEN_PATH = "/metadata/identity/oauth2/token"  # noqa: S105 — a path


class _Auth(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


class ClientSecretAuth(_Auth):
    method: Literal["client_secret"]
    tenant: str = Field(
        pattern=r"^[A-Za-z0-9.-]+$",
        examples=["example.onmicrosoft.com"],
        description="Id or domain of the tenant.",
    )
    client_id: str = Field(description="The application's id.")
    client_secret: Reference
    authority: Address = "https://login.microsoftonline.com"


class ManagedIdentityAuth(_Auth):
    method: Literal["managed_identity"]
    client_id: str | None = Field(None, description="Of a user-assigned identity.")


class AzureKeyVault(HttpSettings):
    """A secret in a Key Vault of Azure."""

    type: Literal["azure_key_vault"]
    vault: Address = Field(description="The vault's URI, such as https://NAME.vault.azure.net.")
    secret: str = Field(
        pattern=r"^[0-9a-zA-Z-]{1,127}$",
        examples=["backup-s3"],
        description="The secret's name, of letters, digits and dashes, 127 at most.",
    )
    auth: Annotated[ClientSecretAuth | ManagedIdentityAuth, Field(discriminator="method")] = Field(
        description="How rekeyd logs in, by `method`: client_secret or managed_identity."
    )
    audience: str = Field(
        "https://vault.azure.net",
        description="Whom tokens are for; https://vault.azure.cn, https://vault.usgovcloudapi.net.",
    )
    format: Form = "json"

    @property
    def place(self) -> str:
        return f"{plain(self.vault)}/{self.secret}"

    def open(self, context: SinkContext) -> Sink:
        needs = "give the identity Get and Set on secrets (role Key Vault Secrets Officer)"
        speaker = client(self, context, self.vault, service="Key Vault", needs=needs)
        return _AzureKeyVaultSink(self, context, speaker)


class _AzureKeyVaultSink:
    """A pair in the newest version of a secret."""

    readable = True

    def __init__(self, settings: AzureKeyVault, context: SinkContext, speaker: Client) -> None:
        self.name, self.mark = settings.label, settings.mark
        self._settings = settings
        self._context = context
        self._client = speaker
        self._secret = f"/secrets/{segment(settings.secret)}"

    def check(self) -> str:
        """Prove the sign-in and the right to read. Key Vault tells nothing of that to write."""
        refuse_foreign(_text(self._newest(self._signed_in())))
        return "Key Vault tells only at a delivery whether the identity may set the secret"

    def read(self) -> AccessPair | None:
        return decode(_text(self._newest(self._signed_in())), self._settings.format)

    def put(self, pair: AccessPair) -> None:
        headers = self._signed_in()
        newest = self._newest(headers)
        value = encode(pair, self._settings.format, _text(newest))
        if value == _text(newest):
            return
        kept = {name: newest.dig(name) for name in ("contentType", "tags") if newest.dig(name)}
        content = {**kept, "value": value}
        answer = self._client.send(Call("PUT", self._secret, headers, VERSION, content), (409,))
        if answer.status == 409:
            raise Refused(
                f"the secret {self._settings.secret} was deleted and not purged, so it takes no "
                "new version",
                "`az keyvault secret recover`, or purge it",
                reason="sink",
            )

    def _newest(self, headers: dict[str, str]) -> Answer:
        return self._client.send(Call("GET", self._secret, headers, VERSION), accept=(404,))

    def _signed_in(self) -> dict[str, str]:
        auth = self._settings.auth
        answer = (
            self._sign_in(auth)
            if isinstance(auth, ClientSecretAuth)
            else self._ask_metadata(auth.client_id)
        )
        issued = answer.token("access_token")
        if issued is None:
            raise Refused(
                "Microsoft Entra does not accept the sign-in, so this sink cannot be used",
                "see whether tenant and client are right and the client secret has not expired",
            )
        return bearer(issued)

    def _sign_in(self, auth: ClientSecretAuth) -> Answer:
        speaker = client(
            self._settings, self._context, auth.authority, service="Microsoft Entra", needs=""
        )
        form = {
            "grant_type": "client_credentials",
            "client_id": auth.client_id,
            "client_secret": dereference(auth.client_secret).reveal(),
            "scope": f"{self._settings.audience}/.default",
        }
        path = f"/{auth.tenant}/oauth2/v2.0/token"
        return speaker.send(Call("POST", path, form=form), accept=(400, 401))

    def _ask_metadata(self, client_id: str | None) -> Answer:
        speaker = Client(METADATA, service="the metadata server", needs="", metadata=True)
        query = {"api-version": "2018-02-01", "resource": self._settings.audience}
        query |= {"client_id": client_id} if client_id else {}
        return speaker.send(Call("GET", TOKEN_PATH, {"Metadata": "true"}, query), accept=(400,))


def _text(newest: Answer) -> str:
    return "" if newest.status == 404 else str(newest.dig("value") or "")
