"""The daemon's own credentials, from each place that deploy/README.md offers for them."""

import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from processes import OPERATOR_ACTIONS, EmbeddedAws, Proxy, free_port, running
from rekeyd.aws import Account, AwsConsumer, AwsIam
from rekeyd.botomodels import new_session
from rekeyd.config import AwsSettings
from rekeyd.errors import Propagating, Refused, RekeydError, Transient
from rekeyd.secret import AccessPair, Secret

ROLE = "Rotator"
ARN = f"arn:aws:iam::123456789012:role/{ROLE}"
TOKEN = "a token of the service account"
ROLE_PATH = "/latest/meta-data/iam/security-credentials/"


@pytest.fixture
def cloud(aws: EmbeddedAws, monkeypatch: pytest.MonkeyPatch) -> EmbeddedAws:
    """An AWS in which the role may rotate, and this process has no credentials."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    statement = {"Effect": "Allow", "Action": list(OPERATOR_ACTIONS), "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    aws.iam.create_role(RoleName=ROLE, AssumeRolePolicyDocument=document)
    aws.iam.put_role_policy(RoleName=ROLE, PolicyName="rights", PolicyDocument=document)
    return aws


def temporary(aws: EmbeddedAws, token: str) -> dict[str, str]:
    """Return credentials of the role, under the names that all but IMDS share for them."""
    made = aws.sts.assume_role(RoleArn=ARN, RoleSessionName="daemon")["Credentials"]
    until = datetime.now(UTC) + timedelta(hours=1)
    return {
        "AccessKeyId": made["AccessKeyId"],
        "SecretAccessKey": made["SecretAccessKey"],
        token: made["SessionToken"],
        "Expiration": f"{until:%Y-%m-%dT%H:%M:%SZ}",
    }


@contextmanager
def serving(answers: dict[tuple[str, str], str], header: str, port: int = 0) -> Iterator[str]:
    """Answer on loopback as an agent of AWS's does, those that know the token."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def answer(self) -> None:
            known = self.command == "PUT" or self.headers.get(header) == TOKEN
            found = answers.get((self.command, self.path)) if known else None
            body = (found or "").encode()
            self.send_response(200 if found else 401)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = answer  # noqa: N815

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def instance_role(aws: EmbeddedAws, _: Path) -> Iterator[dict[str, str]]:
    """IMDSv2: a token first, then the role of the instance, then its credentials."""
    document = {"Code": "Success", "Type": "AWS-HMAC", **temporary(aws, "Token")}
    document["LastUpdated"] = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    answers = {
        ("PUT", "/latest/api/token"): TOKEN,
        ("GET", ROLE_PATH): ROLE,
        ("GET", ROLE_PATH + ROLE): json.dumps(document),
    }
    with serving(answers, "X-aws-ec2-metadata-token") as address:
        yield {
            "AWS_EC2_METADATA_DISABLED": "false",
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": address,
        }


@contextmanager
def pod_identity(aws: EmbeddedAws, folder: Path) -> Iterator[dict[str, str]]:
    """EKS Pod Identity: an agent on the node, asked with the token of the service account."""
    (folder / "token").write_text(TOKEN)
    answers = {("GET", "/v1/credentials"): json.dumps(temporary(aws, "Token"))}
    with serving(answers, "Authorization") as address:
        yield {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{address}/v1/credentials",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(folder / "token"),
        }


@contextmanager
def irsa(aws: EmbeddedAws, folder: Path) -> Iterator[dict[str, str]]:
    """IRSA: the token of the service account, which STS takes for credentials of the role."""
    (folder / "token").write_text(TOKEN)
    yield {
        "AWS_ROLE_ARN": ARN,
        "AWS_WEB_IDENTITY_TOKEN_FILE": str(folder / "token"),
        "AWS_ENDPOINT_URL_STS": aws.endpoint,
    }


