"""`s3_object`: one object in a bucket, and a check that writes nothing."""

import json
from io import BytesIO

import pytest
from botocore.response import StreamingBody
from cloud import aws
from contract import NEW, OLD
from pydantic import ValidationError

from rekeyd.errors import Gone, Refused, Transient
from rekeyd.sinks.base import SinkContext
from rekeyd.sinks.s3_object import S3Object

WHERE = {"Bucket": "settings", "Key": "hosts/backup.json"}


@pytest.fixture
def cloud():
    with aws() as cloud:
        ask(cloud, "create_bucket", Bucket=WHERE["Bucket"])
        yield cloud


def settings(**more):
    return S3Object(type="s3_object", bucket=WHERE["Bucket"], key=WHERE["Key"], **more)


def sink(cloud, **more):
    return settings(**more).open(cloud.context())


def ask(cloud, operation, **given):
    client = cloud.client("s3")
    try:
        return getattr(client, operation)(**given)
    finally:
        client.close()


def objects(cloud):
    listed = ask(cloud, "list_objects_v2", Bucket=WHERE["Bucket"])
    return [(entry["Key"], entry["LastModified"]) for entry in listed.get("Contents", [])]


def test_a_pair_is_read_as_it_was_put(cloud):
    place = sink(cloud, sse="aws:kms", kms_key_id="alias/backup")
    assert place.read() is None

    place.put(OLD)
    place.put(NEW)

    assert place.read().fingerprint() == NEW.fingerprint()
    head = ask(cloud, "head_object", **WHERE)
    assert (head["ServerSideEncryption"], head["ContentType"]) == ("aws:kms", "application/json")


def test_other_fields_stay(cloud):
    ask(cloud, "put_object", Body=b'{"Version": 1}', **WHERE)
    place = sink(cloud, fields={"id": "AccessKeyId", "secret": "SecretAccessKey"})

    place.put(NEW)

    with ask(cloud, "get_object", **WHERE)["Body"] as stream:
        assert json.loads(stream.read()) == {
            "Version": 1,
            "AccessKeyId": NEW.key_id,
            "SecretAccessKey": NEW.secret.reveal(),
        }


def test_the_same_pair_twice_is_written_once(cloud):
    place = sink(cloud)
    place.put(OLD)
    place.put(OLD)

    assert cloud.calls.count("PutObject") == 1


def test_a_check_writes_nothing_whether_there_is_an_object_or_not(cloud):
    place = sink(cloud)
    place.check()
    assert objects(cloud) == []
    place.put(OLD)
    before = objects(cloud)

    place.check()

    assert objects(cloud) == before


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("operation", ["GetObject", "PutObject"])
def test_a_check_finds_each_missing_permission(cloud, operation, there):
    place = sink(cloud)
    if there:
        place.put(OLD)
    cloud.faults[operation] = "denied"

    with pytest.raises(Refused, match=f"s3:{operation}") as caught:
        place.check()
    assert caught.value.reason == "permission"


def test_a_bucket_that_does_not_exist_is_no_empty_sink(cloud):
    place = S3Object(type="s3_object", bucket="elsewhere", key="k").open(cloud.context())

    for missing in (place.check, place.read, lambda: place.put(NEW)):
        with pytest.raises(Gone, match="NoSuchBucket"):
            missing()


@pytest.mark.parametrize("body", [b"hunter2", b"\xff\xfe", b"[1]", b"{}" + b" " * (1 << 20) + b"x"])
def test_what_is_no_json_object_is_not_overwritten(cloud, body):
    ask(cloud, "put_object", Body=body, **WHERE)
    place = sink(cloud)

    for refused in (place.check, place.read, lambda: place.put(NEW)):
        with pytest.raises(Refused, match="no JSON object"):
            refused()


@pytest.mark.parametrize("fault", ["throttled", "broken", "unreachable", "silent"])
def test_trouble_that_passes_is_told_from_a_refusal(cloud, fault):
    cloud.faults["PutObject"] = fault

    with pytest.raises(Transient):
        sink(cloud).put(NEW)


def test_a_key_with_signs_of_a_policy_is_meant_literally():
    odd = S3Object(type="s3_object", bucket="settings", key="a*b?c$d")
    assert odd.permissions("aws")[0].resource == "arn:aws:s3:::settings/a${*}b${?}c${$}d"


def test_a_kms_key_without_its_encryption_is_a_mistake():
    with pytest.raises(ValidationError, match="aws:kms"):
        settings(kms_key_id="alias/backup")


def test_an_object_that_is_cut_short_is_not_taken_for_another(cloud):
    ask(cloud, "put_object", Body=b"{}", **WHERE)

    class Cut:
        """A client whose answers break off."""

        def __init__(self, service, region):
            self._client = cloud.client(service, region)

        def __getattr__(self, name):
            return getattr(self._client, name)

        def get_object(self, **where):
            return {"Body": StreamingBody(BytesIO(b'{"AWS_ACC'), 60)} | where

    place = settings().open(SinkContext(identity="backup_user", aws_client=Cut))
    for act in (place.read, place.check, lambda: place.put(NEW)):
        with pytest.raises(Transient, match="could not read"):
            act()
