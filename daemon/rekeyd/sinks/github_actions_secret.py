"""`github_actions_secret`: a secret of GitHub Actions: repository, environment or organization.

Who reads it: workflows. Id and secret are one value, since two secrets would be two objects:

    env:
      AWS_ACCESS_KEY_ID: ${{ fromJSON(secrets.BACKUP_S3).AWS_ACCESS_KEY_ID }}
      AWS_SECRET_ACCESS_KEY: ${{ fromJSON(secrets.BACKUP_S3).AWS_SECRET_ACCESS_KEY }}

GitHub masks a secret only as a whole: let the job `echo "::add-mask::…"` for the parts of a JSON
value. A job keeps the value that it started with, so `overlap` must outlast the longest job.

The value is sealed to the repository's public key (libsodium's sealed box) before it leaves this
machine; that needs PyNaCl: `pip install rekeyd[github]`. GitHub gives no secret back, so this sink
is write-only and what it holds is followed by rekeyd's own ledger.

Least rights of the token: fine-grained, "Secrets" read and write (repository), "Environments" read
and write (environment), "Organization secrets" read and write (organization). A classic token needs
`repo` or `admin:org`. `check` fetches the public key, which proves the token and the read half, and
the scopes of a classic token; GitHub's API has no way to prove the write half of a fine-grained
one without writing.

    - type: github_actions_secret
      repository: example/backups
      secret_name: BACKUP_S3
      token: credential:github
"""

from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from rekeyd.errors import Refused, Transient
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
from rekeyd.sinks._reference import Reference, token
from rekeyd.sinks._value import Form, encode
from rekeyd.sinks.base import SinkContext

VERSION = {"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2022-11-28"}

PAGE = 100
"""Repositories that GitHub lists at once."""


class GithubActionsSecret(HttpSettings):
    """A secret of GitHub Actions: of a repository, an environment or an organization."""

    type: Literal["github_actions_secret"]
    repository: str | None = Field(
        None,
        pattern=r"^[^/\s]+/[^/\s]+$",
        examples=["example/backups"],
        description="A repository, as OWNER/NAME.",
    )
    environment: str | None = Field(None, description="A deployment environment of `repository`.")
    organization: str | None = Field(
        None,
        pattern=r"^[^/\s]+$",
        examples=["example"],
        description="The name of an organization, instead of `repository`.",
    )
    secret_name: str = Field(
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        examples=["BACKUP_S3"],
        description="What workflows call it, of letters, digits and _, no digit first.",
    )
    visibility: Literal["all", "private"] = Field(
        "private",
        description="Which repositories see an organization's secret that has to be made; "
        "that of an existing one is kept.",
    )
    token: Reference
    format: Form = "json"
    api_url: Address = Field("https://api.github.com", description="https://HOST/api/v3 elsewhere.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if bool(self.repository) == bool(self.organization):
            raise ValueError("needs either `repository` or `organization`")
        if self.environment and not self.repository:
            raise ValueError("`environment` belongs to a `repository`")
        if self.secret_name.upper().startswith("GITHUB_"):
            raise ValueError("`secret_name` may not begin with GITHUB_, which GitHub keeps")
        return self

    @property
    def place(self) -> str:
        inside = f"/{self.environment}" if self.environment else ""
        owner = self.repository or self.organization
        return f"{plain(self.api_url)}/{owner}{inside}/{self.secret_name}"

    def open(self, context: SinkContext) -> Sink:
        needs = "give the token the permission Secrets: read and write, or the scope repo/admin:org"
        speaker = client(self, context, self.api_url, service="GitHub", needs=needs)
        return _GithubActionsSecretSink(self, speaker)


class _GithubActionsSecretSink:
    """A pair in one secret of GitHub Actions."""

    readable = False

    def __init__(self, settings: GithubActionsSecret, speaker: Client) -> None:
        self.name, self.mark = settings.label, settings.mark
        self._settings = settings
        self._client = speaker
        self._secrets = _collection(settings)
        self._secret = f"{self._secrets}/{segment(settings.secret_name)}"

    def check(self) -> str | None:
        """Prove the token, its scopes and the extra, as far as GitHub can tell without a write."""
        _public_module()
        scopes = self._get(f"{self._secrets}/public-key").headers.get("x-oauth-scopes", "")
        granted = {scope.strip() for scope in scopes.split(",")} - {""}
        needed = "admin:org" if self._settings.organization else "repo"
        if not granted:
            return "GitHub tells only at a delivery whether a fine-grained token may write secrets"
        if needed not in granted:
            raise Refused(
                f"the GitHub token lacks the scope {needed}, so a new pair could not be delivered",
                f"give it the scope {needed}, or use a fine-grained one with Secrets: write",
            )
        return None

    def read(self) -> AccessPair | None:
        raise NotImplementedError("GitHub gives no secret back")

    def put(self, pair: AccessPair) -> None:
        key = self._get(f"{self._secrets}/public-key")
        content = {
            "encrypted_value": _seal(key.dig("key"), encode(pair, self._settings.format)),
            "key_id": key.dig("key_id"),
            **(self._audience() if self._settings.organization else {}),
        }
        self._client.send(Call("PUT", self._secret, self._headers(), content=content))

    def _audience(self) -> dict[str, Any]:
        """The repositories that see an organization's secret: each PUT sets them anew."""
        found = self._get(self._secret, accept=(404,))
        visibility = found.dig("visibility") or self._settings.visibility
        if found.status == 404 or visibility != "selected":
            return {"visibility": visibility}
        return {"visibility": "selected", "selected_repository_ids": self._selected()}

    def _selected(self) -> list[int]:
        ids: list[int] = []
        while True:
            query = {"per_page": str(PAGE), "page": str(len(ids) // PAGE + 1)}
            listed = self._get(f"{self._secret}/repositories", query).dig_list("repositories")
            ids += [found["id"] for found in listed if isinstance(found, dict) and "id" in found]
            if len(listed) < PAGE:
                return ids

    def _get(
        self, path: str, query: Mapping[str, str] | None = None, accept: tuple[int, ...] = ()
    ) -> Answer:
        return self._client.send(Call("GET", path, self._headers(), query or {}), accept)

    def _headers(self) -> dict[str, str]:
        return {**VERSION, **bearer(token(self._settings.token))}


def _collection(settings: GithubActionsSecret) -> str:
    if settings.organization:
        return f"/orgs/{segment(settings.organization)}/actions/secrets"
    repository = f"/repos/{settings.repository}"
    if settings.environment:
        return f"{repository}/environments/{segment(settings.environment)}/secrets"
    return f"{repository}/actions/secrets"


def _public_module() -> Any:
    try:
        from nacl import public  # noqa: PLC0415 — an extra, and 5 MiB
    except ImportError:
        raise Refused(
            "PyNaCl is not installed, without which nothing can be sealed for GitHub",
            "pip install 'rekeyd[github]'",
            reason="sink",
        ) from None
    return public


def _seal(key: object, text: str) -> str:
    public = _public_module()
    try:
        box = public.SealedBox(public.PublicKey(b64decode(str(key))))
    except (ValueError, TypeError):
        raise Transient(
            "GitHub gave no usable public key, so nothing was sent",
            "rekeyd tries again by itself",
        ) from None
    return b64encode(box.encrypt(text.encode())).decode()
