"""A pair as the text of one variable, for stores that keep one text under one name.

Id and secret go into ONE variable: as two variables they would be two objects, and a job that
starts between the two writes would get an id with another key's secret. Three forms:

`json`         {"AWS_ACCESS_KEY_ID": "…", "AWS_SECRET_ACCESS_KEY": "…"} without blanks, so that
               GitLab can mask it; other fields of an object that can be read stay as they are
`env`          two lines NAME=VALUE, for `eval`, a dotenv file or $GITHUB_ENV
`credentials`  the text of an AWS credentials file with the profile `default`, for a variable that
               becomes a file (GitLab's type `file`) or that a job writes into one
"""

import json
import shlex
from collections.abc import Mapping
from configparser import ConfigParser
from configparser import Error as IniError
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rekeyd.errors import Refused
from rekeyd.secret import AccessPair, Secret

Format = Literal["json", "env", "credentials"]

KEY_ID = "AWS_ACCESS_KEY_ID"
SECRET = "AWS_SECRET_ACCESS_KEY"  # noqa: S105 — the name of the variable, not its value

Form = Annotated[
    Format,
    Field(description="How the pair is written into the one variable: json, env or credentials."),
]


class FieldNames(BaseModel):
    """The names of the two fields of an object that has fields of its own, such as Vault's."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)

    id: str = Field(KEY_ID, min_length=1, description="Name of the field with the key id.")
    secret: str = Field(SECRET, min_length=1, description="Name of the field with the secret.")

    @model_validator(mode="after")
    def _differ(self) -> Self:
        if self.id == self.secret:
            raise ValueError("names one field for both halves of the pair; give them two names")
        return self

    def fill(self, pair: AccessPair) -> dict[str, str]:
        return {self.id: pair.key_id, self.secret: pair.secret.reveal()}

    def pick(self, fields: Mapping[str, Any]) -> AccessPair | None:
        return pick(fields, self.id, self.secret)


USUAL_NAMES = FieldNames.model_construct(id=KEY_ID, secret=SECRET)
"""The names that every AWS SDK reads from its environment."""


def encode(pair: AccessPair, form: Format, over: str = "") -> str:
    """Write a pair as text. In JSON, the other fields of the text that it replaces are kept.

    Raises `Refused` when that text is somebody else's.
    """
    refuse_foreign(over)
    if form == "json":
        fields = {**(object_in(over) or {}), KEY_ID: pair.key_id, SECRET: pair.secret.reveal()}
        return json.dumps(fields, separators=(",", ":"), ensure_ascii=False)
    if form == "env":
        fields = {KEY_ID: pair.key_id, SECRET: pair.secret.reveal()}
        return "".join(f"{name}={shlex.quote(value)}\n" for name, value in fields.items())
    return (
        f"[default]\n{KEY_ID.lower()} = {pair.key_id}\n{SECRET.lower()} = {pair.secret.reveal()}\n"
    )


def decode(text: str, form: Format) -> AccessPair | None:
    """Read a pair from text of this form, or return None when the text holds none."""
    reader = {"json": object_in, "env": _lines, "credentials": _profile}[form]
    return pick(reader(text) or {}, KEY_ID, SECRET)


def refuse_foreign(text: str) -> None:
    """Raise `Refused` when text is neither empty nor a pair nor a JSON object that can hold one."""
    pairs = decode(text, "env") or decode(text, "credentials")
    if text.strip() and object_in(text) is None and pairs is None:
        raise Refused(
            "it holds something that is no pair, which rekeyd does not overwrite",
            "empty it, or point the sink at a name of its own",
            reason="sink",
        )


def pick(fields: Mapping[str, Any], key_id: str, secret: str) -> AccessPair | None:
    """Take a pair out of two named fields, when both are there: IAM's ids and secrets are ASCII."""
    found = fields.get(key_id), fields.get(secret)
    if not all(isinstance(value, str) and value and value.isascii() for value in found):
        return None
    return AccessPair(str(found[0]), Secret(str(found[1])))


def object_in(text: str) -> dict[str, Any] | None:
    """Return the JSON object that a text is, None when it is none or could not be written again."""
    try:
        found = json.loads(text)
        json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _lines(text: str) -> dict[str, str]:
    try:
        words = shlex.split(text, comments=True)
    except ValueError:
        return {}
    return dict(word.partition("=")[::2] for word in words)


def _profile(text: str) -> dict[str, str]:
    parser = ConfigParser(interpolation=None)
    try:
        parser.read_string(text)
        return {name.upper(): value for name, value in parser["default"].items()}
    except (IniError, KeyError):
        return {}
