"""An AWS in this process for the sinks in it: moto, which can be told to fail at any operation."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import boto3
from botocore.awsrequest import AWSResponse
from botocore.config import Config
from botocore.exceptions import ConnectTimeoutError, ReadTimeoutError
from moto import mock_aws

from rekeyd.sinks.base import SinkContext

REFUSALS = {
    "denied": (403, "AccessDeniedException"),
    "throttled": (400, "ThrottlingException"),
    "broken": (500, "InternalServiceError"),
    "expired": (400, "ExpiredTokenException"),
}
"""Status and code. Any other fault is the code itself, with a text that repeats the request."""


@dataclass
class Aws:
    """moto, the operations that shall fail (`*`: every other), all calls, and the clients lent."""

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
        client.meta.events.register(f"before-call.{service}", self._before)
        client.meta.events.register(f"after-call.{service}", self._after)
        self.open += 1
        close = client.close

        def closing() -> None:
            self.open -= 1
            close()

        client.close = closing
        return client

    def _before(self, model: Any, params: Any, **_: Any) -> tuple[AWSResponse, Any] | None:
        """Answer in the place of moto, which then does nothing."""
        self.calls.append(model.name)
        fault = self._fault(model.name)
        if fault in {None, "silent"}:
            return None
        if fault == "unreachable":
            raise ConnectTimeoutError(endpoint_url="https://aws")
        status, code = REFUSALS.get(fault, (400, fault))
        said = "no" if fault in REFUSALS else f"1 validation error: {params['body']}"
        error = {"Code": code, "Message": said}
        return (
            AWSResponse("https://aws", status, {}, None),
            {"Error": error, "ResponseMetadata": {"HTTPStatusCode": status}},
        )

    def _fault(self, operation: str) -> str | None:
        return self.faults.get(operation, self.faults.get("*"))

    def _after(self, model: Any, **_: Any) -> None:
        """Lose the answer to what moto has done."""
        if self._fault(model.name) == "silent":
            raise ReadTimeoutError(endpoint_url="https://aws")


@contextmanager
def aws() -> Iterator[Aws]:
    with mock_aws():
        cloud = Aws()
        yield cloud
        assert cloud.open == 0, "every client that was lent is closed"
