"""The contract of all sinks, kept against servers that nobody here wrote.

The daemon signs in with the rights that the sink's documentation asks for, and with no more.
"""

import inspect
import json
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from bao import LEAST, PATH, openbao
from botocore.exceptions import ClientError
from stores import Ministack, Moto, SeaweedFS

from rekeyd.errors import Refused
from rekeyd.policy import Grant, document
from rekeyd.secret import AccessPair, Secret
from rekeyd.sinks import settings_class
from rekeyd.sinks.base import SinkContext

sys.path.insert(0, str(Path(__file__).parents[1] / "sinks"))

import test_contract
from cases_aws import pair, parameter, secret, stored
from contract import Place

pytestmark = pytest.mark.e2e

IN_AWS = {
    "secrets_manager": ("secretsmanager", secret, {"secret_id": "backup/s3"}),
    "ssm_parameter": ("ssm", parameter, {"parameter": "/backup/s3"}),
    "s3_object": ("s3", stored, {"bucket": "settings", "key": "backup.json"}),
}
FORGET = {
    "secrets_manager": lambda client: client.delete_secret(
        SecretId="backup/s3", ForceDeleteWithoutRecovery=True
    ),
    "ssm_parameter": lambda client: client.delete_parameter(Name="/backup/s3"),
    "s3_object": lambda client: client.delete_object(Bucket="settings", Key="backup.json"),
}
WRITES = {"secretsmanager:PutSecretValue", "ssm:PutParameter", "s3:PutObject"}
STORES = {"moto": Moto, "ministack": Ministack, "seaweedfs": SeaweedFS}
PLACES = [
    *("s3_object on moto", "s3_object on seaweedfs", "s3_object on ministack"),
    *("secrets_manager on ministack", "ssm_parameter on ministack", "vault_kv2 on openbao"),
]
PROMISES = {
    name.removeprefix("test_"): promise
    for name, promise in vars(test_contract).items()
    if name.startswith("test_") and "place" in inspect.signature(promise).parameters
}


class InAws:
    """A sink in a store, and the user as whom the daemon works: with the rights it asks for."""

    def __init__(self, kind, store):
        service, self._view, given = IN_AWS[kind]
        self._kind, self._store = kind, store
        self._settings = settings_class(kind)(type=kind, **given)
        self._grants = self._settings.permissions("aws")
        self._administrator = store.client(service)
        store.s3.create_bucket(Bucket="settings")
        store.iam.create_user(UserName="daemon")
        key = store.iam.create_access_key(UserName="daemon")["AccessKey"]
        self._pair = key["AccessKeyId"], key["SecretAccessKey"]
        self.ignores_conditions = False

    @contextmanager
    def place(self):
        self._allow(self._grants)
        yield Place(
            open=lambda: self._settings.open(SinkContext("backup_user", self._client)),
            consumer=lambda: pair(self._look()),
            look=self._look,
            deny=self._deny,
        )
        with suppress(ClientError):
            FORGET[self._kind](self._administrator)

    def stop(self):
        self._administrator.close()
        self._store.stop()

    def _client(self, service, region):
        client = self._store.client(service, self._pair)
        if self.ignores_conditions:
            client.meta.events.register("before-call.s3.PutObject", without_condition)
        return client

    def _look(self):
        try:
            return self._view(self._administrator)
        except ClientError:
            return None

    def _deny(self):
        left = [([a for a in g.actions if a not in WRITES], g.resource) for g in self._grants]
        self._allow([Grant(some, resource) for some, resource in left if some])

    def _allow(self, grants):
        self._store.iam.put_user_policy(
            UserName="daemon", PolicyName="sink", PolicyDocument=json.dumps(document(grants))
        )


def without_condition(params, **_):
    """Ask as if the store knew no conditional writes, which S3 has had since 2024."""
    params["headers"].pop("If-Match")


class InOpenBao:
    """`vault_kv2` with a token of the policy that its documentation asks for."""

    def __init__(self, server):
        self._server = server

    @contextmanager
    def place(self):
        token = self._server.token(LEAST)
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("BAO_TOKEN", token)
            yield Place(
                open=self._open,
                consumer=self._consumer,
                look=self._look,
                deny=lambda: self._server.allow(f'path "{PATH}" {{ capabilities = ["read"] }}'),
            )
        self._server.ask("DELETE", PATH.replace("/data/", "/metadata/"))

    def _open(self):
        auth = {"method": "token", "token": "env:BAO_TOKEN"}
        where = {"address": self._server.address, "path": "backup/s3"}
        settings = settings_class("vault_kv2")(type="vault_kv2", auth=auth, **where)
        return settings.open(SinkContext("backup_user", lambda *_: None))

    def _look(self):
        try:
            return self._server.fields(), self._server.version()
        except OSError:
            return None

    def _consumer(self):
        found = self._look()
        return found and AccessPair(
            found[0]["AWS_ACCESS_KEY_ID"], Secret(found[0]["AWS_SECRET_ACCESS_KEY"])
        )


@pytest.fixture(scope="module", params=PLACES)
def server(request, tmp_path_factory):
    kind, _, name = request.param.partition(" on ")
    folder = tmp_path_factory.mktemp(name)
    if name == "openbao":
        with openbao(folder) as bao:
            yield InOpenBao(bao)
        return
    given = () if name == "moto" else (request.getfixturevalue("programs"), folder)
    started = InAws(kind, STORES[name](*given))
    yield started
    started.stop()


@pytest.fixture
def place(server):
    with server.place() as opened:
        yield opened


@pytest.mark.parametrize("promise", PROMISES)
def test_every_promise_is_kept(place, promise):
    PROMISES[promise](place)


@pytest.mark.parametrize(
    "server", ["s3_object on seaweedfs", "s3_object on ministack"], indirect=True
)
def test_a_store_without_conditional_writes_is_written_nothing_by_check(server, place):
    server.ignores_conditions = True
    place.open().check()
    assert place.look() is None

    place.deny()
    with pytest.raises(Refused):
        place.open().check()
    assert place.look() is None
    server.ignores_conditions = False
