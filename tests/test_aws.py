"""IAM for one user, and the pair as its consumer uses it, against an embedded AWS."""

import threading
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from botocore.config import Config

from rekeyd.aws import CHANGING, Account, AwsConsumer, AwsIam, probe_key
from rekeyd.config import AwsSettings
from rekeyd.errors import (
    Elsewhere,
    Gone,
    Misconfigured,
    Propagating,
    Refused,
    Transient,
    Unanswered,
)
from rekeyd.secret import AccessPair, Secret

NOBODY = AccessPair("AKIAIOSFODNN7EXAMPLE", Secret("no secret of anybody"))


@pytest.fixture
def calls():
    return []


@pytest.fixture
def account(proxy, calls):
    settings = AwsSettings(region="us-east-1", endpoint_url=proxy.endpoint)
    return Account(settings, lambda *call: calls.append(call[:3]))


@pytest.fixture
def iam(account):
    return AwsIam(account, "backup_user")


def consumer(account, services=("sts", "s3"), user="backup_user", bucket="backup-bucket"):
    return AwsConsumer(account, user, bucket, probe_key("backup_user", "hosts/"), list(services))


def test_a_key_from_its_mint_to_its_deletion(aws, iam):
    new = iam.create_key()
    name = new.pair.key_id

    listing = iam.list_keys()
    assert [(key.id, key.active, key.created) for key in listing.keys] == [
        (name, True, new.created)
    ]
    assert abs(listing.now - datetime.now(UTC)) < timedelta(seconds=10)
    assert iam.last_used(name) is None
    iam.set_active(name, False)
    assert aws.keys() == {name: "Inactive"}
    iam.set_active(name, True)
    assert aws.keys() == {name: "Active"}
    iam.delete_key(name)
    assert abs(iam.delete_key(name) - datetime.now(UTC)) < timedelta(seconds=10)
    assert aws.keys() == {}


def test_without_the_right_to_act_nothing_that_changes_a_key_is_sent(aws, account, proxy):
    def lost():
        raise Elsewhere("another replica has taken over")

    iam = AwsIam(account, "backup_user", lost)
    for change in (
        iam.create_key,
        lambda: iam.set_active(NOBODY.key_id, False),
        lambda: iam.delete_key(NOBODY.key_id),
    ):
        with pytest.raises(Elsewhere):
            change()

    assert iam.list_keys().keys == ()
    assert not set(CHANGING) & set(proxy.calls)


def test_the_right_to_act_is_asked_for_between_the_signing_and_the_sending(account, proxy):
    signed, asked = [], []

    def may_act():
        time.sleep(1.1)
        asked.append(datetime.now(UTC))

    proxy.answered = lambda request, _: signed.append(request.headers["X-Amz-Date"])
    AwsIam(account, "backup_user", may_act).create_key()

    [at], [stamp] = asked, signed
    assert datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC) < at - timedelta(
        seconds=1
    )


def test_every_retry_asks_for_the_right_to_act_again(account, proxy):
    asked = []
    proxy.fail("UpdateAccessKey", "ServiceFailure", 500)

    with pytest.raises(Transient):
        AwsIam(account, "backup_user", lambda: asked.append(1)).set_active(NOBODY.key_id, True)

    assert len(asked) == proxy.calls.count("UpdateAccessKey") == 3


def test_what_does_not_exist_is_gone(aws, iam, account):
    with pytest.raises(Gone):
        iam.set_active("AKIAIOSFODNN7EXAMPLE", False)
    assert iam.user_id() == aws.iam.get_user(UserName="backup_user")["User"]["UserId"]
    assert AwsIam(account, "nobody").user_id() is None


def test_a_mint_is_sent_once(proxy, iam):
    proxy.fail("CreateAccessKey", "ServiceUnavailable", 503)
    with pytest.raises(Unanswered):
        iam.create_key()
    proxy.mend()
    proxy.lost.add("CreateAccessKey")
    with pytest.raises(Unanswered):
        iam.create_key()

    assert proxy.calls.count("CreateAccessKey") == 2


def test_a_mint_whose_answer_lacks_the_secret_was_not_answered(proxy, iam):
    proxy.reply("CreateAccessKey", ANSWER)

    with pytest.raises(Unanswered, match="IAM's answer was incomplete"):
        iam.create_key()


ANSWER = """<CreateAccessKeyResponse xmlns="https://iam.amazonaws.com/doc/2010-05-08/">
<CreateAccessKeyResult><AccessKey><AccessKeyId>AKIA1</AccessKeyId></AccessKey>
</CreateAccessKeyResult></CreateAccessKeyResponse>"""


def test_a_store_that_tells_no_time_is_not_trusted(proxy, iam):
    proxy.timeless = True

    with pytest.raises(Refused, match="tells no time") as refused:
        iam.list_keys()
    assert refused.value.reason == "unsupported"


@pytest.mark.parametrize("date", ["soon", "Mon, 31 Dec 9999 23:59:59 -0100"])
def test_a_store_that_tells_a_time_that_is_none_is_not_trusted(proxy, iam, date):
    proxy.clock = lambda *_: date

    with pytest.raises(Refused, match="tells no time"):
        iam.list_keys()


