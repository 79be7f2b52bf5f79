"""The log: one line an event, on standard error, for people on a terminal and as JSON otherwise.

structlog's events and those of libraries that use `logging` go through one chain, whose last link
before the renderer blanks whatever looks like a secret. Only `debug` shows tracebacks, and none of
them shows local variables.
"""

import logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from rekeyd.errors import RekeydError

TALKATIVE = (
    "apscheduler",
    "asyncio",
    "boto3",
    "botocore",
    "moto",
    "s3transfer",
    "urllib3",
    "werkzeug",
)
"""Libraries that never log below INFO: botocore's DEBUG prints CreateAccessKey's answer, and
the parameters of PutSecretValue."""

PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
"""syslog's levels, as sd-daemon(3) wants them in front of a line."""

BLANK = "[redacted]"
SECRET_FIELD = re.compile(r"secret", re.IGNORECASE)
SECRET_VALUE = re.compile(
    r"(?<![A-Za-z0-9/+])"
    r"(?=[A-Za-z0-9/+]{0,39}[A-Z])(?=[A-Za-z0-9/+]{0,39}[a-z])"  # a digest in hex is no secret
    r"[A-Za-z0-9/+]{40}"
    r"(?![A-Za-z0-9/+=])"
)
"""A secret access key: forty characters of base64, as AWS's own git-secrets looks for it."""

CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")

_log = structlog.stdlib.get_logger(__name__)


def configure(layout: str = "auto", level: str = "info") -> None:
    """Send every event of at least `level` to standard error, and every crash with it.

    `layout` is `console`, `json`, or `auto`: console on a terminal and JSON otherwise, which under
    systemd carries the priority that `journalctl -p` filters by. May be called again.
    """
    threshold = getattr(logging, level.upper())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _Exceptions(traces=threshold <= logging.DEBUG),
        redact,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = _StandardError()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderers(layout),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [h for h in root.handlers if not isinstance(h, _StandardError)] + [handler]
    root.setLevel(threshold)
    for name in TALKATIVE:
        floor = logging.INFO if threshold < logging.INFO else logging.WARNING
        logging.getLogger(name).setLevel(max(floor, threshold))
    logging.captureWarnings(True)
    sys.excepthook = _crashed
    threading.excepthook = _thread_crashed


def redact(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Blank every value that looks like a secret access key, and every field named for one.

    The last resort: whoever logs keeps secrets out already.
    """
    return {key: _blanked(key, value) for key, value in event.items()}


def _blanked(key: str, value: Any) -> Any:
    if SECRET_FIELD.match(key):
        return BLANK
    match value:
        case str():
            return SECRET_VALUE.sub(BLANK, value)
        case Mapping():
            return {k: _blanked(str(k), v) for k, v in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_blanked("", item) for item in value]
        case None | bool() | int() | float():
            return value
    if key.startswith("_"):
        return value  # the formatter's own record
    return SECRET_VALUE.sub(BLANK, str(value))


class _Exceptions:
    """Says an exception as one line; on `debug` its traceback too, without locals."""

    def __init__(self, traces: bool) -> None:
        self._traces = traces

    def __call__(self, _: WrappedLogger, __: str, event: EventDict) -> EventDict:
        given = event.pop("exc_info", None)
        error = given if isinstance(given, BaseException) else None
        if given and error is None:
            error = (given if isinstance(given, tuple) else sys.exc_info())[1]
        if error is not None:
            event["error"] = _in_words(error)
            if self._traces:
                event["exception"] = "".join(traceback.format_exception(error))
        return event


def _in_words(error: BaseException) -> str:
    if isinstance(error, RekeydError):
        return error.in_full
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _renderers(layout: str) -> list[Processor]:
    if layout == "auto":
        layout = "console" if sys.stderr.isatty() else "json"
    if layout == "console":
        colours = sys.stderr.isatty() and "NO_COLOR" not in os.environ
        return [
            _printable,
            structlog.dev.ConsoleRenderer(
                colors=colours, sort_keys=False, exception_formatter=structlog.dev.plain_traceback
            ),
        ]
    json = structlog.processors.JSONRenderer(ensure_ascii=False, default=str)
    return [_ordered, _for_the_journal(json) if _is_journal() else json]


def _ordered(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    first = {key: event.pop(key) for key in ("timestamp", "level", "event") if key in event}
    return {**first, **event}


def _printable(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Keep what came from elsewhere from steering the terminal."""
    return {
        key: CONTROL.sub(lambda c: repr(c[0])[1:-1], value)
        if isinstance(value, str) and key != "exception"
        else value
        for key, value in event.items()
    }


def _for_the_journal(render: structlog.processors.JSONRenderer) -> Processor:
    def prefixed(logger: WrappedLogger, name: str, event: EventDict) -> str:
        return f"<{PRIORITIES[event['level']]}>{render(logger, name, event)!s}"

    return prefixed


def _is_journal() -> bool:
    """Tell whether standard error leads to the journal (systemd.exec(5), $JOURNAL_STREAM)."""
    try:
        found = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


class _StandardError(logging.Handler):
    """Writes to whatever standard error is by then."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except Exception:  # noqa: BLE001  # a log that cannot be written stops no rotation
            self.handleError(record)


def _crashed(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not issubclass(kind, Exception):
        sys.__excepthook__(kind, error, trace)
        return
    _log.critical("stopped by an error of rekeyd's own", exc_info=error)


def _thread_crashed(crash: threading.ExceptHookArgs) -> None:
    if isinstance(crash.exc_value, Exception):
        name = crash.thread.name if crash.thread else "?"
        _log.critical(
            "a thread stopped by an error of its own", thread=name, exc_info=crash.exc_value
        )
