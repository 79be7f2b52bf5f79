"""`gcp_secret_manager` against the published API; its assertions are checked with the key."""

import json

import pytest
from described import NEW, OLD, Google, Said, opened, same

from rekeyd.errors import Refused, Transient
from rekeyd.sinks import gcp_secret_manager
from rekeyd.sinks._value import encode

HELD = encode(OLD, "json").encode()


@pytest.fixture
def google(monkeypatch):
    with Google() as server:
        monkeypatch.setenv("GCP_KEY", server.key_file)
        monkeypatch.setattr(gcp_secret_manager, "METADATA", server.address)
        yield server


def sink(google, **more):
    fixed = {"project": "example-backups", "secret": "backup-s3", "credentials": "env:GCP_KEY"}
    return opened("gcp_secret_manager", **{"address": google.address, **fixed, **more})


@pytest.mark.parametrize("where", [{}, {"location": "europe-west3"}, {"credentials": None}])
def test_the_pair_is_one_version_with_a_key_file_or_the_metadata_server(google, where):
    sink(google, **where).check()
    sink(google, **where).put(NEW)

    assert google.writes == 1
    assert same(sink(google, **where).read(), NEW)


def test_older_versions_are_left_alone(google):
    google.versions = [HELD]

    sink(google).put(NEW)

    assert google.versions[0] == HELD


def test_writing_what_is_there_makes_no_version(google):
    google.versions = [HELD]

    sink(google).put(OLD)

    assert google.writes == 0


def test_other_fields_are_carried_into_the_new_version(google):
    google.versions = [b'{"bucket": "b"}']

    sink(google).put(NEW)

    assert json.loads(google.versions[-1])["bucket"] == "b"


@pytest.mark.parametrize("versions", [[], [HELD, None]])
def test_no_version_and_a_disabled_one_hold_no_pair(google, versions):
    google.versions = versions

    assert sink(google).read() is None


@pytest.mark.parametrize("held", [b"\xff\xfe", b"hunter2", b'{"a": "\\ud800"}'])
def test_a_secret_that_holds_something_else_is_not_written_to(google, held):
    google.versions = [held]

    with pytest.raises(Refused, match=r"no text|no pair"):
        sink(google).check()
    with pytest.raises(Refused, match=r"no text|no pair"):
        sink(google).put(NEW)


@pytest.mark.parametrize("right", ["may_read", "may_write", "exists"])
def test_check_finds_a_missing_right_or_secret_before_anything_is_written(google, right):
    setattr(google, right, False)

    with pytest.raises(Refused, match=r"lacks secretmanager\.versions") as caught:
        sink(google).check()

    assert "secretVersionAdder" in caught.value.do
    assert google.writes == 0


def test_a_key_that_google_refuses_is_told_from_an_unreachable_google(google):
    google.accepts_key = False

    with pytest.raises(Refused, match="does not accept the service account"):
        sink(google).read()

    google.stop()
    with pytest.raises(Transient, match="could not be reached"):
        sink(google).read()


@pytest.mark.parametrize(
    "key_file",
    ["no json", "[]", "{}", '{"token_uri": "http://evil.example.com/token"}', "[" * 60_000],
)
def test_a_file_that_is_no_service_account_key_is_refused(google, monkeypatch, key_file):
    monkeypatch.setenv("GCP_KEY", key_file)

    with pytest.raises(Refused, match="no service account key") as caught:
        sink(google).check()

    assert key_file not in str(caught.value)


def test_a_metadata_server_that_is_not_googles_is_not_believed(google):
    google.instead = Said(200, {"access_token": "theirs"})

    with pytest.raises(Transient, match="not Google's"):
        sink(google, credentials=None).read()


def test_a_regional_secret_is_at_a_regional_address():
    settings = gcp_secret_manager.GcpSecretManager(
        type="gcp_secret_manager", project="p", secret="s", location="europe-west3"
    )

    assert settings.endpoint == "https://secretmanager.europe-west3.rep.googleapis.com"
    assert settings.place == "projects/p/locations/europe-west3/secrets/s"