def test_aws_itself_lacks_nothing(iam):
    assert iam.gaps() == []
    iam.create_key()
    assert iam.gaps() == []


def test_what_a_store_lacks_is_said_and_done_without(proxy, iam):
    for action, answer in BARE.items():
        proxy.reply(action, f"<Response><{action}Result>{answer}</{action}Result></Response>")
    proxy.fail("GetAccessKeyLastUsed", "NotImplemented", 501)

    assert len(iam.gaps()) == 3
    assert iam.user_id() == "backup_user"
    assert [(key.id, key.active, key.created) for key in iam.list_keys().keys] == [
        (NOBODY.key_id, True, None)
    ]
    assert iam.last_used(NOBODY.key_id) is None
    new = iam.create_key()
    assert abs(new.created - datetime.now(UTC)) < timedelta(seconds=10)
    assert new.pair.secret.reveal() == "s"


def test_the_rights_to_retire_are_tried_on_no_key(aws, proxy, iam):
    made = iam.create_key().pair.key_id

    iam.try_retiring()
    assert aws.keys() == {made: "Active"}
    for action, call in (("deactivate", "UpdateAccessKey"), ("delete", "DeleteAccessKey")):
        proxy.fail(call, "AccessDenied", 403)
        with pytest.raises(Refused, match=f"{action} key .* lack iam:{call}"):
            iam.try_retiring()
        proxy.mend()


def test_a_third_key_shows_that_a_store_knows_no_limit(proxy, iam):
    iam.create_key()
    iam.create_key()
    assert iam.gaps() == []

    dated = f"{KEY}<CreateDate>2026-11-01T00:00:00Z</CreateDate>"
    listed = f"<AccessKeyMetadata>{f'<member>{dated}</member>' * 3}</AccessKeyMetadata>"
    proxy.reply("ListAccessKeys", f"<R><ListAccessKeysResult>{listed}</ListAccessKeysResult></R>")

    [gap] = iam.gaps()
    assert "more than two keys" in gap


KEY = f"<AccessKeyId>{NOBODY.key_id}</AccessKeyId><Status>Active</Status>"
BARE = {
    "GetUser": "<User><UserName>backup_user</UserName></User>",
    "ListAccessKeys": f"<AccessKeyMetadata><member>{KEY}</member></AccessKeyMetadata>",
    "CreateAccessKey": f"<AccessKey>{KEY}<SecretAccessKey>s</SecretAccessKey></AccessKey>",
}


def test_a_refused_question_for_the_last_use_is_no_gap(proxy, iam):
    proxy.fail("GetAccessKeyLastUsed", "AccessDenied", 403)

    assert iam.gaps() == []
    with pytest.raises(Refused, match="iam:GetAccessKeyLastUsed"):
        iam.last_used(NOBODY.key_id)


def test_a_store_without_sts_is_asked_nothing_there(proxy):
    settings = AwsSettings(endpoint_url=proxy.endpoint, endpoint_url_sts="none", region="x-y")
    account = Account(settings, lambda *_: None)
    iam = AwsIam(account, "backup_user")

    assert account.caller() is None
    assert not iam.caller_is_root()
    assert "no STS" in iam.gaps()[0]
    assert "GetCallerIdentity" not in proxy.calls


@pytest.mark.parametrize(
    ("code", "status"), [("ServiceUnavailable", 503), ("NotImplemented", 501), ("Unknown", 404)]
)
def test_where_sts_fails_it_is_said_how_to_do_without(proxy, account, code, status):
    proxy.fail("GetCallerIdentity", code, status)

    with pytest.raises((Refused, Unanswered)) as failed:
        account.caller()
    assert "endpoint_url_sts: none" in failed.value.do


def test_credentials_that_sts_refuses_are_no_sign_of_a_missing_sts(proxy, account):
    proxy.fail("GetCallerIdentity", "InvalidClientTokenId", 403)

    with pytest.raises(Refused) as refused:
        account.caller()
    assert "endpoint_url_sts" not in refused.value.do


def test_an_error_in_the_form_of_s3_is_understood_in_iam_too(proxy, iam, calls):
    error = b"<Error><Code>InvalidAccessKeyId</Code><Message>no such key</Message></Error>"
    proxy.rules["GetUser"] = lambda _: (403, error)

    with pytest.raises(Refused) as refused:
        iam.user_id()
    assert refused.value.reason == "credentials"
    assert calls[-1] == ("iam", "GetUser", "InvalidAccessKeyId")


def test_a_pair_is_used_as_a_backup_would(aws, iam, account, calls):
    pair = iam.create_key().pair

    consumer(account).probe(pair)

    used = [(service, operation) for service, operation, code in calls if code == "OK"]
    assert used == [
        ("iam", "CreateAccessKey"),
        ("sts", "GetCallerIdentity"),
        ("s3", "PutObject"),
        ("s3", "GetObject"),
        ("s3", "DeleteObject"),
    ]
    assert "Contents" not in aws.s3.list_objects_v2(Bucket="backup-bucket")


