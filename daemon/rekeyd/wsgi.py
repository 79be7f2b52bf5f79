"""From the bytes of a request to a WSGI application, and from its answer to bytes."""

import re
from collections.abc import Mapping
from email.utils import formatdate
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote_to_bytes
from wsgiref.types import StartResponse, WSGIApplication

import structlog

EVERY_ANSWER = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

_REQUEST_LINE = re.compile(r"([A-Z]{1,16}) (/[!-~]*) HTTP/1\.[01]")
_HEADER = re.compile(r"([!#$%&'*+.^`|~0-9A-Za-z-]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")

_log = structlog.get_logger(__name__)


def environ(head: bytes, scheme: str) -> dict[str, Any] | None:
    """Read a request's head into what a WSGI application gets; None when it is malformed."""
    first, *lines = head[:-4].decode("latin-1").split("\r\n")
    request = _REQUEST_LINE.fullmatch(first)
    if request is None:
        return None
    path, _, query = request[2].partition("?")
    environ = {
        "REQUEST_METHOD": request[1],
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "QUERY_STRING": query,
        "wsgi.url_scheme": scheme,
    }
    for line in lines:
        header = _HEADER.fullmatch(line)
        if header is None:
            return None
        environ["HTTP_" + header[1].upper().replace("-", "_")] = header[2].rstrip()
    return environ


def apply(application: WSGIApplication, request: dict[str, Any]) -> bytes:
    """Run the application and write its answer out. A fault of its becomes a 500 and a log line."""
    status, headers = "", {}

    def start_response(said: str, pairs: list[tuple[str, str]], _: Any = None) -> Any:
        nonlocal status, headers
        status, headers = said, dict(pairs)

    begin: StartResponse = start_response
    try:
        body = b"".join(application(request, begin))
    except Exception:  # noqa: BLE001  # whatever it was, the next request is answered
        _log.exception("a request could not be answered", path=request["PATH_INFO"])
        return plain(HTTPStatus.INTERNAL_SERVER_ERROR)
    return _written(status, headers, body, request["REQUEST_METHOD"] != "HEAD")


def plain(status: HTTPStatus, headers: Mapping[str, str] | None = None) -> bytes:
    body = f"{status.value} {status.phrase}\n".encode()
    kind = {"Content-Type": "text/plain; charset=utf-8"}
    return _written(f"{status.value} {status.phrase}", {**kind, **(headers or {})}, body)


def _written(status: str, headers: Mapping[str, str], body: bytes, with_body: bool = True) -> bytes:
    every = {
        "Date": formatdate(usegmt=True),
        **EVERY_ANSWER,
        **headers,
        "Content-Length": str(len(body)),
        "Connection": "close",
    }
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in every.items())]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body if with_body else b"")
