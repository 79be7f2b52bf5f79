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

from processes import OPERATOR_ACTIONS, EmbeddedAws, running

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
def serving(answers: dict[tuple[str, str], str], header: str) -> Iterator[str]:
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

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
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
