"""What botocore reads of its services: everything that it needs, but no prose and no long lists."""

import gzip
import json
import re

import pytest
from botocore.loaders import Loader
from botocore.session import Session

from rekeyd.botomodels import new_session


def without_prose(part):
    if isinstance(part, dict):
        return {
            name: "" if name == "documentation" and isinstance(value, str) else without_prose(value)
            for name, value in part.items()
        }
    return [without_prose(value) for value in part] if isinstance(part, list) else part


@pytest.mark.parametrize("service", ["iam", "sts", "s3", "kms", "secretsmanager", "ssm"])
def test_a_service_is_read_whole_but_for_its_prose(service):
    ours = new_session(None, None).get_component("data_loader")
    theirs = Loader().load_service_model(service, "service-2")
    assert ours.load_service_model(service, "service-2") == without_prose(theirs)
    assert "documentation" in str(theirs)


CALLS = {
    "iam": "list_users",
    "kms": "list_keys",
    "s3": "list_buckets",
    "secretsmanager": "list_secrets",
    "sqs": "list_queues",
    "ssm": "describe_parameters",
    "sts": "get_caller_identity",
}
PLACES = {
    "false": ("us-east-1", "eu-central-1", "cn-north-1", "us-iso-east-1", "il-new-1"),
    "true": ("us-east-1", "us-gov-west-1"),
}
"""Regions, by whether endpoints as FIPS 140 wants them are used."""


class StoppedError(Exception):
    """A request was stopped before it left."""


def prepared_by(session, service, region):
    """Return where a client's request goes, what it is signed for, and the client's partition."""

    def catch(request, **_):
        raise StoppedError(request)

    client = session.create_client(
        service, region, aws_access_key_id="key", aws_secret_access_key="secret"
    )
    client.meta.events.register("before-send", catch)
    with pytest.raises(StoppedError) as caught:
        getattr(client, CALLS[service])()
    client.close()
    [request] = caught.value.args
    signed = re.search(r"Credential=key/\d+/(\S+),", str(request.headers["Authorization"]))
    return request.url, signed[1], client.meta.partition


@pytest.mark.parametrize("service", CALLS)
@pytest.mark.parametrize("fips", PLACES)
def test_requests_go_where_they_would_and_are_signed_as_they_would(monkeypatch, service, fips):
    monkeypatch.setenv("AWS_USE_FIPS_ENDPOINT", fips)
    ours, theirs = new_session(None, None), Session()
    for region in PLACES[fips]:
        assert prepared_by(ours, service, region) == prepared_by(theirs, service, region)


def test_endpoints_are_not_listed_by_region():
    theirs = Loader().load_data("endpoints")
    ours = new_session(None, None).get_component("data_loader").load_data("endpoints")
    assert len(str(ours)) < len(str(theirs)) / 5


def test_a_member_called_documentation_is_no_prose(tmp_path, monkeypatch):
    folder = tmp_path / "pages" / "2026-01-01"
    folder.mkdir(parents=True)
    written = {"members": {"documentation": {"shape": "Text", "documentation": "prose"}}}
    (folder / "service-2.json.gz").write_bytes(gzip.compress(json.dumps(written).encode()))
    monkeypatch.setenv("AWS_DATA_PATH", str(tmp_path))
    loader = new_session(None, None).get_component("data_loader")
    read = loader.load_service_model("pages", "service-2")
    assert read == {"members": {"documentation": {"shape": "Text", "documentation": ""}}}


def test_a_session_has_the_region_it_is_given(monkeypatch):
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    assert new_session(None, "us-east-2").get_config_variable("region") == "us-east-2"
    assert new_session(None, None).get_config_variable("region") == "eu-west-1"
