"""`s3_object`: a JSON object in an S3 bucket, for machines that fetch their settings from there.

Least rights: `rekeyd policy rotator` prints them. `check` proves them by a write that no store can
take. In a versioned bucket, let a lifecycle rule expire old versions.

    - {type: s3_object, bucket: configuration, key: backup/pair.json}
"""

from base64 import b64encode
from collections.abc import Sequence
from hashlib import md5
from typing import Any, Literal

from botocore.exceptions import ClientError
from pydantic import Field, model_validator

from rekeyd.botoerrors import body, translated
from rekeyd.errors import Refused
from rekeyd.policy import Grant
from rekeyd.ports import Sink
from rekeyd.secret import AccessPair
from rekeyd.sinks._aws import AwsSinkSettings, lent
from rekeyd.sinks.base import SinkContext

LARGEST = 1 << 20
"""Bytes. A larger object is nothing that rekeyd has written."""

NEVER = {
    "IfMatch": '"never"',
    "ContentMD5": b64encode(md5(b"never", usedforsecurity=False).digest()).decode(),
}
"""The tag of no object, and the digest of no text of ours: a store refuses a write with either."""

TOLD_SO = {"BadDigest", "NoSuchKey", "PreconditionFailed"}
"""What it then answers to those who may write, after it has judged whether they may."""

LITERAL = str.maketrans({"*": "${*}", "?": "${?}", "$": "${$}"})
"""How a policy's resource says these characters without meaning wild cards or variables."""


class S3Object(AwsSinkSettings):
    """An object in S3. In a versioned bucket, let a lifecycle rule expire its old versions."""

    type: Literal["s3_object"]
    bucket: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]$",
        examples=["backup-bucket"],
        description="The bucket's name, of 3 to 255 letters, digits and ._-, a letter or digit at"
        " both ends.",
    )
    key: str = Field(min_length=1, max_length=1024, description="Name of the object.")
    sse: Literal["AES256", "aws:kms", "aws:kms:dsse"] | None = Field(
        None, description="Encryption at rest. Left out: as the bucket says."
    )

    @model_validator(mode="after")
    def _key_has_its_encryption(self) -> "S3Object":
        if self.kms_key_id and self.sse not in {"aws:kms", "aws:kms:dsse"}:
            raise ValueError('has a `kms_key_id` that goes unused; add `sse: "aws:kms"`')
        return self

    @property
    def place(self) -> str:
        return f"{self.bucket}/{self.key}"

    def permissions(self, partition: str) -> Sequence[Grant]:
        bucket = f"arn:{partition}:s3:::{self.bucket}"
        return [
            Grant(("s3:GetObject", "s3:PutObject"), f"{bucket}/{self.key.translate(LITERAL)}"),
            # S3 says 403 instead of 404 to those who may not list, whatever prefix they may list
            Grant(["s3:ListBucket"], bucket),
            *self.key_grants(partition),
        ]

    def open(self, context: SinkContext) -> Sink:
        return _S3ObjectSink(self, context)


class _S3ObjectSink:
    readable = True

    def __init__(self, settings: S3Object, context: SinkContext) -> None:
        self.name, self.mark = settings.label, settings.mark
        self._settings = settings
        self._context = context
        self._where = f"s3://{settings.place}"

    def check(self) -> None:
        """Read it, and write what can never be taken: whoever may write is told so.

        A store that knows no conditions is stopped by the digest, which is as old as S3.
        """
        with lent(self._context, "s3", self._settings.region) as client:
            text = self._text(client)
            self._settings.fields.decode(text)
            with self._call("write", "PutObject"):
                try:
                    self._write(client, text or "{}", **NEVER)
                except ClientError as error:
                    if error.response["Error"]["Code"] not in TOLD_SO:
                        raise

    def read(self) -> AccessPair | None:
        with lent(self._context, "s3", self._settings.region) as client:
            return self._settings.fields.decode(self._text(client))

    def put(self, pair: AccessPair) -> None:
        with lent(self._context, "s3", self._settings.region) as client:
            before = self._text(client)
            if self._settings.fields.holds(before, pair):
                return
            text = self._settings.fields.encode(pair, before)
            with self._call("write", "PutObject"):
                self._write(client, text)

    def _text(self, client: Any) -> str:
        with self._call("read", "GetObject, and s3:ListBucket on the bucket,"):
            try:
                answer = client.get_object(Bucket=self._settings.bucket, Key=self._settings.key)
            except client.exceptions.NoSuchKey:
                return ""
            read = body(answer, LARGEST + 1)
        try:
            if len(read) <= LARGEST:
                return read.decode("utf-8")
        except UnicodeDecodeError:
            pass
        raise Refused(
            f"{self._where} is no JSON object, and rekeyd does not overwrite what it did not write",
            "delete it, or give another key",
            reason="sink",
        )

    def _write(self, client: Any, text: str, **condition: str) -> None:
        optional = {
            "ServerSideEncryption": self._settings.sse,
            "SSEKMSKeyId": self._settings.kms_key_id,
        }
        client.put_object(
            Bucket=self._settings.bucket,
            Key=self._settings.key,
            Body=text.encode(),
            ContentType="application/json",
            **{name: value for name, value in optional.items() if value},
            **condition,
        )

    def _call(self, what: str, action: str) -> Any:
        return translated(f"{what} {self._where}", f"s3:{action}", self._where)