def test_a_pair_that_aws_does_not_know_yet_is_new_and_not_wrong(aws, account, calls):
    aws.enforce()

    for service in ("sts", "s3"):
        with pytest.raises(Propagating, match="AWS does not accept …MPLE"):
            consumer(account, [service]).probe(NOBODY)
    assert {code for _, _, code in calls} == {"InvalidClientTokenId", "InvalidAccessKeyId"}


def test_a_pair_of_another_user_is_refused(account, iam):
    pair = iam.create_key().pair

    with pytest.raises(Refused, match="belongs to another user") as refused:
        consumer(account, ["sts"], user="user").probe(pair)
    assert refused.value.reason == "wrong_user"


def test_a_bucket_that_is_missing_is_named(account, iam):
    pair = iam.create_key().pair

    with pytest.raises(Gone, match="there is no bucket nowhere") as missing:
        consumer(account, ["s3"], bucket="nowhere").probe(pair)
    assert (missing.value.reason, "`policy.bucket`" in missing.value.do) == ("missing", True)


def test_an_object_that_a_store_shows_late_proves_nothing_yet(account, iam, proxy):
    pair = iam.create_key().pair
    proxy.fail("GET", "NoSuchKey", 404)

    with pytest.raises(Transient, match="is not there, and was put a moment ago"):
        consumer(account, ["s3"]).probe(pair)


def test_an_object_that_comes_back_otherwise_proves_nothing(account, iam, proxy):
    pair = iam.create_key().pair
    proxy.reply("GET", "what was there before")

    with pytest.raises(Transient, match="was not read as it was written"):
        consumer(account, ["s3"]).probe(pair)


class Breaking(BaseHTTPRequestHandler):
    """An S3 whose objects end or stall in their middle."""

    protocol_version = "HTTP/1.1"
    stall = 0.0

    def log_message(self, *_):
        pass

    def do_PUT(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "32")
        self.end_headers()
        self.wfile.write(b"0123456789")
        time.sleep(self.stall)
        self.close_connection = True


@pytest.mark.parametrize("stall", [0.0, 0.6])
def test_an_object_that_breaks_off_proves_nothing_yet(aws, monkeypatch, stall):
    monkeypatch.setattr("rekeyd.aws.ONCE", Config(read_timeout=0.3))
    monkeypatch.setattr(Breaking, "stall", stall)
    with ThreadingHTTPServer(("127.0.0.1", 0), Breaking) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        settings = AwsSettings(
            region="us-east-1", endpoint_url=f"http://127.0.0.1:{server.server_port}"
        )
        try:
            with pytest.raises(Transient, match="could not get as the backup user"):
                consumer(Account(settings, lambda *_: None), ["s3"]).probe(NOBODY)
        finally:
            server.shutdown()
            thread.join()


def test_a_role_is_assumed_with_its_external_id(aws, proxy, calls):
    trust = '{"Version": "2012-10-17", "Statement": []}'
    role = aws.iam.create_role(RoleName="Rotator", AssumeRolePolicyDocument=trust)["Role"]["Arn"]
    settings = AwsSettings(
        region="us-east-1",
        role_arn=role,
        external_id="backup-7f3a",
        endpoint_url=proxy.endpoint,
        endpoint_url_iam=aws.endpoint,
    )
    account = Account(settings, lambda *call: calls.append(call))

    assert account.caller().endswith(":assumed-role/Rotator/rekeyd")
    assert proxy.calls == ["AssumeRole", "GetCallerIdentity"]
    assert {call[1] for call in calls} == {"AssumeRole", "GetCallerIdentity"}
    assert AwsIam(account, "backup_user").user_id()
    assert "GetUser" not in proxy.calls


def test_a_profile_that_is_not_there_is_a_mistake(aws):
    account = Account(AwsSettings(profile="nobody"), lambda *_: None)

    with pytest.raises(Misconfigured, match="ProfileNotFound"):
        account.client("iam")


def test_an_address_that_is_none_is_a_mistake(aws, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "localhost:4566")
    account = Account(AwsSettings(region="us-east-1"), lambda *_: None)

    for act in (lambda: account.client("iam"), lambda: consumer(account).probe(NOBODY)):
        with pytest.raises(Misconfigured, match=r"AWS settings cannot be used \(ValueError\)"):
            act()


def test_a_region_that_comes_late_is_found(aws, monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    account = Account(AwsSettings(), lambda *_: None)

    with pytest.raises(Misconfigured, match="NoRegionError"):
        account.client("kms")
    (tmp_path / "config").write_text("[default]\nregion = eu-west-1\n")

    account.client("kms").close()


def test_the_probe_lies_in_the_folder_that_the_policy_allows():
    assert probe_key("backup_user", None) == ".rekeyd/probe-backup_user"
    assert probe_key("backup_user", "hosts/db1") == "hosts/db1/.rekeyd/probe-backup_user"
