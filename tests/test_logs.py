"""The log: one line an event, for people or for machines, and never a secret."""

import io
import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from rekeyd import logs
from rekeyd.errors import Transient

SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"

Lines = Callable[[], list[dict[str, Any]]]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in logs.TALKATIVE}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)
    logging.captureWarnings(False)
    structlog.reset_defaults()


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Lines:
    """Return what was logged as JSON since."""

    def read() -> list[dict[str, Any]]:
        shown = capsys.readouterr()
        assert shown.out == ""
        return [json.loads(line) for line in shown.err.splitlines()]

    return read


def test_an_event_is_one_line_of_json_on_standard_error(lines: Lines) -> None:
    logs.configure("auto", "info")
    structlog.get_logger().info("deliver", identity="backup_user", rule="deliver")
    [line] = lines()
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "level": "info",
        "event": "deliver",
        "identity": "backup_user",
        "rule": "deliver",
    }


def test_what_is_less_important_than_asked_for_is_not_written(lines: Lines) -> None:
    logs.configure("json", "warning")
    structlog.get_logger().info("mint")
    logging.getLogger("library").info("mint")
    structlog.get_logger().warning("hold")
    assert [line["event"] for line in lines()] == ["hold"]


def test_a_level_chosen_later_holds_for_loggers_that_exist(lines: Lines) -> None:
    logs.configure("json", "error")
    log = structlog.get_logger()
    log.info("unheard")
    logs.configure("json", "info")
    log.info("heard")
    assert [line["event"] for line in lines()] == ["heard"]


def test_libraries_are_heard_in_the_same_form(lines: Lines) -> None:
    logs.configure("json", "info")
    logging.getLogger("apscheduler").warning("missed by %s", "a second")
    [line] = lines()
    assert (line["logger"], line["event"]) == ("apscheduler", "missed by a second")


@pytest.mark.parametrize("name", logs.TALKATIVE)
def test_libraries_that_would_print_secrets_never_debug(name: str, lines: Lines) -> None:
    logs.configure("json", "debug")
    logging.getLogger(f"{name}.part").debug("Response body: %s", SECRET)
    assert lines() == []


@pytest.mark.parametrize(
    "value",
    [
        SECRET,
        f"aws_secret_access_key={SECRET}",
        f"<SecretAccessKey>{SECRET}</SecretAccessKey>",
        ["first", {"deep": (SECRET,)}],
        Transient(f"could not send {SECRET}"),
    ],
)
def test_a_value_that_looks_like_a_secret_is_blanked(value: object, lines: Lines) -> None:
    logs.configure("json", "debug")
    structlog.get_logger().info("put", value=value)
    logging.getLogger("library").info("value %s", value)
    assert all("wJalr" not in json.dumps(line) for line in lines())


def test_a_field_named_for_a_secret_is_blanked(lines: Lines) -> None:
    logs.configure("json", "info")
    structlog.get_logger().info("put", secret="short", Secret_Key=1, into={"secret": "x"})
    [line] = lines()
    assert line["secret"] == line["Secret_Key"] == line["into"]["secret"] == logs.BLANK


@pytest.mark.parametrize(
    "value",
    [
        "a" * 40,
        "0f3e" * 10,
        "/srv/backup/.aws/credentials",
        SECRET + "longer",
        "AKIAIOSFODNN7EXAMPLE",
    ],
)
def test_what_is_no_secret_can_be_read(value: str, lines: Lines) -> None:
    logs.configure("json", "info")
    structlog.get_logger().info("put", value=value, number=3, nothing=None)
    [line] = lines()
    assert (line["value"], line["number"], line["nothing"]) == (value, 3, None)


def fail() -> None:
    password = SECRET[:20]
    raise ValueError(f"no good, {len(password)}")


def test_an_exception_is_one_line_without_a_traceback(lines: Lines) -> None:
    logs.configure("json", "info")
    try:
        fail()
    except ValueError:
        structlog.get_logger().exception("stopped")
        logging.getLogger("library").exception("stopped too")
    first, second = lines()
    assert first["error"] == second["error"] == "ValueError: no good, 20"
    assert not any("exception" in line for line in (first, second))


def test_debug_shows_tracebacks_without_local_variables(lines: Lines) -> None:
    logs.configure("json", "debug")
    try:
        fail()
    except ValueError as error:
        structlog.get_logger().warning("stopped", exc_info=error)
    [line] = lines()
    assert "in fail" in line["exception"]
    assert SECRET[:20] not in line["exception"]


def test_our_own_errors_say_what_to_do(lines: Lines) -> None:
    logs.configure("json", "info")
    structlog.get_logger().error("stopped", exc_info=Transient("IAM is away", "wait"))
    structlog.get_logger().error("stopped", exc_info=Transient("IAM is away"))
    structlog.get_logger().error("stopped", exc_info=TimeoutError())
    assert [line["error"] for line in lines()] == [
        "IAM is away; wait",
        "IAM is away",
        "TimeoutError",
    ]


def test_a_crash_is_one_line(lines: Lines) -> None:
    logs.configure("json", "info")
    sys.excepthook(ValueError, ValueError("no good"), None)
    [line] = lines()
    assert (line["level"], line["error"]) == ("critical", "ValueError: no good")


def test_a_crash_of_a_thread_is_one_line_with_its_name(lines: Lines) -> None:
    logs.configure("json", "info")
    thread = threading.Thread(target=fail, name="worker-1")
    thread.start()
    thread.join()
    [line] = lines()
    assert (line["thread"], line["error"]) == ("worker-1", "ValueError: no good, 20")


def test_an_interruption_is_no_crash(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json", "info")
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert capsys.readouterr().err == "KeyboardInterrupt\n"


def test_on_a_terminal_people_read_it_in_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    logs.configure("auto", "info")
    structlog.get_logger().info("deliver", identity="backup_user")
    shown = sys.stderr.getvalue()
    assert "\x1b[" in shown
    assert "backup_user" in shown
    assert not shown.startswith("{")


def test_colour_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys, "stderr", Terminal())
    logs.configure("auto", "info")
    structlog.get_logger().info("deliver")
    assert "\x1b" not in sys.stderr.getvalue()


def test_what_came_from_elsewhere_cannot_steer_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure("console", "info")
    structlog.get_logger().info("deliver\x1b[2J\nforged", error="\x9b31m\r")
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert not {"\x1b", "\x9b", "\r"} & set(shown)


def test_in_the_journal_a_line_carries_its_priority(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    with (tmp_path / "journal").open("w+") as journal:
        found = os.fstat(journal.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        monkeypatch.setattr(sys, "stderr", journal)
        logs.configure("auto", "info")
        structlog.get_logger().info("deliver")
        structlog.get_logger().warning("hold")
        journal.seek(0)
        first, second = journal.read().splitlines()
    assert first.startswith("<6>{")
    assert second.startswith("<4>{")


def test_another_journal_than_ours_gets_plain_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "1:2")
    logs.configure("auto", "info")
    structlog.get_logger().info("deliver")
    assert capsys.readouterr().err.startswith("{")


def test_a_log_that_cannot_be_written_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def write(self, _: str) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stderr", Full())
    logs.configure("json", "info")
    structlog.get_logger().info("deliver")
