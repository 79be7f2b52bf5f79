"""`gcp_secret_manager`: a new version of a secret of Google Cloud's Secret Manager.

Who reads it: workloads that access the version `latest`, `gcloud secrets versions access latest`,
Cloud Run's mounted secrets, the External Secrets Operator. Id and secret are one value in one
version; `fields` of a JSON value that rekeyd does not know are carried into the new version.

Older versions are left alone: rekeyd disables and destroys none, since a consumer may be pinned to
one. Google bills each enabled version; a `version_destroy_ttl` of the secret, or a job of yours,
tidies up. A pair that `latest` holds already makes no new version. The secret itself must exist:
where it is replicated to is not for rekeyd to choose.

Least rights on the secret: `roles/secretmanager.secretVersionAdder` and
`roles/secretmanager.secretAccessor`. `check` asks testIamPermissions for just these two.

Without `credentials` the token comes from the metadata server of the machine or pod (Compute
Engine, GKE with Workload Identity, Cloud Run); else from a service account's key file.

    - type: gcp_secret_manager
      project: example-backups
      secret: backup-s3
      credentials: file:/etc/rekeyd/gcp.json
"""

import json
from base64 import b64decode, b64encode, urlsafe_b64encode
from time import time
from typing import Any, Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from pydantic import Field, TypeAdapter, ValidationError

from rekeyd.errors import Refused, Transient
from rekeyd.ports import Sink
from rekeyd.secret import AccessPair
from rekeyd.sinks._http import Address, Answer, Call, Client, HttpSettings, bearer, client
from rekeyd.sinks._reference import Reference, dereference
from rekeyd.sinks._value import Form, decode, encode, refuse_foreign
from rekeyd.sinks.base import SinkContext

SCOPE = "https://www.googleapis.com/auth/cloud-platform"

GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"

METADATA = "http://metadata.google.internal"

TOKEN_PATH = "/computeMetadata/v1/instance/service-accounts/default/token"  # noqa: S105 — a path

NEEDED = ("secretmanager.versions.access", "secretmanager.versions.add")

LIFETIME = 600
"""Seconds for which an assertion can be exchanged; Google allows 3600."""


class GcpSecretManager(HttpSettings):
    """A secret in Secret Manager of Google Cloud."""

    type: Literal["gcp_secret_manager"]
    project: str = Field(
        pattern=r"^[a-z0-9.:-]+$",
        examples=["example-backups"],
        description="Id or number of the project, of small letters, digits and .:- alone.",
    )
    secret: str = Field(
        pattern=r"^[A-Za-z0-9_-]{1,255}$",
        examples=["backup-s3"],
        description="The secret's id, of letters, digits and _-, 255 at most.",
    )
    location: str | None = Field(
        None,
        pattern=r"^[a-z0-9-]+$",
        examples=["europe-west3"],
        description="The location of a regional secret.",
    )
    credentials: Reference | None = Field(
        None, description="A service account's key file. Left out: the metadata server."
    )
    address: Address | None = Field(
        None, description="Of a private endpoint. Left out: Google's own for the location."
    )
    format: Form = "json"

    @property
    def resource(self) -> str:
        location = f"/locations/{self.location}" if self.location else ""
        return f"projects/{self.project}{location}/secrets/{self.secret}"

    @property
    def place(self) -> str:
        return self.resource

    @property
    def endpoint(self) -> str:
        if self.address:
            return self.address
        host = f"secretmanager.{self.location}.rep" if self.location else "secretmanager"
        return f"https://{host}.googleapis.com"

    def open(self, context: SinkContext) -> Sink:
        needs = "grant secretmanager.secretVersionAdder and secretAccessor on the secret"
        speaker = client(self, context, self.endpoint, service="Secret Manager", needs=needs)
        return _GcpSecretManagerSink(self, context, speaker)


