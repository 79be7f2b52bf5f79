"""`ssm_parameter`: one SecureString, written only when it changes."""

import json

import pytest
from cloud import aws
from contract import NEW, OLD
from pydantic import ValidationError

from rekeyd.errors import Refused, Transient
from rekeyd.sinks.ssm_parameter import SsmParameter

NAME = "/backup/s3"


@pytest.fixture
def cloud():
    with aws() as cloud:
        yield cloud


def sink(cloud, **settings):
    return SsmParameter(type="ssm_parameter", parameter=NAME, **settings).open(cloud.context())


def ask(cloud, operation, **given):
    client = cloud.client("ssm")
    try:
        return getattr(client, operation)(Name=NAME, **given)
    finally:
        client.close()


def held(cloud):
    return ask(cloud, "get_parameter", WithDecryption=True)["Parameter"]


def test_the_first_delivery_makes_an_encrypted_parameter(cloud):
    place = sink(cloud, kms_key_id="alias/backup", tier="Advanced")
    place.check()
    assert place.read() is None

    place.put(OLD)

    assert place.read().fingerprint() == OLD.fingerprint()
    history = ask(cloud, "get_parameter_history")["Parameters"]
    assert [(v["Type"], v["KeyId"], v["Tier"]) for v in history] == [
        ("SecureString", "alias/backup", "Advanced")
    ]


def test_other_fields_stay_and_going_back_is_a_delivery_like_any_other(cloud):
    ask(cloud, "put_parameter", Value='{"bucket": "b"}', Type="SecureString")
    place = sink(cloud)

    for pair in (OLD, NEW, OLD):
        place.put(pair)

    assert json.loads(held(cloud)["Value"])["bucket"] == "b"
    assert place.read().fingerprint() == OLD.fingerprint()


def test_the_same_pair_twice_is_one_version(cloud):
    place = sink(cloud)
    place.put(OLD)
    place.put(OLD)

    assert held(cloud)["Version"] == 1


def test_a_check_changes_nothing(cloud):
    place = sink(cloud)
    place.check()
    place.put(OLD)

    place.check()

    assert held(cloud)["Version"] == 1


@pytest.mark.parametrize("operation", ["GetParameter", "PutParameter"])
def test_a_check_finds_each_missing_permission(cloud, operation):
    place = sink(cloud)
    place.put(OLD)
    cloud.faults[operation] = "denied"

    with pytest.raises(Refused, match=f"ssm:{operation} on parameter {NAME}") as caught:
        place.check()
    assert caught.value.reason == "permission"


@pytest.mark.parametrize(
    ("value", "kind", "why"),
    [("{}", "String", "is a String"), ("hunter2", "SecureString", "no JSON object")],
)
def test_what_is_not_ours_is_not_overwritten(cloud, value, kind, why):
    ask(cloud, "put_parameter", Value=value, Type=kind)
    place = sink(cloud)

    for refused in (place.check, place.read, lambda: place.put(NEW)):
        with pytest.raises(Refused, match=why):
            refused()


def test_a_label_on_the_oldest_of_a_hundred_versions_is_explained(cloud):
    place = sink(cloud)
    place.put(OLD)
    cloud.faults["PutParameter"] = "ParameterMaxVersionLimitExceeded"

    with pytest.raises(Refused, match="100 versions") as caught:
        place.put(NEW)
    assert "unlabel-parameter-version" in caught.value.do


@pytest.mark.parametrize(
    "fault", ["throttled", "broken", "unreachable", "silent", "TooManyUpdates"]
)
def test_trouble_that_passes_is_told_from_a_refusal(cloud, fault):
    cloud.faults["PutParameter"] = fault

    with pytest.raises(Transient):
        sink(cloud).put(NEW)


def test_no_error_repeats_what_was_sent(cloud):
    cloud.faults["PutParameter"] = "ValidationException"

    with pytest.raises(Refused) as caught:
        sink(cloud).put(NEW)
    assert NEW.secret.reveal() not in f"{caught.value} {caught.value.do}"


def test_it_needs_its_own_parameter_and_key_only():
    settings = SsmParameter(
        type="ssm_parameter", parameter=NAME, region="eu-west-1", kms_key_id="1234-abcd"
    )
    parameter, key = settings.permissions("aws")

    assert parameter.resource == "arn:aws:ssm:eu-west-1:*:parameter/backup/s3"
    assert key.resource == "arn:aws:kms:eu-west-1:*:key/1234-abcd"


@pytest.mark.parametrize("name", ["backup/s3", "/backup/", "a:1", "arn:aws:ssm:x", "", "*"])
def test_names_that_cannot_be_written_to_are_refused(name):
    with pytest.raises(ValidationError):
        SsmParameter(type="ssm_parameter", parameter=name)
