"""`github_actions_secret` against the published API; the sealed box is opened with the key."""

import json
import sys

import pytest
from described import NEW, GitHub, opened
from pydantic import ValidationError

from rekeyd.errors import Refused, Transient

REPOSITORY = "repos/example/backups/actions"
ENVIRONMENT = "repos/example/backups/environments/live site"
ORGANIZATION = "orgs/example/actions"


@pytest.fixture
def github(monkeypatch):
    with GitHub() as server:
        monkeypatch.setenv("GITHUB_PAT", server.token)
        yield server


def sink(github, **where):
    where = where or {"repository": "example/backups"}
    fixed = {"secret_name": "BACKUP_S3", "token": "env:GITHUB_PAT", "api_url": github.address}
    return opened("github_actions_secret", **{**fixed, **where})


@pytest.mark.parametrize(
    ("where", "owner"),
    [
        ({"repository": "example/backups"}, REPOSITORY),
        ({"repository": "example/backups", "environment": "live site"}, ENVIRONMENT),
        ({"organization": "example"}, ORGANIZATION),
    ],
)
def test_the_pair_is_sealed_into_one_secret(github, where, owner):
    sink(github, **where).check()
    sink(github, **where).put(NEW)

    assert json.loads(github.secrets[f"{owner}/BACKUP_S3"]["value"]) == {
        "AWS_ACCESS_KEY_ID": NEW.key_id,
        "AWS_SECRET_ACCESS_KEY": NEW.secret.reveal(),
    }


def test_the_secret_leaves_the_machine_only_sealed(github):
    sink(github).put(NEW)

    assert not any(NEW.secret.reveal().encode() in heard.body for heard in github.heard)


def test_it_is_write_only_and_says_so(github):
    assert sink(github).readable is False


def test_doing_it_twice_is_the_same_as_once(github):
    sink(github).put(NEW)
    once = dict(github.secrets)
    sink(github).put(NEW)

    assert github.secrets == once


def test_the_visibility_of_an_organizations_secret_is_kept(github):
    known = {"name": "BACKUP_S3", "visibility": "selected"}
    github.secrets[f"{ORGANIZATION}/BACKUP_S3"] = known

    sink(github, organization="example").put(NEW)

    stored = github.secrets[f"{ORGANIZATION}/BACKUP_S3"]
    assert stored["visibility"] == "selected"
    assert stored["selected_repository_ids"] == github.selected


def test_an_organizations_secret_that_is_made_is_private_unless_told(github):
    sink(github, organization="example").put(NEW)
    assert github.secrets[f"{ORGANIZATION}/BACKUP_S3"]["visibility"] == "private"

    github.secrets.clear()
    sink(github, organization="example", visibility="all").put(NEW)
    assert github.secrets[f"{ORGANIZATION}/BACKUP_S3"]["visibility"] == "all"


def test_check_writes_nothing(github):
    sink(github).check()

    assert github.writes == 0
    assert {heard.method for heard in github.heard} == {"GET"}


def test_check_finds_a_token_that_may_not_even_read(github):
    github.may_read = False

    with pytest.raises(Refused, match="403") as caught:
        sink(github).check()

    assert "Secrets: read and write" in caught.value.do


@pytest.mark.parametrize(
    ("where", "scopes", "lacks"),
    [
        ({"repository": "example/backups"}, "gist, read:org", "repo"),
        ({"organization": "example"}, "repo", "admin:org"),
    ],
)
def test_check_finds_a_classic_token_without_the_scope(github, where, scopes, lacks):
    github.scopes = scopes

    with pytest.raises(Refused, match=f"lacks the scope {lacks}"):
        sink(github, **where).check()


@pytest.mark.parametrize("scopes", ["repo, gist", "", None])
def test_check_is_content_with_the_scope_and_with_fine_grained_tokens(github, scopes):
    github.scopes = scopes

    sink(github).check()


def test_a_missing_extra_is_one_clear_line_at_check(github, monkeypatch):
    monkeypatch.setitem(sys.modules, "nacl", None)

    with pytest.raises(Refused, match="PyNaCl is not installed") as caught:
        sink(github).check()

    assert caught.value.do == "pip install 'rekeyd[github]'"


def test_a_key_that_is_none_is_no_key_to_seal_with(github):
    from described import Said

    github.instead = Said(200, {"key": "c2hvcnQ=", "key_id": "1"})

    with pytest.raises(Transient, match="no usable public key"):
        sink(github).put(NEW)


@pytest.mark.parametrize(
    "where",
    [
        {"repository": "example/backups", "organization": "example"},
        {"organization": "example", "environment": "live"},
        {"repository": "backups"},
        {"repository": "example/backups", "secret_name": "github_key"},
    ],
)
def test_an_owner_that_could_not_be_meant_is_a_mistake(github, where):
    with pytest.raises(ValidationError):
        sink(github, **where)