@contextmanager
def roles_anywhere(aws: EmbeddedAws, folder: Path) -> Iterator[dict[str, str]]:
    """IAM Roles Anywhere: a profile whose `credential_process` prints credentials of the role."""
    helper = folder / "aws_signing_helper"
    shown = json.dumps({"Version": 1, **temporary(aws, "SessionToken")})
    helper.write_text(f"#!{sys.executable}\nprint({shown!r})\n")
    helper.chmod(0o700)
    (folder / "aws").write_text(f"[profile rotator]\ncredential_process = {helper}\n")
    yield {"AWS_CONFIG_FILE": str(folder / "aws")}


Source = Callable[[EmbeddedAws, Path], Any]


@pytest.mark.parametrize("source", [instance_role, pod_identity, irsa, roles_anywhere])
def test_the_daemon_rotates_with_credentials_from(
    source: Source, cloud: EmbeddedAws, config: Any, tmp_path: Path
) -> None:
    profile = {"profile": "rotator"} if source is roles_anywhere else {}
    config(top={"aws": config.plain["aws"] | profile})
    with source(cloud, tmp_path) as environment:
        if source is not irsa:  # moto would have that call signed, which is made to get credentials
            cloud.enforce()
        with running(config.path, environment) as daemon:
            daemon.expect("rotated")
            assert daemon.stop() == 0


# Credentials that come late, or change


NO_STS = {"endpoint_url_sts": "none"}
PAIR = "aws_access_key_id = {}\naws_secret_access_key = secret\n"


@contextmanager
def late_file(files: Path, _: EmbeddedAws) -> Iterator[None]:
    (files / "credentials").write_text("[default]\n" + PAIR.format("LATTER"))
    yield


@contextmanager
def late_profile(files: Path, _: EmbeddedAws) -> Iterator[None]:
    (files / "config").write_text("[default]\n" + PAIR.format("LATTER"))
    yield


@contextmanager
def late_program(files: Path, _: EmbeddedAws) -> Iterator[None]:
    shown = json.dumps({"Version": 1, "AccessKeyId": "LATTER", "SecretAccessKey": "secret"})
    (files / "program").write_text(f"#!{sys.executable}\nprint({shown!r})\n")
    (files / "program").chmod(0o700)
    yield


@contextmanager
def late_agent(files: Path, aws: EmbeddedAws) -> Iterator[None]:
    answers = {("GET", "/credentials"): json.dumps(temporary(aws, "Token"))}
    port = int((files / "port").read_text())
    (files / "token").write_text(TOKEN)
    with serving(answers, "Authorization", port):
        yield


Late = Callable[[Path, EmbeddedAws], Any]


@pytest.fixture
def files(cloud: EmbeddedAws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder for the files of AWS's tools, which are not there yet."""
    del cloud
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    return tmp_path


@pytest.fixture(params=[late_file, late_profile, late_program, late_agent])
def source(request: Any, files: Path, monkeypatch: pytest.MonkeyPatch) -> Late:
    """What gives credentials later, announced where it has to be."""
    source: Late = request.param
    if source is late_program:
        (files / "config").write_text(f"[default]\ncredential_process = {files}/program\n")
    if source is late_agent:
        port = str(free_port())
        (files / "port").write_text(port)
        address = f"http://127.0.0.1:{port}/credentials"
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", address)
        monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(files / "token"))
    return source


def account(endpoint: str, **more: Any) -> Account:
    return Account(AwsSettings(region="us-east-1", endpoint_url=endpoint, **more), lambda *_: None)


@pytest.mark.parametrize("more", [{}, {"role_arn": ARN}, NO_STS])
@pytest.mark.parametrize("first", [AwsIam.caller_is_root, AwsIam.user_id, AwsIam.create_key])
def test_credentials_that_come_late_are_found(
    source: Late,
    first: Callable[[AwsIam], Any],
    more: dict[str, str],
    cloud: EmbeddedAws,
    files: Path,
) -> None:
    iam = AwsIam(account(cloud.endpoint, **more), "backup_user")

    for call in (first, AwsIam.user_id, AwsIam.create_key):
        if more == NO_STS and call is AwsIam.caller_is_root:
            continue  # nobody is asked
        with pytest.raises(RekeydError) as failed:
            call(iam)
        if source in {late_program, late_agent}:
            assert type(failed.value) is Transient
        else:
            assert isinstance(failed.value, Refused)
            assert failed.value.reason == "credentials"
    with source(files, cloud):
        assert not iam.caller_is_root()
        assert iam.user_id()
        assert iam.create_key()


