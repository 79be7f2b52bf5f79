"""`gitlab_variable`: one CI/CD variable of a GitLab project or group.

Who reads it: CI jobs. Id and secret are one value, since two variables would be two objects. With
`format: credentials` and `variable_type: file` the job finds the path of an AWS credentials file in
the variable, which needs no further step when it is called AWS_SHARED_CREDENTIALS_FILE. With
`format: json`, the default, GitLab can mask the value as a whole. A job keeps the value that it
started with, so `overlap` must outlast the longest job.

The flags of an existing variable (masked, protected, raw, type, description) stay as they are;
`masked`, `protected` and `variable_type` count when rekeyd makes it. A hidden variable cannot be
read back and is refused.

Least rights: a project (or group) access token with the scope `api` and the role Maintainer (Owner
in a group). `check` proves both without writing: GitLab lets only these roles read variables, and
tells a token's scopes to the token.

    - type: gitlab_variable
      project: example/backups
      variable: AWS_SHARED_CREDENTIALS_FILE
      variable_type: file
      format: credentials
      token: file:/etc/rekeyd/gitlab-token
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from rekeyd.errors import Refused
from rekeyd.ports import Sink
from rekeyd.secret import AccessPair
from rekeyd.sinks._http import Address, Answer, Call, Client, HttpSettings, client, plain, segment
from rekeyd.sinks._reference import Reference, token
from rekeyd.sinks._value import Form, decode, encode, refuse_foreign
from rekeyd.sinks.base import SinkContext


class GitlabVariable(HttpSettings):
    """A CI/CD variable of a project or a group of GitLab."""

    type: Literal["gitlab_variable"]
    address: Address = "https://gitlab.com"
    project: str | None = Field(None, min_length=1, description="Path or number of the project.")
    group: str | None = Field(None, min_length=1, description="Path or number of the group.")
    variable: str = Field(
        pattern=r"^[A-Za-z0-9_]{1,255}$",
        examples=["BACKUP_S3"],
        description="Its key, of letters, digits and _, 255 at most.",
    )
    environment_scope: str = Field(
        "*", min_length=1, description="The environments whose jobs see it."
    )
    variable_type: Literal["env_var", "file"] = Field(
        "env_var", description="Whether jobs get the value, or the name of a file that holds it."
    )
    masked: bool = Field(False, description="Hide the value in job logs; only `format: json`.")
    protected: bool = Field(False, description="Give it to protected branches and tags only.")
    token: Reference
    format: Form = "json"

    @model_validator(mode="after")
    def _one_owner(self) -> Self:
        if bool(self.project) == bool(self.group):
            raise ValueError("needs either `project` or `group`")
        if self.masked and self.format != "json":
            raise ValueError("`masked` needs `format: json`: GitLab masks single lines only")
        return self

    @property
    def place(self) -> str:
        scope = "" if self.environment_scope == "*" else f" ({self.environment_scope})"
        return f"{plain(self.address)}/{self.project or self.group}/{self.variable}{scope}"

    def open(self, context: SinkContext) -> Sink:
        needs = "give the token the scope api and the role Maintainer (Owner in a group)"
        return _GitlabVariableSink(
            self, client(self, context, self.address, service="GitLab", needs=needs)
        )


class _GitlabVariableSink:
    """A pair in one CI/CD variable."""

    readable = True

    def __init__(self, settings: GitlabVariable, speaker: Client) -> None:
        self.name, self.mark = settings.label, settings.mark
        self._settings = settings
        self._client = speaker
        owner = f"projects/{segment(settings.project)}" if settings.project else ""
        owner = owner or f"groups/{segment(settings.group or '')}"
        self._variables = f"/api/v4/{owner}/variables"
        self._variable = f"{self._variables}/{settings.variable}"
        self._scope = {"filter[environment_scope]": settings.environment_scope}

    def check(self) -> str | None:
        """Prove role and scope by reading, and that the variable as it is takes the value."""
        headers = self._headers()
        own = self._client.send(
            Call("GET", "/api/v4/personal_access_tokens/self", headers), accept=(404,)
        )
        scopes = own.dig_list("scopes")
        if scopes and "api" not in scopes:
            raise Refused(
                "the GitLab token lacks the scope api, so a new pair could not be delivered",
                "make a token with the scope api",
            )
        self._client.send(Call("GET", self._variables, headers, {"per_page": "1"}))
        found = self._get()
        refuse_foreign(self._text(found))
        if found.dig("masked") is True and self._settings.format != "json":
            raise Refused(
                f"the variable {self._settings.variable} is masked, which GitLab does only for "
                "single lines, so it takes no new pair",
                "set `format: json`, or unmask the variable",
                reason="sink",
            )
        if scopes:
            return None
        return "this GitLab tells only at a delivery whether the token's scope is enough"

    def read(self) -> AccessPair | None:
        return decode(self._text(self._get()), self._settings.format)

    def put(self, pair: AccessPair) -> None:
        found = self._get()
        before = self._text(found)
        value = encode(pair, self._settings.format, before)
        if found.status == 404:
            self._create(value)
        elif value != before:
            scope = self._settings.environment_scope
            content = {"value": value, "filter": {"environment_scope": scope}}
            self._client.send(Call("PUT", self._variable, self._headers(), content=content))

    def _create(self, value: str) -> None:
        settings = self._settings
        content = {
            "key": settings.variable,
            "value": value,
            "variable_type": settings.variable_type,
            "masked": settings.masked,
            "protected": settings.protected,
            "raw": True,
            "environment_scope": settings.environment_scope,
        }
        self._client.send(Call("POST", self._variables, self._headers(), content=content))

    def _get(self) -> Answer:
        return self._client.send(
            Call("GET", self._variable, self._headers(), self._scope), accept=(404,)
        )

    def _text(self, found: Answer) -> str:
        if found.status == 404:
            return ""
        if found.dig("hidden") is True:
            raise Refused(
                f"the variable {self._settings.variable} is hidden, so what it holds cannot be "
                "read back",
                "delete it, and make it masked but not hidden",
                reason="sink",
            )
        return str(found.dig("value") or "")

    def _headers(self) -> dict[str, str]:
        return {"PRIVATE-TOKEN": token(self._settings.token).reveal()}
