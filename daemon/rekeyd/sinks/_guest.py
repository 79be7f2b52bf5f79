"""A sink of another package: whatever goes wrong in it stays its own failure, without a secret."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from threading import Thread
from typing import Any

from rekeyd.errors import Refused, RekeydError, Transient
from rekeyd.ports import Sink
from rekeyd.secret import AccessPair
from rekeyd.sinks.base import SinkContext, SinkSettings

LIMIT = 60.0
"""Seconds after which nobody waits for it any more. No thread can be ended, so it goes on."""


class Guest:
    """Another package's sink behind the contract of `rekeyd.ports.Sink`."""

    def __init__(self, settings: SinkSettings, context: SinkContext) -> None:
        self.name = settings.label
        self.mark = settings.mark
        self._type = settings.type
        self._last: Future[Any] | None = None
        with self._told():
            self._sink: Sink = settings.open(context)
            self.readable = bool(self._sink.readable)

    def check(self) -> str | None:
        left: str | None = self._ask(self._sink.check)
        return left

    def read(self) -> AccessPair | None:
        held: AccessPair | None = self._ask(self._sink.read)
        return held

    def put(self, pair: AccessPair) -> None:
        self._ask(lambda: self._sink.put(pair))

    def _ask(self, act: Callable[[], Any]) -> Any:
        """Have it do something in a thread of its own, one thing at a time."""
        if self._last and not self._last.done():
            raise self._late()
        answer: Future[Any] = Future()
        self._last = answer
        Thread(target=_fulfil, args=(answer, act), name=f"guest {self.name}", daemon=True).start()
        with self._told():
            try:
                return answer.result(LIMIT)
            except TimeoutError:
                if answer.done():
                    raise  # its own
        raise self._late()

    def _late(self) -> Transient:
        return Transient(
            f"the sink of type {self._type} was not done within {LIMIT:g} s, so nobody knows which "
            "pair it holds",
            "see what it waits for; rekeyd asks it again once it has come to an end",
        )

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except RekeydError:
            raise
        except OSError as error:
            what = error.strerror or type(error).__name__
            raise Transient(
                f"the sink of type {self._type} did not reach what it writes to: {what}",
                "rekeyd tries again by itself; no pair is retired meanwhile",
            ) from None
        except Exception as error:  # noqa: BLE001 - another package may raise anything
            raise Refused(
                f"the sink of type {self._type} failed ({type(error).__name__})",
                "tell the makers of its package; no pair is retired meanwhile",
                reason="sink",
            ) from None


def _fulfil(answer: "Future[Any]", act: Callable[[], Any]) -> None:
    try:
        answer.set_result(act())
    except BaseException as error:  # noqa: BLE001 - whoever waits is told
        answer.set_exception(error)
