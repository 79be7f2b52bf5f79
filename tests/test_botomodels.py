"""What botocore reads of its services: everything that it would read, but no prose."""

import gzip
import json

import pytest
from botocore.loaders import Loader

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
