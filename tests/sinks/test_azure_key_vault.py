"""`azure_key_vault` against the published API."""

import pytest
from described import NEW, OLD, Azure, opened, same

from rekeyd.errors import Refused, Transient
from rekeyd.sinks import azure_key_vault
from rekeyd.sinks._value import encode


@pytest.fixture
def azure(monkeypatch):
    with Azure() as server:
        monkeypatch.setenv("CLIENT_SECRET", server.client_secret)
        monkeypatch.setattr(azure_key_vault, "METADATA", server.address)
        yield server


def sink(azure, **auth):
    signing_in = {
        "method": "client_secret",
        "tenant": "contoso.example",
        "client_id": "11111111-2222",
        "client_secret": "env:CLIENT_SECRET",
        "authority": azure.address,
    }
    return opened(
        "azure_key_vault", vault=azure.address, secret="backup-s3", auth=auth or signing_in
    )


@pytest.mark.parametrize(
    "auth", [{}, {"method": "managed_identity"}, {"method": "managed_identity", "client_id": "7"}]
)
def test_the_pair_is_one_version_by_client_secret_or_managed_identity(azure, auth):
    sink(azure, **auth).check()
    sink(azure, **auth).put(NEW)

    assert azure.writes == 1
    assert same(sink(azure, **auth).read(), NEW)


def test_content_type_and_tags_are_carried_over(azure):
    azure.versions = [
        {"value": encode(OLD, "json"), "contentType": "application/json", "tags": {"team": "s"}}
    ]

    sink(azure).put(NEW)

    newest = azure.versions[-1]
    assert (newest["contentType"], newest["tags"]) == ("application/json", {"team": "s"})


def test_writing_what_is_there_makes_no_version(azure):
    azure.versions = [{"value": encode(OLD, "json")}]

    sink(azure).put(OLD)

    assert azure.writes == 0


def test_a_secret_that_is_missing_holds_no_pair(azure):
    assert sink(azure).read() is None


def test_a_secret_that_holds_something_else_is_not_written_to(azure):
    azure.versions = [{"value": "hunter2"}]

    for deed in (sink(azure).check, lambda: sink(azure).put(NEW)):
        with pytest.raises(Refused, match="no pair"):
            deed()


def test_check_writes_nothing_and_finds_a_missing_right_to_read(azure):
    azure.may_read = False

    with pytest.raises(Refused, match="403") as caught:
        sink(azure).check()

    assert "Get and Set" in caught.value.do
    assert azure.writes == 0


def test_a_secret_that_was_deleted_and_not_purged_says_so(azure):
    azure.deleted = True

    with pytest.raises(Refused, match="deleted and not purged"):
        sink(azure).put(NEW)


def test_a_wrong_client_secret_is_told_from_an_unreachable_host(azure, monkeypatch):
    monkeypatch.setenv("CLIENT_SECRET", "a-wr0ng-one")
    with pytest.raises(Refused, match="does not accept the sign-in") as caught:
        sink(azure).read()
    assert "a-wr0ng-one" not in str(caught.value) + caught.value.do

    azure.stop()
    with pytest.raises(Transient, match="could not be reached"):
        sink(azure).read()
