"""`vault_kv2` against the published API; tests/e2e/test_openbao.py does it with a real server."""

import pytest
from described import NEW, OLD, Vault, opened, same

from rekeyd.errors import Refused, Transient

FIELDS = {"AWS_ACCESS_KEY_ID": OLD.key_id, "AWS_SECRET_ACCESS_KEY": OLD.secret.reveal()}


@pytest.fixture
def vault(monkeypatch):
    with Vault() as server:
        monkeypatch.setenv("VAULT_TOKEN", server.token)
        yield server


def sink(vault, **more):
    auth = {"method": "token", "token": "env:VAULT_TOKEN"}
    return opened(
        "vault_kv2", **{"address": vault.address, "path": "backup/s3", "auth": auth, **more}
    )


def test_both_halves_are_one_version(vault):
    sink(vault).put(NEW)

    assert len(vault.versions) == 1
    assert vault.held == {
        "AWS_ACCESS_KEY_ID": NEW.key_id,
        "AWS_SECRET_ACCESS_KEY": NEW.secret.reveal(),
    }
    assert same(sink(vault).read(), NEW)


def test_other_fields_stay_and_names_can_be_chosen(vault):
    vault.versions = [{"bucket": "b", "id": "x"}]
    chosen = sink(vault, fields={"id": "id", "secret": "key"})

    chosen.put(NEW)

    assert vault.held == {"bucket": "b", "id": NEW.key_id, "key": NEW.secret.reveal()}
    assert same(chosen.read(), NEW)


def test_writing_what_is_there_makes_no_version(vault):
    vault.versions = [FIELDS]

    sink(vault).put(OLD)

    assert vault.writes == 0


def test_nothing_and_a_deleted_version_hold_no_pair(vault):
    assert sink(vault).read() is None

    vault.versions = [FIELDS, None]
    assert sink(vault).read() is None

    sink(vault).put(NEW)
    assert same(sink(vault).read(), NEW)


def test_a_write_by_somebody_else_at_the_same_moment_is_not_lost(vault):
    vault.versions = [{"bucket": "b"}]
    vault.before_write = lambda: vault.versions.append({"bucket": "theirs"})

    with pytest.raises(Transient, match="same moment"):
        sink(vault).put(NEW)

    assert vault.held == {"bucket": "theirs"}


@pytest.mark.parametrize("versions", [[], [FIELDS]])
@pytest.mark.parametrize(("right", "says"), [("may_write", "may not"), ("may_read", "read")])
def test_check_finds_a_missing_right_before_anything_is_written(vault, versions, right, says):
    vault.versions = versions
    setattr(vault, right, False)

    with pytest.raises(Refused, match=says) as caught:
        sink(vault).check()

    assert "create, read and update on secret/data/backup/s3" in caught.value.do
    assert vault.writes == 0


def test_check_is_content_with_the_least_rights_and_writes_nothing(vault):
    sink(vault).check()

    assert vault.writes == 0


@pytest.mark.parametrize(
    "engine", [{"type": "kv", "options": {"version": "1"}}, {"type": "kv"}, {"type": "transit"}]
)
def test_check_refuses_an_engine_that_is_not_kv_version_2(vault, engine):
    vault.engine = engine

    with pytest.raises(Refused, match="no KV engine of version 2"):
        sink(vault).check()


def test_a_sealed_vault_is_told_from_a_refused_token(vault):
    vault.sealed = True

    with pytest.raises(Transient, match="sealed"):
        sink(vault).read()


def test_a_wrong_token_is_refused(vault, monkeypatch):
    monkeypatch.setenv("VAULT_TOKEN", "another")

    with pytest.raises(Refused, match="403"):
        sink(vault).read()


def test_a_namespace_goes_with_every_request(vault):
    vault.namespace = "team-a"

    sink(vault, namespace="team-a").put(NEW)

    assert vault.writes == 1


def test_approle_signs_in_with_a_secret_id_from_a_file(vault, tmp_path):
    file = tmp_path / "secret-id"
    file.write_text("the-right-one\n")
    auth = {"method": "approle", "role_id": "3f6c", "secret_id": f"file:{file}"}

    sink(vault, auth=auth).put(NEW)

    assert vault.logins[0] == {"role_id": "3f6c", "secret_id": "the-right-one"}
    assert vault.writes == 1


def test_kubernetes_signs_in_with_the_pods_token(vault, tmp_path):
    file = tmp_path / "token"
    file.write_text("the-right-one")
    auth = {"method": "kubernetes", "role": "rekeyd", "jwt": f"file:{file}"}

    assert sink(vault, auth=auth).read() is None
    assert vault.logins[0] == {"role": "rekeyd", "jwt": "the-right-one"}


def test_a_wrong_secret_id_is_refused_unseen(vault, monkeypatch):
    monkeypatch.setenv("SECRET_ID", "a-wr0ng-one")
    auth = {"method": "approle", "role_id": "3f6c", "secret_id": "env:SECRET_ID"}

    with pytest.raises(Refused, match="approle login") as caught:
        sink(vault, auth=auth).check()

    assert "a-wr0ng-one" not in str(caught.value) + caught.value.do


def test_its_name_says_where_it_is(vault):
    host = vault.address
    assert sink(vault).name == f"vault_kv2:{host}/secret/backup/s3"
    assert sink(vault, namespace="a/").name == f"vault_kv2:{host}/a/secret/backup/s3"
