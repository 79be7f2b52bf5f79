"""What the sinks in AWS share: the JSON object that holds a pair, and what their keys in KMS need.

The daemon signs with its own credentials here, and lends a client for one operation only.
"""

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from rekeyd.botoerrors import translated
from rekeyd.errors import Refused
from rekeyd.policy import Grant
from rekeyd.secret import AccessPair
from rekeyd.sinks._value import KEY_ID, SECRET, FieldNames, object_in
from rekeyd.sinks.base import SinkContext, SinkSettings


class Fields(FieldNames):
    """The names under which the JSON object holds the two halves of the pair."""

    def decode(self, text: str) -> AccessPair | None:
        """Read the pair from a JSON object, None when it is not there.

        Raises `Refused` when the text is something else than a JSON object.
        """
        return self.pick(_object(text))

    def encode(self, pair: AccessPair, over: str) -> str:
        """Write the pair into the JSON object that is there; its other fields stay as they are.

        Raises `Refused` when what is there is something else: it is somebody else's.
        """
        return json.dumps({**_object(over), **self.fill(pair)}, ensure_ascii=False)

    def holds(self, text: str, pair: AccessPair) -> bool:
        """Tell whether the JSON object holds exactly this pair already."""
        held = self.decode(text)
        return held is not None and held.fingerprint() == pair.fingerprint()


def _object(text: str) -> dict[str, Any]:
    if not text.strip():
        return {}
    found = object_in(text)
    if found is not None:
        return found
    raise Refused(
        "it holds something that is no JSON object, which rekeyd does not overwrite",
        "empty it, or point the sink at a name of its own",
        reason="sink",
    )


def _known_key(key: str) -> str:
    if key != key.strip() or not key or set("*?$ ") & set(key):
        raise ValueError("is not a KMS key: give its id, its ARN, alias/NAME or the alias's ARN")
    return key


KmsKey = Annotated[str, AfterValidator(_known_key)]
"""A key of KMS: id, ARN, `alias/NAME` or an alias's ARN."""


class AwsSinkSettings(SinkSettings):
    """The settings that all sinks in AWS have."""

    region: str | None = Field(None, description="Left out: the region of `aws`.")
    kms_key_id: KmsKey | None = Field(
        None, description="KMS key that encrypts it: id, ARN or alias/NAME. Left out: AWS's own."
    )
    fields: Fields = Field(
        Fields.model_construct(id=KEY_ID, secret=SECRET),
        description="Names of the two fields in the JSON object. Other fields of it are kept.",
    )

    def placed(self, name: str) -> str:
        """Say where it is: the same name may stand in several regions."""
        return f"{name} in {self.region}" if self.region else name

    def arn(self, partition: str, service: str, resource: str) -> str:
        return f"arn:{partition}:{service}:{self.region or '*'}:*:{resource}"

    def key_grants(self, partition: str) -> list[Grant]:
        """What reading and writing needs on the key of one's own. AWS's own key needs nothing."""
        actions = ("kms:Decrypt", "kms:GenerateDataKey", "kms:Encrypt")
        key = self.kms_key_id
        if key is None or key.startswith("alias/aws/"):
            return []
        _, is_alias, alias = key.rpartition("alias/")
        if is_alias:  # a permission is judged on the key itself, never on its alias
            named = {"ForAnyValue:StringEquals": {"kms:ResourceAliases": f"alias/{alias}"}}
            return [Grant(actions, self.arn(partition, "kms", "key/*"), named)]
        resource = key if key.startswith("arn:") else self.arn(partition, "kms", f"key/{key}")
        return [Grant(actions, resource)]


@contextmanager
def lent(context: SinkContext, service: str, region: str | None) -> Iterator[Any]:
    """Lend a client of a service for one operation of a sink."""
    with translated(f"set up {service}", "", service):
        client = context.aws_client(service, region)
    with closing(client):
        yield client
