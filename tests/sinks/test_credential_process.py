"""A JSON file that is one pair."""

import json

import pytest
from cases_files import opened
from contract import NEW

from rekeyd.errors import Refused


@pytest.fixture
def path(tmp_path):
    return tmp_path / "pair.json"


def test_the_file_is_in_the_format_of_the_sdks(path):
    opened("credential_process", path).put(NEW)
    assert json.loads(path.read_text()) == {
        "Version": 1,
        "AccessKeyId": NEW.key_id,
        "SecretAccessKey": NEW.secret.reveal(),
    }


@pytest.mark.parametrize("text", ["", "\n", '{"Version": 1}', '{"Version": 1, "AccessKeyId": 7}'])
def test_a_file_without_a_pair_holds_none(path, text):
    path.write_text(text)
    assert opened("credential_process", path).read() is None


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"Version": 2}', "[default]"])
def test_a_file_of_somebody_elses_is_not_overwritten(path, text):
    path.write_text(text)
    sink = opened("credential_process", path)
    for refused in (sink.read, sink.check, lambda: sink.put(NEW)):
        with pytest.raises(Refused, match=r"is not"):
            refused()
    assert path.read_text() == text