class _GcpSecretManagerSink:
    """A pair in the latest version of a secret."""

    readable = True

    def __init__(self, settings: GcpSecretManager, context: SinkContext, speaker: Client) -> None:
        self.name, self.mark = settings.label, settings.mark
        self._settings = settings
        self._context = context
        self._client = speaker
        self._secret = f"/v1/{settings.resource}"

    def check(self) -> None:
        """Ask which permissions the caller has on the secret: none when there is no secret."""
        headers = self._signed_in()
        call = Call(
            "POST",
            f"{self._secret}:testIamPermissions",
            headers,
            content={"permissions": list(NEEDED)},
        )
        granted = self._client.send(call).dig_list("permissions")
        lacking = [permission for permission in NEEDED if permission not in granted]
        if lacking:
            raise Refused(
                f"the service account lacks {' and '.join(lacking)} on "
                f"{self._settings.resource}, or there is no such secret, so a new pair could not "
                "be delivered",
                "create the secret with `gcloud secrets create`, and grant "
                "roles/secretmanager.secretVersionAdder and roles/secretmanager.secretAccessor",
            )
        refuse_foreign(self._latest(headers))

    def read(self) -> AccessPair | None:
        return decode(self._latest(self._signed_in()), self._settings.format)

    def put(self, pair: AccessPair) -> None:
        headers = self._signed_in()
        before = self._latest(headers)
        value = encode(pair, self._settings.format, before)
        if value == before:
            return
        payload = {"payload": {"data": b64encode(value.encode()).decode()}}
        self._client.send(Call("POST", f"{self._secret}:addVersion", headers, content=payload))

    def _latest(self, headers: dict[str, str]) -> str:
        """The text of the latest version, empty when there is none or it is disabled."""
        call = Call("GET", f"{self._secret}/versions/latest:access", headers)
        answer = self._client.send(call, accept=(400, 404))
        if answer.status != 200:
            return ""
        try:
            return b64decode(str(answer.dig("payload", "data") or "")).decode()
        except ValueError:
            raise Refused(
                f"{self._settings.resource} holds something that is no text, which rekeyd does "
                "not overwrite",
                "point the sink at a secret of its own",
                reason="sink",
            ) from None

    def _signed_in(self) -> dict[str, str]:
        reference = self._settings.credentials
        answer = self._exchange(reference) if reference else self._ask_metadata()
        issued = answer.token("access_token")
        if issued is None:
            raise Refused(
                "Google does not accept the service account's key, so this sink cannot be used",
                "see whether the key was deleted, the account disabled or the clock is wrong",
            )
        return bearer(issued)

    def _exchange(self, reference: str) -> Answer:
        account = _ServiceAccount(reference)
        speaker = client(
            self._settings, self._context, account.token_uri, service="Google's OAuth", needs=""
        )
        form = {"grant_type": GRANT, "assertion": account.assertion()}
        return speaker.send(Call("POST", "", form=form), accept=(400, 401))

    @staticmethod
    def _ask_metadata() -> Answer:
        speaker = Client(METADATA, service="the metadata server", needs="", metadata=True)
        answer = speaker.send(Call("GET", TOKEN_PATH, {"Metadata-Flavor": "Google"}))
        if answer.headers.get("metadata-flavor") != "Google":
            raise Transient(
                f"{speaker.speaker} is not Google's, so no token was taken from it",
                "outside Google Cloud, set `credentials` to a service account's key file",
            )
        return answer


class _ServiceAccount:
    """The key file of a service account, as the console hands it out."""

    def __init__(self, reference: str) -> None:
        try:
            fields: dict[str, Any] = json.loads(dereference(reference).reveal())
            self.token_uri = TypeAdapter(Address).validate_python(fields["token_uri"])
            self._email = str(fields["client_email"])
            self._key_id = str(fields["private_key_id"])
            key = load_pem_private_key(str(fields["private_key"]).encode(), password=None)
        except (
            ValueError,
            KeyError,
            TypeError,
            RecursionError,
            UnsupportedAlgorithm,
            ValidationError,
        ):
            key = None
        if not isinstance(key, RSAPrivateKey):
            raise Refused(
                f"what stands at {reference} is no service account key of Google",
                "put the JSON file there that `gcloud iam service-accounts keys create` writes",
            )
        self._key = key

    def assertion(self) -> str:
        """Sign who we are and what we ask for (RFC 7523, as Google describes it for servers)."""
        now = int(time())
        header = {"alg": "RS256", "typ": "JWT", "kid": self._key_id}
        claims = {
            "iss": self._email,
            "scope": SCOPE,
            "aud": self.token_uri,
            "iat": now,
            "exp": now + LIFETIME,
        }
        signed = b".".join(_unpadded(json.dumps(part).encode()) for part in (header, claims))
        signature = self._key.sign(signed, PKCS1v15(), SHA256())
        return b".".join((signed, _unpadded(signature))).decode()


def _unpadded(raw: bytes) -> bytes:
    return urlsafe_b64encode(raw).rstrip(b"=")
