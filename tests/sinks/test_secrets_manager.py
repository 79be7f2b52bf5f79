"""`secrets_manager`: the labels stay right, and nothing else in it changes."""

import json

import pytest
from cloud import aws
from contract import NEW, OLD
from pydantic import ValidationError

from rekeyd.errors import Refused, Transient
from rekeyd.sinks.secrets_manager import SecretsManager

NAME = "backup/s3"


@pytest.fixture
def cloud():
    with aws() as cloud:
        yield cloud


def sink(cloud, **settings):
    chosen = {"type": "secrets_manager", "secret_id": NAME, **settings}
    return SecretsManager(**chosen).open(cloud.context())


def text(cloud, stage="AWSCURRENT"):
    client = cloud.client("secretsmanager")
    try:
        return json.loads(
            client.get_secret_value(SecretId=NAME, VersionStage=stage)["SecretString"]
        )
    finally:
        client.close()


def ask(cloud, operation, **given):
    client = cloud.client("secretsmanager")
    try:
        return getattr(client, operation)(**given)
    finally:
        client.close()


def versions(cloud):
    return ask(cloud, "describe_secret", SecretId=NAME)["VersionIdsToStages"]


def test_a_missing_secret_is_empty_and_is_created_by_the_first_delivery(cloud):
    place = sink(cloud)

    place.check()
    assert place.read() is None
    place.put(OLD)

    assert place.read().fingerprint() == OLD.fingerprint()
    assert text(cloud) == {
        "AWS_ACCESS_KEY_ID": OLD.key_id,
        "AWS_SECRET_ACCESS_KEY": OLD.secret.reveal(),
    }


@pytest.mark.parametrize(
    "settings",
    [
        {"create": False},
        {"secret_id": "arn:aws:secretsmanager:us-east-1:123456789012:secret:backup/s3-AbCdEf"},
    ],
)
def test_a_missing_secret_that_may_not_be_created_is_refused_before_anything_is_minted(
    cloud, settings
):
    place = sink(cloud, **settings)

    for refused in (place.check, lambda: place.put(OLD)):
        with pytest.raises(Refused, match="does not exist") as caught:
            refused()
        assert caught.value.reason == "sink"


def test_a_secret_without_a_value_takes_one(cloud):
    ask(cloud, "create_secret", Name=NAME)
    place = sink(cloud, create=False)

    place.check()
    assert place.read() is None
    place.put(OLD)

    assert place.read().fingerprint() == OLD.fingerprint()


def test_the_labels_follow_the_pair_there_and_back(cloud):
    place = sink(cloud)
    place.put(OLD)
    place.put(NEW)
    assert text(cloud)["AWS_ACCESS_KEY_ID"] == NEW.key_id
    assert text(cloud, "AWSPREVIOUS")["AWS_ACCESS_KEY_ID"] == OLD.key_id

    place.put(OLD)

    assert text(cloud)["AWS_ACCESS_KEY_ID"] == OLD.key_id
    assert text(cloud, "AWSPREVIOUS")["AWS_ACCESS_KEY_ID"] == NEW.key_id
    assert len(versions(cloud)) == 2, "going back makes no version"


def test_a_version_that_somebody_is_preparing_is_left_alone(cloud):
    place = sink(cloud)
    place.put(OLD)
    token = "p" * 32
    ask(
        cloud,
        "put_secret_value",
        SecretId=NAME,
        ClientRequestToken=token,
        SecretString="theirs",
        VersionStages=["AWSPENDING"],
    )

    place.put(NEW)
    place.put(OLD)

    assert versions(cloud)[token] == ["AWSPENDING"]


def test_the_same_pair_twice_is_one_version(cloud):
    place = sink(cloud)
    place.put(OLD)
    place.put(OLD)

    assert list(versions(cloud).values()) == [["AWSCURRENT"]]


@pytest.mark.parametrize("operation", ["PutSecretValue", "UpdateSecretVersionStage"])
def test_a_delivery_whose_answer_was_lost_makes_no_second_version(cloud, operation):
    place = sink(cloud)
    place.put(OLD)
    place.put(NEW)
    cloud.faults[operation] = "silent"
    with pytest.raises(Transient):
        place.put(OLD)
    cloud.faults.clear()

    place.put(OLD)

    assert len(versions(cloud)) == 2
    assert text(cloud)["AWS_ACCESS_KEY_ID"] == OLD.key_id


def test_other_fields_stay_and_the_names_of_ours_are_settings(cloud):
    ask(cloud, "create_secret", Name=NAME, SecretString='{"bucket": "b\\u00fc", "id": "AKIAOLD"}')
    place = sink(cloud, fields={"id": "id", "secret": "key"})

    assert place.read() is None, "half a pair is none"
    place.put(NEW)

    assert text(cloud) == {"bucket": "bü", "id": NEW.key_id, "key": NEW.secret.reveal()}


