"""`circleci_variable`: one environment variable of a CircleCI project or context.

Who reads it: jobs. Id and secret are one value, since two variables would be two objects:

    - run: |
        echo "export AWS_ACCESS_KEY_ID=$(jq -r .AWS_ACCESS_KEY_ID <<<"$BACKUP_S3")" >> "$BASH_ENV"
        echo "export AWS_SECRET_ACCESS_KEY=$(jq -r .AWS_SECRET_ACCESS_KEY <<<"$BACKUP_S3")" \
          >> "$BASH_ENV"

A job keeps the value that it started with, so `overlap` must outlast the longest job. CircleCI
shows no more than the last four characters of a value, so this sink is write-only and what it holds
is followed by rekeyd's own ledger.

Least rights: CircleCI's personal API tokens have no scopes; take one of a machine user who may
administer just this project, or who belongs to the context's security group. `check` proves that
the token works and sees the project or context; the API has no way to prove more without writing.

    - type: circleci_variable
      project: gh/example/backups        # or context: 6f2e2f0c-…, the context's id
      variable: BACKUP_S3
      token: credential:circleci
"""

from typing import Literal, Self
from urllib.parse import quote

from pydantic import Field, model_validator

from rekeyd.ports import Sink
from rekeyd.secret import AccessPair
from rekeyd.sinks._http import Address, Call, Client, HttpSettings, client, plain, segment
from rekeyd.sinks._reference import Reference, token
from rekeyd.sinks._value import Form, encode
from rekeyd.sinks.base import SinkContext


class CircleciVariable(HttpSettings):
    """An environment variable of a project or a context of CircleCI."""

    type: Literal["circleci_variable"]
    address: Address = "https://circleci.com"
    project: str | None = Field(
        None,
        pattern=r"^[^/\s]+/[^/\s]+/[^/\s]+$",
        examples=["gh/example/backups"],
        description="The project's slug: gh/ORG/NAME, bb/ORG/NAME or circleci/ORG_ID/PROJECT_ID.",
    )
    context: str | None = Field(
        None,
        pattern=r"^[0-9a-fA-F-]{36}$",
        examples=["6f2e2f0c-15dd-4a8b-9c3e-0d7b1f4a2c58"],
        description="A context's id, 36 characters, instead of `project`.",
    )
    variable: str = Field(
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        examples=["BACKUP_S3"],
        description="Its name, of letters, digits and _, no digit first.",
    )
    token: Reference
    format: Form = "json"

    @model_validator(mode="after")
    def _one_owner(self) -> Self:
        if bool(self.project) == bool(self.context):
            raise ValueError("needs either `project` or `context`")
        return self

    @property
    def place(self) -> str:
        return f"{plain(self.address)}/{self.project or self.context}/{self.variable}"

    def open(self, context: SinkContext) -> Sink:
        needs = (
            "take the token of a user who may administer the project, or is in the context's group"
        )
        return _CircleciVariableSink(
            self, client(self, context, self.address, service="CircleCI", needs=needs)
        )


class _CircleciVariableSink:
    """A pair in one environment variable."""

    readable = False

    def __init__(self, settings: CircleciVariable, speaker: Client) -> None:
        self.name, self.mark = settings.label, settings.mark
        self._settings = settings
        self._client = speaker
        self._owner = (
            f"/api/v2/project/{quote(settings.project)}"
            if settings.project
            else f"/api/v2/context/{settings.context}"
        )

    def check(self) -> str:
        """Prove that the token works and sees the project or context: no more can be asked."""
        self._client.send(Call("GET", self._owner, self._headers()))
        return "CircleCI tells only at a delivery whether the token may set variables"

    def read(self) -> AccessPair | None:
        raise NotImplementedError("CircleCI gives no value back")

    def put(self, pair: AccessPair) -> None:
        value = encode(pair, self._settings.format)
        name = self._settings.variable
        if self._settings.project:
            call = Call(
                "POST",
                f"{self._owner}/envvar",
                self._headers(),
                content={"name": name, "value": value},
            )
        else:
            path = f"{self._owner}/environment-variable/{segment(name)}"
            call = Call("PUT", path, self._headers(), content={"value": value})
        self._client.send(call)

    def _headers(self) -> dict[str, str]:
        return {"Circle-Token": token(self._settings.token).reveal()}
