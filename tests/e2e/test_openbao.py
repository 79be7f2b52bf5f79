"""`vault_kv2` against a real OpenBao: policies, AppRole, check-and-set, KV versions, the seal."""

import json
import urllib.error

import pytest
from bao import LEAST, PATH, ROOT, openbao

from rekeyd.errors import Refused, RekeydError, Transient
from rekeyd.secret import AccessPair, Secret
from rekeyd.sinks import settings_class
from rekeyd.sinks.base import SinkContext

pytestmark = pytest.mark.e2e

OLD = AccessPair("AKIAOLDOLDOLDOLDOLD1", Secret("old/sEcret+0000000000000000000000000000"))
NEW = AccessPair("AKIANEWNEWNEWNEWNEW2", Secret("new/sEcret+1111111111111111111111111111"))


@pytest.fixture
def bao(tmp_path):
    with openbao(tmp_path) as server:
        yield server


def sink(bao, monkeypatch, token=None, **more):
    monkeypatch.setenv("BAO_TOKEN", token or bao.token(LEAST))
    auth = {"method": "token", "token": "env:BAO_TOKEN"}
    given = {"type": "vault_kv2", "address": bao.address, "path": "backup/s3", "auth": auth, **more}
    settings = settings_class("vault_kv2").model_validate(given)
    return settings.open(SinkContext("backup_user", lambda *_: None))


def test_a_whole_rotation_with_the_least_policy(bao, monkeypatch):
    ours = sink(bao, monkeypatch)
    assert ours.read() is None

    for pair in (OLD, NEW):
        ours.check()
        ours.put(pair)
        assert ours.read().fingerprint() == pair.fingerprint()

    assert bao.version() == 2


def test_other_fields_stay_and_a_repetition_makes_no_version(bao, monkeypatch):
    bao.ask("POST", PATH, {"data": {"bucket": "b"}})
    ours = sink(bao, monkeypatch)

    ours.put(NEW)
    ours.put(NEW)

    assert bao.fields()["bucket"] == "b"
    assert bao.version() == 2


def test_a_deleted_version_holds_no_pair_and_takes_one(bao, monkeypatch):
    ours = sink(bao, monkeypatch)
    ours.put(OLD)
    bao.ask("DELETE", PATH)

    assert ours.read() is None
    ours.check()
    ours.put(NEW)

    assert ours.read().fingerprint() == NEW.fingerprint()


def test_a_mount_that_requires_check_and_set_is_served(bao, monkeypatch):
    bao.ask("POST", "secret/config", {"cas_required": True})

    sink(bao, monkeypatch).put(NEW)

    assert bao.version() == 1


def test_somebody_elses_write_between_look_and_put_is_not_lost(bao, monkeypatch):
    ours = sink(bao, monkeypatch)
    genuine = type(ours)._entry
    entries = []

    def meddled(self, headers):
        entries.append(genuine(self, headers))
        if len(entries) == 1:
            bao.ask("POST", PATH, {"data": {"bucket": "theirs"}})
        return entries[-1]

    monkeypatch.setattr(type(ours), "_entry", meddled)

    with pytest.raises(Transient, match="same moment"):
        ours.put(NEW)
    assert bao.fields() == {"bucket": "theirs"}


@pytest.mark.parametrize(
    ("held", "capabilities", "lacks"),
    [
        (False, ["read", "update"], "create"),
        (True, ["create", "read"], "update"),
        (True, ["create", "update"], "read"),
        (False, ["deny"], "read"),
    ],
)
def test_check_finds_each_missing_capability(bao, monkeypatch, held, capabilities, lacks):
    if held:
        bao.ask("POST", PATH, {"data": {"bucket": "b"}})
    policy = f'path "{PATH}" {{ capabilities = {json.dumps(capabilities)} }}'
    ours = sink(bao, monkeypatch, bao.token(policy))

    with pytest.raises(Refused, match=lacks) as caught:
        ours.check()

    assert PATH in str(caught.value) + caught.value.do


def test_check_finds_kv_version_1_and_a_mount_that_is_not_there(bao, monkeypatch):
    bao.ask("POST", "sys/mounts/old", {"type": "kv", "options": {"version": "1"}})

    with pytest.raises(Refused, match="no KV engine of version 2"):
        sink(bao, monkeypatch, ROOT, mount="old").check()
    with pytest.raises(Refused):
        sink(bao, monkeypatch, ROOT, mount="absent").check()


def test_an_expired_token_is_refused(bao, monkeypatch):
    token = bao.token(LEAST)
    ours = sink(bao, monkeypatch, token)
    ours.check()
    bao.ask("POST", "auth/token/revoke", {"token": token})

    with pytest.raises(Refused, match="403"):
        ours.read()


def test_approle_signs_in_and_a_destroyed_secret_id_is_refused(bao, monkeypatch, tmp_path):
    bao.token(LEAST)
    bao.ask("POST", "sys/auth/approle", {"type": "approle"})
    role = {"token_policies": "of-the-test", "token_ttl": "5m", "token_type": "batch"}
    bao.ask("POST", "auth/approle/role/rekeyd", role)
    role_id = bao.ask("GET", "auth/approle/role/rekeyd/role-id")["data"]["role_id"]
    secret_id = bao.ask("POST", "auth/approle/role/rekeyd/secret-id")["data"]["secret_id"]
    file = tmp_path / "secret-id"
    file.write_text(secret_id)
    auth = {"method": "approle", "role_id": role_id, "secret_id": f"file:{file}"}
    ours = sink(bao, monkeypatch, auth=auth)

    ours.check()
    ours.put(NEW)
    assert ours.read().fingerprint() == NEW.fingerprint()

    bao.ask("POST", "auth/approle/role/rekeyd/secret-id/destroy", {"secret_id": secret_id})
    with pytest.raises(Refused, match="approle login"):
        ours.read()


def test_a_namespace_keeps_its_own_entry(bao, monkeypatch):
    bao.ask("POST", "sys/namespaces/team", {})
    bao.ask("POST", "team/sys/mounts/secret", {"type": "kv", "options": {"version": "2"}})

    ours = sink(bao, monkeypatch, ROOT, namespace="team")
    ours.check()
    ours.put(NEW)

    assert bao.ask("GET", f"team/{PATH}")["data"]["data"]["AWS_ACCESS_KEY_ID"] == NEW.key_id
    with pytest.raises(urllib.error.HTTPError):
        bao.ask("GET", PATH)


def test_a_sealed_server_is_told_from_a_refused_token(bao, monkeypatch):
    ours = sink(bao, monkeypatch)
    bao.ask("POST", "sys/seal")

    for deed in (ours.check, ours.read, lambda: ours.put(NEW)):
        with pytest.raises(Transient, match="sealed"):
            deed()


def test_no_error_shows_the_secret_or_the_token(bao, monkeypatch):
    token = bao.token(f'path "{PATH}" {{ capabilities = ["read"] }}')

    with pytest.raises(RekeydError) as caught:
        sink(bao, monkeypatch, token).put(NEW)

    told = repr(caught.value) + caught.value.do
    assert NEW.secret.reveal() not in told
    assert token not in told