@pytest.mark.parametrize("value", [{"SecretString": "hunter2"}, {"SecretBinary": b"\x00"}])
def test_what_is_no_json_object_is_not_overwritten(cloud, value):
    ask(cloud, "create_secret", Name=NAME, **value)
    place = sink(cloud)

    for refused in (place.check, place.read, lambda: place.put(NEW)):
        with pytest.raises(Refused, match="no JSON object") as caught:
            refused()
        assert "hunter2" not in str(caught.value)


def test_a_check_changes_nothing_and_sends_only_what_is_there(cloud):
    place = sink(cloud)
    place.put(OLD)
    place.put(NEW)
    before = ask(cloud, "describe_secret", SecretId=NAME)

    place.check()

    after = ask(cloud, "describe_secret", SecretId=NAME)
    assert after["VersionIdsToStages"] == before["VersionIdsToStages"]
    assert text(cloud)["AWS_ACCESS_KEY_ID"] == NEW.key_id


@pytest.mark.parametrize("operation", ["GetSecretValue", "PutSecretValue"])
def test_a_check_finds_each_missing_permission(cloud, operation):
    place = sink(cloud)
    place.put(OLD)
    cloud.faults[operation] = "denied"

    with pytest.raises(Refused, match=f"secretsmanager:{operation} on secret {NAME}") as caught:
        place.check()
    assert caught.value.reason == "permission"


def test_a_denied_creation_says_which_permission_is_lacking(cloud):
    cloud.faults["CreateSecret"] = "denied"

    with pytest.raises(Refused, match="secretsmanager:CreateSecret"):
        sink(cloud).put(NEW)


@pytest.mark.parametrize("fault", ["throttled", "broken", "unreachable", "silent"])
def test_trouble_that_passes_is_told_from_a_refusal(cloud, fault):
    place = sink(cloud)
    place.put(OLD)
    cloud.faults["PutSecretValue"] = fault

    with pytest.raises(Transient):
        place.put(NEW)


def test_expired_credentials_are_called_so(cloud):
    cloud.faults["GetSecretValue"] = "expired"

    with pytest.raises(Refused) as caught:
        sink(cloud).read()
    assert caught.value.reason == "credentials"


def test_a_secret_marked_for_deletion_is_refused_with_the_way_out(cloud):
    place = sink(cloud)
    place.put(OLD)
    ask(cloud, "delete_secret", SecretId=NAME)

    for refused in (place.check, place.read, lambda: place.put(NEW)):
        with pytest.raises(Refused, match="marked for deletion") as caught:
            refused()
        assert "restore-secret" in caught.value.do


def test_a_secret_that_is_deleted_between_reading_and_writing_is_refused(cloud):
    cloud.faults["PutSecretValue"] = "InvalidRequestException"

    with pytest.raises(Refused, match="marked for deletion"):
        sink(cloud).put(NEW)


def test_no_error_repeats_what_was_sent(cloud):
    place = sink(cloud)
    place.put(OLD)
    cloud.faults["PutSecretValue"] = "ValidationException"

    with pytest.raises(Refused) as caught:
        place.put(NEW)
    assert NEW.secret.reveal() not in f"{caught.value} {caught.value.do}"
    assert caught.value.__suppress_context__


def test_a_secret_of_another_region_is_another_place():
    near = SecretsManager(type="secrets_manager", secret_id=NAME)
    far = SecretsManager(type="secrets_manager", secret_id=NAME, region="eu-west-1")
    assert (near.place, far.place) == (NAME, f"{NAME} in eu-west-1")


def test_it_needs_its_own_secret_and_key_only():
    settings = SecretsManager(type="secrets_manager", secret_id=NAME, kms_key_id="alias/backup")
    before, there, key = settings.permissions("aws-cn")

    assert before.resource == f"arn:aws-cn:secretsmanager:*:*:secret:{NAME}"
    assert there.resource == f"{before.resource}-??????"
    assert "secretsmanager:CreateSecret" in before.actions
    assert before.actions == there.actions
    assert key.condition == {"ForAnyValue:StringEquals": {"kms:ResourceAliases": "alias/backup"}}

    fixed = SecretsManager(type="secrets_manager", secret_id=NAME, create=False)
    assert "secretsmanager:CreateSecret" not in fixed.permissions("aws")[0].actions


@pytest.mark.parametrize(
    "wrong",
    [
        {"secret_id": "a b"},
        {"secret_id": ""},
        {"fields": {"id": "x", "secret": "x"}},
        {"kms_key_id": "*"},
    ],
)
def test_settings_that_cannot_work_are_refused(wrong):
    with pytest.raises(ValidationError):
        SecretsManager(**{"type": "secrets_manager", "secret_id": NAME, **wrong})
