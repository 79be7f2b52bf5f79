"""`ssm_parameter`: a JSON object in a SecureString of AWS Systems Manager's Parameter Store.

Least rights: `rekeyd policy rotator` prints them. While there is no parameter, `check` proves the
right to read alone; later it asks to create what exists, which AWS refuses to those who may.

    - {type: ssm_parameter, parameter: /backup/s3}
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, ClassVar, Literal

from pydantic import Field

from rekeyd.botoerrors import translated
from rekeyd.errors import Refused
from rekeyd.policy import Grant
from rekeyd.ports import Sink
from rekeyd.secret import AccessPair
from rekeyd.sinks._aws import AwsSinkSettings, lent
from rekeyd.sinks.base import SinkContext


class SsmParameter(AwsSinkSettings):
    """A SecureString. Left out, `kms_key_id` is the account's aws/ssm, at every delivery."""

    per_account: ClassVar[bool] = True

    type: Literal["ssm_parameter"]
    parameter: str = Field(
        pattern=r"^(/[A-Za-z0-9_.-]+)+$|^[A-Za-z0-9_.-]+$",
        max_length=1011,
        examples=["/backup/s3"],
        description="Name of the parameter, of letters, digits and ._-, with a slash before each"
        " part where it is a path.",
    )
    tier: Literal["Standard", "Advanced", "Intelligent-Tiering"] | None = Field(
        None, description="Left out: the account's default. Advanced ones cost money."
    )

    @property
    def place(self) -> str:
        return self.placed(self.parameter)

    def permissions(self, partition: str) -> Sequence[Grant]:
        resource = self.arn(partition, "ssm", f"parameter/{self.parameter.lstrip('/')}")
        grant = Grant(("ssm:GetParameter", "ssm:PutParameter"), resource)
        return [grant, *self.key_grants(partition)]

    def open(self, context: SinkContext) -> Sink:
        return _SsmParameterSink(self, context)


class _SsmParameterSink:
    readable = True

    def __init__(self, settings: SsmParameter, context: SinkContext) -> None:
        self.name, self.mark = settings.label, settings.mark
        self._settings = settings
        self._context = context
        self._where = f"parameter {settings.parameter}"

    def check(self) -> str | None:
        """Read it, and ask to create what exists: whoever may write is told that it exists."""
        with lent(self._context, "ssm", self._settings.region) as client:
            text = self._text(client)
            self._settings.fields.decode(text)
            if not text:
                return "while there is none, only a delivery shows whether it may be created"
            with (
                self._call("write", "PutParameter"),
                suppress(client.exceptions.ParameterAlreadyExists),
            ):
                self._write(client, text, overwrite=False)
        return None

    def read(self) -> AccessPair | None:
        with lent(self._context, "ssm", self._settings.region) as client:
            return self._settings.fields.decode(self._text(client))

    def put(self, pair: AccessPair) -> None:
        with lent(self._context, "ssm", self._settings.region) as client:
            before = self._text(client)
            if self._settings.fields.holds(before, pair):
                return
            text = self._settings.fields.encode(pair, before)
            with self._call("write", "PutParameter"):
                try:
                    self._write(client, text, overwrite=True)
                except client.exceptions.ParameterMaxVersionLimitExceeded:
                    pass
                else:
                    return
        raise Refused(
            f"{self._where} takes no new value: it has 100 versions, and its oldest has a label, "
            "which AWS then keeps",
            "take the label off: `aws ssm get-parameter-history` shows it, "
            "`aws ssm unlabel-parameter-version` removes it",
            reason="sink",
        )

    def _text(self, client: Any) -> str:
        with self._call("read", "GetParameter"):
            try:
                found = client.get_parameter(Name=self._settings.parameter, WithDecryption=True)
            except client.exceptions.ParameterNotFound:
                return ""
        if found["Parameter"]["Type"] == "SecureString":
            return str(found["Parameter"]["Value"])
        raise Refused(
            f"{self._where} is a {found['Parameter']['Type']}, which AWS does not encrypt, "
            "and its type cannot be changed",
            "delete it, and rekeyd creates a SecureString; or give another name",
            reason="sink",
        )

    def _write(self, client: Any, text: str, *, overwrite: bool) -> None:
        optional = {"KeyId": self._settings.kms_key_id, "Tier": self._settings.tier}
        client.put_parameter(
            Name=self._settings.parameter,
            Value=text,
            Type="SecureString",
            Overwrite=overwrite,
            **{name: value for name, value in optional.items() if value},
        )

    def _call(self, what: str, action: str) -> Any:
        return translated(f"{what} {self._where}", f"ssm:{action}", self._where)
