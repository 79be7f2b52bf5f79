"""A sink of another package fails as the contract allows, whatever it does."""

import threading
from typing import Any, Literal

import pytest
from contract import NEW

from processes import LONG_ENOUGH
from rekeyd.errors import Refused, RekeydError, Transient
from rekeyd.sinks import _guest, opened
from rekeyd.sinks.base import SinkContext, SinkSettings

CONTEXT = SinkContext("backup_user", lambda *_: None)
WORDS = f"could not write {NEW.key_id}, {NEW.secret.reveal()}"


class Rude(SinkSettings):
    """Settings whose sink raises what a test gives it."""

    type: Literal["rude"] = "rude"
    error: Any = None

    @property
    def place(self):
        return "here"

    def open(self, context):
        return RudeSink(self.error)


class RudeSink:
    readable = True

    def __init__(self, error):
        self._error = error

    def check(self):
        raise self._error

    read = check

    def put(self, pair):
        raise self._error


def deeds(error):
    sink = opened(Rude(error=error), CONTEXT)
    return sink.check, sink.read, lambda: sink.put(NEW)


def test_name_and_mark_are_those_of_its_settings():
    sink = opened(Rude(name="mine"), CONTEXT)
    assert (sink.name, sink.mark, sink.readable) == ("mine", Rude().mark, True)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError(WORDS), Refused),
        (KeyError(WORDS), Refused),
        (ConnectionRefusedError(111, "Connection refused", WORDS), Transient),
        (TimeoutError(WORDS), Transient),
    ],
)
def test_what_it_raises_becomes_ours_and_repeats_nothing(error, kind):
    for deed in deeds(error):
        with pytest.raises(kind) as told:
            deed()
        assert type(told.value) is kind
        assert "sink of type rude" in str(told.value)
        assert told.value.do
        assert told.value.__suppress_context__
        assert NEW.secret.reveal() not in f"{told.value}{told.value.do}"
        assert NEW.key_id not in f"{told.value}{told.value.do}"


def test_our_own_errors_stay_as_they_are():
    error = Transient("busy", "wait")
    for deed in deeds(error):
        with pytest.raises(RekeydError) as told:
            deed()
        assert told.value is error


def test_one_that_never_ends_is_left_in_time_and_asked_again_when_it_has(monkeypatch):
    monkeypatch.setattr(_guest, "LIMIT", 0.05)
    released = threading.Event()
    sink = opened(Rude(), CONTEXT)
    sink._sink.put = lambda _: released.wait()
    sink._sink.read = lambda: NEW

    for deed in (lambda: sink.put(NEW), sink.read):
        with pytest.raises(Transient, match=r"not done within 0\.05 s"):
            deed()

    released.set()
    sink._last.result(LONG_ENOUGH)
    monkeypatch.setattr(_guest, "LIMIT", LONG_ENOUGH)
    assert sink.read() is NEW
