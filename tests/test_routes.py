"""What is served: the routes, their answers, and the document that they and the command share."""

import gzip
import json
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from rekeyd.document import document
from rekeyd.metrics import Metrics
from rekeyd.page import policy
from rekeyd.ports import Event
from rekeyd.routes import routes
from rekeyd.steps import Hold
from rekeyd.view import KeyStatus, SinkStatus, Status

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)

STATUS = Status(
    identity="backup_user",
    at=NOW,
    stage="on hold",
    rule="retire",
    message="it is used",
    hold=Hold("in_use", "it is used", "find out by whom"),
    next_rotation=NOW + timedelta(days=1),
    keys=(KeyStatus("…ABCD", "current", True, NOW, None, NOW, NOW, None),),
    sinks=(SinkStatus("env_file:/etc/env", True, None),),
)


class Board:
    def __init__(self) -> None:
        self.shown = [STATUS]
        self.problems: list[str] = []
        self.trouble: list[str] = []

    def names(self) -> list[str]:
        return ["backup_user", "new_user"]

    def statuses(self) -> list[Status]:
        return self.shown

    def timeline(self, identity: str) -> list[Event]:
        return []

    def healthy(self) -> list[str]:
        return self.problems

    def ready(self) -> list[str]:
        return self.trouble


@pytest.fixture
def board() -> Board:
    return Board()


class Client:
    def __init__(self, board: Board) -> None:
        metrics = Metrics("1.2.3")
        metrics.show(board.statuses)
        self._application = routes(board, metrics.registry, lambda: NOW)

    def __call__(
        self, path: str, method: str = "GET", **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        said: list[Any] = []
        environ = {"REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": ""}
        environ |= {f"HTTP_{name.upper()}": value for name, value in headers.items()}
        body = b"".join(self._application(environ, lambda *given: said.extend(given)))
        return int(said[0].split()[0]), dict(said[1]), body


@pytest.fixture
def get(board: Board) -> Client:
    return Client(board)


def test_metrics_are_served_as_text(get: Client) -> None:
    status, headers, body = get("/metrics")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert b'rekeyd_held{identity="backup_user",reason="in_use"} 1.0\n' in body


def test_metrics_are_served_as_openmetrics_to_those_who_ask(get: Client) -> None:
    _, headers, body = get("/metrics", accept="application/openmetrics-text; version=1.0.0")
    assert headers["Content-Type"].startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


def test_metrics_are_compressed_for_those_who_can_read_it(get: Client) -> None:
    _, headers, body = get("/metrics", accept_encoding="gzip")
    assert headers["Content-Encoding"] == "gzip"
    assert b"rekeyd_held" in gzip.decompress(body)


@pytest.mark.parametrize("path", ["/", "/metrics", "/-/healthy", "/-/ready", "/api/v1/status"])
def test_everything_answers_head_as_it_answers_get(get: Client, path: str) -> None:
    status, headers, _ = get(path, "HEAD")
    assert (status, headers) == get(path)[:2]
    assert status == 200


@pytest.mark.parametrize("path", ["/", "/metrics", "/-/ready"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"])
def test_nothing_can_be_sent(get: Client, path: str, method: str) -> None:
    status, headers, _ = get(path, method)
    assert (status, headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", ["/metrics/", "/favicon.ico", "/-/", "//", "/api", "", "/../etc"])
def test_everything_else_is_not_found(get: Client, path: str) -> None:
    assert get(path)[0] == 404
    assert get(path, "POST")[0] == 404


def test_health_and_readiness_say_what_is_wrong(get: Client, board: Board) -> None:
    assert get("/-/healthy")[::2] == (200, b"healthy\n")
    assert get("/-/ready")[::2] == (200, b"ready\n")
    board.trouble = ["the disk is full", "IAM was not reached"]
    assert get("/-/healthy")[0] == 200
    assert get("/-/ready")[::2] == (503, b"the disk is full\nIAM was not reached\n")
    board.problems = ["the scheduler does not run"]
    assert get("/-/healthy")[::2] == (503, b"the scheduler does not run\n")


def test_the_status_is_served_as_the_document(get: Client) -> None:
    status, headers, body = get("/api/v1/status")
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert json.loads(body) == document([STATUS], NOW, ["backup_user", "new_user"])


def test_the_page_is_served_under_its_own_policy(get: Client) -> None:
    status, headers, body = get("/")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert headers["Content-Security-Policy"] == policy()
    assert b"backup_user" in body


def test_the_document_is_as_it_is_described() -> None:
    assert document([STATUS], NOW) == {
        "now": "2026-11-23T12:00:00Z",
        "identities": [
            {
                "identity": "backup_user",
                "at": "2026-11-23T12:00:00Z",
                "stage": "on hold",
                "rule": "retire",
                "message": "it is used",
                "hold": {"reason": "in_use", "what": "it is used", "do": "find out by whom"},
                "failing": None,
                "retry_at": None,
                "asked": False,
                "next_rotation": "2026-11-24T12:00:00Z",
                "last_rotation": None,
                "keys": [
                    {
                        "key": "…ABCD",
                        "state": "current",
                        "active": True,
                        "created": "2026-11-23T12:00:00Z",
                        "last_used": None,
                        "verified": "2026-11-23T12:00:00Z",
                        "current_since": "2026-11-23T12:00:00Z",
                        "deactivated": None,
                    }
                ],
                "sinks": [{"name": "env_file:/etc/env", "current": True, "problem": None}],
            }
        ],
    }


@pytest.mark.parametrize("kind", [Status, Hold, KeyStatus, SinkStatus])
def test_every_field_of_the_document_is_described(kind: type) -> None:
    for field in fields(kind):
        assert f"`{field.name}`" in str(document.__doc__)


def test_an_identity_that_nobody_looked_at_has_every_field_too() -> None:
    seen, unseen = document([STATUS], NOW, ["backup_user", "new_user"])["identities"]

    assert (unseen["identity"], unseen["stage"]) == ("new_user", "never looked at")
    assert unseen["at"] is unseen["rule"] is unseen["hold"] is None
    assert (unseen["keys"], unseen["sinks"]) == ([], [])
    assert unseen.keys() == seen.keys()


def test_instants_are_utc_wherever_they_come_from() -> None:
    there = timezone(timedelta(hours=2))
    [identity] = document([replace(STATUS, at=NOW.astimezone(there))], NOW)["identities"]
    assert identity["at"] == "2026-11-23T12:00:00Z"


def test_identities_are_in_the_order_of_their_names() -> None:
    shown = document([replace(STATUS, identity=name) for name in ("b", "a")], NOW)
    assert [one["identity"] for one in shown["identities"]] == ["a", "b"]
