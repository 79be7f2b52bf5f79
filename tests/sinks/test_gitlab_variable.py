"""`gitlab_variable` against the published API."""

import pytest
from described import NEW, OLD, GitLab, opened, same
from pydantic import ValidationError

from rekeyd.errors import Refused
from rekeyd.sinks._value import encode


@pytest.fixture
def gitlab(monkeypatch):
    with GitLab() as server:
        monkeypatch.setenv("GITLAB_TOKEN", server.token)
        yield server


def sink(gitlab, **more):
    owner = {} if more.keys() & {"group", "project"} else {"project": "example/backups"}
    fixed = {"variable": "BACKUP_S3", "token": "env:GITLAB_TOKEN", "address": gitlab.address}
    return opened("gitlab_variable", **fixed, **owner, **more)


@pytest.mark.parametrize("owner", [{"project": "example/backups"}, {"group": "17"}])
def test_a_variable_that_is_missing_is_made(gitlab, owner):
    assert sink(gitlab, **owner).read() is None

    sink(gitlab, **owner).put(NEW)

    assert gitlab.writes == 1
    assert same(sink(gitlab, **owner).read(), NEW)


def test_the_flags_of_a_new_variable_are_as_asked(gitlab):
    sink(gitlab, masked=True, protected=True).put(NEW)

    made = gitlab.variables["BACKUP_S3", "*"]
    assert (made["masked"], made["protected"], made["raw"]) == (True, True, True)


def test_a_credentials_file_is_a_variable_of_type_file(gitlab):
    sink(gitlab, format="credentials", variable_type="file").put(NEW)

    made = gitlab.variables["BACKUP_S3", "*"]
    assert made["variable_type"] == "file"
    assert made["value"].startswith("[default]\naws_access_key_id = ")


def test_the_flags_of_a_variable_stay_as_they_are(gitlab):
    gitlab.hold(encode(OLD, "json"), masked=True, variable_type="file")
    before = dict(gitlab.variables["BACKUP_S3", "*"])

    sink(gitlab).put(NEW)

    after = gitlab.variables["BACKUP_S3", "*"]
    assert {**after, "value": ""} == {**before, "value": ""}
    assert same(sink(gitlab).read(), NEW)


def test_only_the_variable_of_the_named_environment_is_touched(gitlab):
    gitlab.hold(encode(OLD, "json"), scope="*")
    gitlab.hold(encode(OLD, "json"), scope="production")

    sink(gitlab, environment_scope="production").put(NEW)

    assert same(sink(gitlab).read(), OLD)
    assert same(sink(gitlab, environment_scope="production").read(), NEW)


def test_writing_what_is_there_writes_nothing(gitlab):
    gitlab.hold(encode(OLD, "json"))

    sink(gitlab).put(OLD)

    assert gitlab.writes == 0


def test_a_variable_that_holds_something_else_is_not_overwritten(gitlab):
    gitlab.hold("hunter2")

    for deed in (sink(gitlab).check, lambda: sink(gitlab).put(NEW)):
        with pytest.raises(Refused, match="no pair"):
            deed()

    assert gitlab.writes == 0


def test_a_hidden_variable_is_refused_since_it_cannot_be_read_back(gitlab):
    gitlab.hold(None, hidden=True, masked=True)

    with pytest.raises(Refused, match="hidden"):
        sink(gitlab).check()


@pytest.mark.parametrize("scopes", [["api"], None])
def test_check_is_content_with_the_scope_and_with_an_old_server(gitlab, scopes):
    gitlab.scopes = scopes

    sink(gitlab).check()

    assert gitlab.writes == 0


def test_check_finds_a_token_that_may_only_read(gitlab):
    gitlab.scopes = ["read_api"]

    with pytest.raises(Refused, match="lacks the scope api"):
        sink(gitlab).check()


def test_check_finds_a_role_that_may_not_see_variables(gitlab):
    gitlab.may_read = False

    with pytest.raises(Refused, match="403") as caught:
        sink(gitlab).check()

    assert "Maintainer" in caught.value.do


def test_check_finds_a_masked_variable_that_could_not_take_the_value(gitlab):
    gitlab.hold("", masked=True)

    with pytest.raises(Refused, match="single lines"):
        sink(gitlab, format="credentials").check()


def test_a_wrong_token_is_refused(gitlab, monkeypatch):
    monkeypatch.setenv("GITLAB_TOKEN", "another")

    with pytest.raises(Refused, match="401"):
        sink(gitlab).read()


@pytest.mark.parametrize(
    "wrong", [{"group": "17", "project": "a/b"}, {"masked": True, "format": "env"}]
)
def test_settings_that_contradict_each_other_are_a_mistake(wrong):
    with pytest.raises(ValidationError):
        opened("gitlab_variable", **{"project": "a/b", "variable": "V", "token": "env:T", **wrong})
