"""`secrets_manager`: a JSON object in a secret of AWS Secrets Manager.

Each pair is a version of its own, whose id is a digest of its text: sending it twice makes one
version (PutSecretValue, "This operation is idempotent"), and a pair that comes back is the version
it was before. AWSCURRENT is on the pair, AWSPREVIOUS on what was current before; other labels and
the versions under them are nobody's business here.

Least rights: `rekeyd policy rotator` prints them. While the secret has no value, `check` proves the
right to read alone; later it sends the current version once more, which AWS ignores.

    - {type: secrets_manager, secret_id: backup/s3}
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, ClassVar, Literal

from pydantic import Field

from rekeyd.botoerrors import translated
from rekeyd.errors import Gone, Refused
from rekeyd.policy import Grant
from rekeyd.ports import Sink
from rekeyd.secret import AccessPair
from rekeyd.sinks._aws import AwsSinkSettings, lent
from rekeyd.sinks.base import SinkContext

CURRENT = "AWSCURRENT"


class SecretsManager(AwsSinkSettings):
    """A secret in AWS Secrets Manager. `kms_key_id` counts when rekeyd creates it."""

    per_account: ClassVar[bool] = True

    type: Literal["secrets_manager"]
    secret_id: str = Field(
        pattern=r"^[A-Za-z0-9/_+=.@:-]{1,2048}$",
        examples=["backup/s3"],
        description="Name or ARN of the secret, of letters, digits and the signs /_+=.@:- alone.",
    )
    create: bool = Field(
        True, description="Create a secret of that name on the first delivery, if there is none."
    )

    @property
    def place(self) -> str:
        return self.placed(self.secret_id)

    @property
    def creatable(self) -> bool:
        """Whether rekeyd may create it: the end of an ARN is AWS's choice."""
        return self.create and not self.secret_id.startswith("arn:")

    def permissions(self, partition: str) -> Sequence[Grant]:
        actions = ["DescribeSecret", "GetSecretValue", "PutSecretValue", "UpdateSecretVersionStage"]
        if self.creatable:
            actions.append("CreateSecret")
        names = [f"secretsmanager:{action}" for action in actions]
        grants = [Grant(names, secret) for secret in self._arns(partition)]
        return [*grants, *self.key_grants(partition)]

    def _arns(self, partition: str) -> list[str]:
        """AWS adds a hyphen and six characters to a name, which one that is not there yet lacks."""
        if self.secret_id.startswith("arn:"):
            return [self.secret_id]
        plain = self.arn(partition, "secretsmanager", f"secret:{self.secret_id}")
        return [plain, f"{plain}-??????"]

    def open(self, context: SinkContext) -> Sink:
        return _SecretsManagerSink(self, context)


@dataclass(frozen=True, slots=True, repr=False)
class _Version:
    """The version under AWSCURRENT. None of both: the secret has no value yet."""

    id: str | None
    text: str


class _SecretsManagerSink:
    readable = True

    def __init__(self, settings: SecretsManager, context: SinkContext) -> None:
        self.name, self.mark = settings.label, settings.mark
        self._settings = settings
        self._context = context
        self._where = f"secret {settings.secret_id}"

    def check(self) -> str | None:
        """Read it, and send the current version again as it is, which AWS ignores."""
        with lent(self._context, "secretsmanager", self._settings.region) as client:
            version = self._current(client)
            self._settings.fields.decode(version.text)
            if version.id is not None:
                self._send(client, version.id, version.text)
                return None
            if not self._settings.creatable:
                self._exists(client)
        return "while there is no value, only a delivery shows whether one may be written"

    def read(self) -> AccessPair | None:
        with lent(self._context, "secretsmanager", self._settings.region) as client:
            return self._settings.fields.decode(self._current(client).text)

    def put(self, pair: AccessPair) -> None:
        with lent(self._context, "secretsmanager", self._settings.region) as client:
            before = self._current(client)
            if self._settings.fields.holds(before.text, pair):
                return
            text = self._settings.fields.encode(pair, before.text)
            version = sha256(text.encode()).hexdigest()
            try:
                labels = self._send(client, version, text)
            except Gone:
                self._create(client, version, text)
                return
            if CURRENT not in labels:  # an older version of the same text: AWS leaves it as it is
                self._promote(client, version, before.id)

    def _current(self, client: Any) -> _Version:
        with self._call("read", "GetSecretValue"):
            try:
                answer = client.get_secret_value(
                    SecretId=self._settings.secret_id, VersionStage=CURRENT
                )
            except client.exceptions.ResourceNotFoundException:
                return _Version(None, "")  # no secret, or none with a value
            except client.exceptions.InvalidRequestException:
                answer = None
        if answer is None:
            raise self._unusable()
        # a binary value is no JSON object, and is refused as such
        return _Version(answer["VersionId"], answer.get("SecretString", "(binary)"))

    def _exists(self, client: Any) -> None:
        try:
            with self._call("find", "DescribeSecret"):
                client.describe_secret(SecretId=self._settings.secret_id)
        except Gone:
            raise self._absent() from None

    def _send(self, client: Any, version: str, text: str) -> list[str]:
        with self._call("write", "PutSecretValue"):
            try:
                answer = client.put_secret_value(
                    SecretId=self._settings.secret_id, ClientRequestToken=version, SecretString=text
                )
                return list(answer["VersionStages"])
            except client.exceptions.InvalidRequestException:
                pass
        raise self._unusable()

    def _promote(self, client: Any, version: str, before: str | None) -> None:
        leaving = {"RemoveFromVersionId": before} if before else {}
        with self._call("make an older version of it current", "UpdateSecretVersionStage"):
            client.update_secret_version_stage(
                SecretId=self._settings.secret_id,
                VersionStage=CURRENT,
                MoveToVersionId=version,
                **leaving,
            )

    def _create(self, client: Any, version: str, text: str) -> None:
        if not self._settings.creatable:
            raise self._absent()
        key = {"KmsKeyId": self._settings.kms_key_id} if self._settings.kms_key_id else {}
        with self._call("create", "CreateSecret"):
            client.create_secret(
                Name=self._settings.secret_id,
                Description=f"Access key of {self._context.identity}, rotated by rekeyd",
                ClientRequestToken=version,
                SecretString=text,
                **key,
            )

    def _call(self, what: str, action: str) -> Any:
        return translated(f"{what} {self._where}", f"secretsmanager:{action}", self._where)

    def _absent(self) -> Refused:
        return Refused(
            f"{self._where} does not exist, so consumers cannot be given a pair there",
            "create it; or give its name instead of its ARN, and leave `create` at true",
            reason="sink",
        )

    def _unusable(self) -> Refused:
        return Refused(
            f"{self._where} cannot be read or written as it is: most likely it is marked for "
            "deletion, and consumers of it get no pair at all",
            f"`aws secretsmanager restore-secret --secret-id {self._settings.secret_id}`, "
            "or point the sink elsewhere",
            reason="sink",
        )
