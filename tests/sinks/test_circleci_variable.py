"""`circleci_variable` against the published API."""

import json

import pytest
from described import NEW, CircleCI, opened
from pydantic import ValidationError

from rekeyd.errors import Refused

OWNERS = [
    {"project": "gh/example/backups"},
    {"context": "6f2e2f0c-0000-4000-8000-000000000001"},
]


@pytest.fixture
def circleci(monkeypatch):
    with CircleCI() as server:
        monkeypatch.setenv("CIRCLE_TOKEN", server.token)
        yield server


def sink(circleci, **owner):
    fixed = {"variable": "BACKUP_S3", "token": "env:CIRCLE_TOKEN", "address": circleci.address}
    return opened("circleci_variable", **fixed, **owner)


@pytest.mark.parametrize("owner", OWNERS)
def test_the_pair_is_one_variable(circleci, owner):
    sink(circleci, **owner).put(NEW)

    assert json.loads(circleci.variables["BACKUP_S3"]) == {
        "AWS_ACCESS_KEY_ID": NEW.key_id,
        "AWS_SECRET_ACCESS_KEY": NEW.secret.reveal(),
    }


@pytest.mark.parametrize("owner", OWNERS)
def test_doing_it_twice_is_the_same_as_once(circleci, owner):
    sink(circleci, **owner).put(NEW)
    once = dict(circleci.variables)
    sink(circleci, **owner).put(NEW)

    assert circleci.variables == once


@pytest.mark.parametrize("owner", OWNERS)
def test_check_writes_nothing(circleci, owner):
    sink(circleci, **owner).check()

    assert circleci.writes == 0


@pytest.mark.parametrize("owner", OWNERS)
def test_check_finds_a_project_that_the_token_may_not_see(circleci, owner):
    circleci.may_read = False

    with pytest.raises(Refused, match="403"):
        sink(circleci, **owner).check()


def test_a_wrong_token_is_refused(circleci, monkeypatch):
    monkeypatch.setenv("CIRCLE_TOKEN", "another")

    with pytest.raises(Refused, match="401"):
        sink(circleci, **OWNERS[0]).put(NEW)


def test_it_is_write_only_and_says_so(circleci):
    assert sink(circleci, **OWNERS[0]).readable is False


@pytest.mark.parametrize("owner", [{}, {**OWNERS[0], **OWNERS[1]}, {"project": "example/backups"}])
def test_an_owner_that_could_not_be_meant_is_a_mistake(circleci, owner):
    with pytest.raises(ValidationError):
        sink(circleci, **owner)
