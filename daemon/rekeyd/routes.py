"""What is served on `listen`: metrics, health, and how the identities stand, as JSON and as a page.

Only reading: nothing that is sent here changes anything.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Protocol
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from prometheus_client import CollectorRegistry, make_wsgi_app

from rekeyd.document import document
from rekeyd.ports import Event
from rekeyd.view import Status


class Board(Protocol):
    """What the service shows of itself. Called from several threads at once."""

    def names(self) -> Sequence[str]:
        """Return the names of all identities."""

    def statuses(self) -> Sequence[Status]:
        """Return how each identity stood at its last look."""

    def timeline(self, identity: str) -> Sequence[Event]:
        """Return the latest events of an identity, oldest first."""

    def healthy(self) -> Sequence[str]:
        """Return what is wrong with the process, so that only a restart can mend it."""

    def ready(self) -> Sequence[str]:
        """Return what keeps the service from doing its work now."""


Answer = tuple[HTTPStatus, str, bytes]
"""A status, a content type and a body."""


def routes(
    board: Board,
    registry: CollectorRegistry,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> WSGIApplication:
    """Make the WSGI application of the listener."""
    metrics: WSGIApplication = make_wsgi_app(registry)
    answers: dict[str, Callable[[], Answer]] = {
        "/api/v1/status": lambda: _status(board, now()),
        "/-/healthy": lambda: _probe(board.healthy(), "healthy"),
        "/-/ready": lambda: _probe(board.ready(), "ready"),
    }

    def application(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path not in {"/", "/metrics", *answers}:
            return _send(start, _text(HTTPStatus.NOT_FOUND, "no such page"))
        if environ["REQUEST_METHOD"] not in {"GET", "HEAD"}:
            only = _text(HTTPStatus.METHOD_NOT_ALLOWED, "this is only for reading")
            return _send(start, only, ("Allow", "GET, HEAD"))
        if path == "/metrics":
            return metrics({**environ, "REQUEST_METHOD": "GET"}, start)
        if path == "/":
            return _send(start, *_page(board, now()))
        return _send(start, answers[path]())

    return application


def _send(start: StartResponse, answer: Answer, *headers: tuple[str, str]) -> list[bytes]:
    status, kind, body = answer
    start(f"{status.value} {status.phrase}", [("Content-Type", kind), *headers])
    return [body]


def _text(status: HTTPStatus, *lines: str) -> Answer:
    return status, "text/plain; charset=utf-8", "".join(f"{line}\n" for line in lines).encode()


def _probe(problems: Sequence[str], well: str) -> Answer:
    if problems:
        return _text(HTTPStatus.SERVICE_UNAVAILABLE, *problems)
    return _text(HTTPStatus.OK, well)


def _status(board: Board, now: datetime) -> Answer:
    told = document(board.statuses(), now, board.names())
    text = json.dumps(told, ensure_ascii=False, indent=2)
    return HTTPStatus.OK, "application/json", f"{text}\n".encode()


def _page(board: Board, now: datetime) -> tuple[Answer, tuple[str, str]]:
    from rekeyd.page import page, policy  # noqa: PLC0415  # few look at it

    body = page(board.statuses(), board.timeline, now)
    policed = ("Content-Security-Policy", policy())
    return (HTTPStatus.OK, "text/html; charset=utf-8", body), policed