@pytest.mark.parametrize("more", [{}, NO_STS])
def test_a_key_that_was_renewed_in_its_file_is_used(
    more: dict[str, str], files: Path, proxy: Proxy
) -> None:
    (files / "credentials").write_text("[default]\n" + PAIR.format("FORMER"))
    iam = AwsIam(account(proxy.endpoint, **more), "backup_user")
    assert iam.user_id()

    proxy.fail("*", "InvalidClientTokenId", 403, unless_signed_by="LATTER")
    (files / "credentials").write_text("[default]\n" + PAIR.format("LATTER"))

    assert reason(iam.user_id) == "credentials"
    assert iam.user_id()


def test_a_role_is_assumed_with_the_key_that_was_renewed_in_its_file(
    files: Path, proxy: Proxy
) -> None:
    (files / "credentials").write_text("[default]\n" + PAIR.format("FORMER"))
    iam = AwsIam(account(proxy.endpoint, role_arn=ARN), "backup_user")
    assert iam.user_id()

    proxy.fail("AssumeRole", "InvalidClientTokenId", 403, unless_signed_by="LATTER")
    proxy.fail("GetUser", "ExpiredToken", 403)
    assert reason(iam.user_id) == "credentials"  # the session has ended
    proxy.rules.pop("GetUser")
    assert reason(iam.user_id) == "credentials"  # and the key does not open another
    (files / "credentials").write_text("[default]\n" + PAIR.format("LATTER"))

    assert iam.user_id()


def reason(call: Callable[[], Any]) -> str:
    with pytest.raises(Refused) as refused:
        call()
    return refused.value.reason


def test_who_may_not_assume_the_role_is_told_so(files: Path, proxy: Proxy) -> None:
    (files / "credentials").write_text("[default]\n" + PAIR.format("FORMER"))
    proxy.fail("AssumeRole", "AccessDenied", 403)

    with pytest.raises(Refused, match=f"lack sts:AssumeRole on {ARN}"):
        AwsIam(account(proxy.endpoint, role_arn=ARN), "backup_user").user_id()


def test_a_mint_for_which_no_role_could_be_assumed_was_not_sent(files: Path, proxy: Proxy) -> None:
    (files / "credentials").write_text("[default]\n" + PAIR.format("FORMER"))
    proxy.fail("AssumeRole", "ServiceFailure", 500)

    with pytest.raises(Transient) as failed:
        AwsIam(account(proxy.endpoint, role_arn=ARN), "backup_user").create_key()
    assert type(failed.value) is Transient
    assert "CreateAccessKey" not in proxy.calls


@pytest.mark.parametrize("more", [{}, {"role_arn": ARN}])
def test_credentials_are_read_once_while_all_is_well(
    more: dict[str, str], files: Path, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    (files / "credentials").write_text("[default]\n" + PAIR.format("FORMER"))
    sessions: list[object] = []

    def counted(*given: Any) -> Any:
        sessions.append(new_session(*given))
        return sessions[-1]

    monkeypatch.setattr("rekeyd.aws.new_session", counted)
    shared = account(proxy.endpoint, **more)
    refused = AwsConsumer(shared, "backup_user", None, "", ["sts"])
    for _ in range(3):
        iam = AwsIam(shared, "backup_user")
        assert iam.user_id()
        assert not iam.caller_is_root()
        proxy.fail("GetCallerIdentity", "InvalidClientTokenId", 403)
        with pytest.raises(Propagating):
            refused.probe(AccessPair("AKIAIOSFODNN7EXAMPLE", Secret("of a backup user")))
        proxy.mend()

    assert len(sessions) == 2, "one for the clients, one to read the file"
