"""An AWS in this process for the sinks in it: moto, which can be told to fail at any operation."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import boto3
from botocore.awsrequest import AWSResponse
from botocore.config import Config
from botocore.exceptions import ConnectTimeoutError, ReadTimeoutError
from moto import mock_aws
from moto.core.botocore_stubber import MockRawResponse

from rekeyd.model import AccessPair, Secret
from rekeyd.sinks.base import SinkContext

OLD = AccessPair("AKIAIOSFODNN7OLDPAIR", Secret("oldaXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY1"))
NEW = AccessPair("AKIAIOSFODNN7NEWPAIR", Secret("newaXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY2"))

REFUSALS = {
    "denied": (403, "AccessDeniedException", "AccessDenied"),
    "throttled": (400, "ThrottlingException", "SlowDown"),
    "broken": (500, "InternalServiceError", "InternalError"),
    "expired": (400, "ExpiredTokenException", "ExpiredToken"),
}
"""Status, and the code as JSON and XML services give it."""

UNREACHABLE = {
    "unreachable": ConnectTimeoutError(endpoint_url="https://aws"),
    "silent": ReadTimeoutError(endpoint_url="https://aws"),
}


@dataclass
class Aws:
    """moto, with the operations that shall fail, and the calls and clients that there were."""

    faults: dict[str, str] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    open: int = 0

    def context(self) -> SinkContext:
        return SinkContext("backup_user", self.client)

    def client(self, service: str, region: str | None = None) -> Any:
        client = boto3.client(
            service,
            region_name=region or "us-east-1",
            aws_access_key_id="testing",
            aws_secret_access_key="testing",
            config=Config(retries={"total_max_attempts": 1}),
        )
        client.meta.events.register_first(f"before-send.{service}", self._answer)
        self.open += 1
        close = client.close

        def closing() -> None:
            self.open -= 1
            close()

        client.close = closing
        return client

    def _answer(self, request: Any, event_name: str, **_: Any) -> AWSResponse | None:
        operation = event_name.rsplit(".", maxsplit=1)[-1]
        self.calls.append(operation)
        fault = self.faults.get(operation)
        if fault is None:
            return None
        if fault in UNREACHABLE:
            raise UNREACHABLE[fault]
        status, code, xml_code = REFUSALS.get(fault, (400, fault, fault))
        echo = "the request was: " + str(request.body)
        body = json.dumps({"__type": code, "message": echo})
        if event_name.startswith("before-send.s3"):
            body = f"<Error><Code>{xml_code}</Code><Message>no</Message></Error>"
        return AWSResponse(request.url, status, {}, MockRawResponse(body.encode()))


@contextmanager
def aws() -> Iterator[Aws]:
    with mock_aws():
        cloud = Aws()
        yield cloud
        assert cloud.open == 0, "every client that was lent is closed"
