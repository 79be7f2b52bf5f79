"""A sink of another package: whatever goes wrong in it stays its own failure, without a secret."""

from collections.abc import Iterator
from contextlib import contextmanager

from rekeyd.errors import Refused, RekeydError, Transient
from rekeyd.ports import Sink
from rekeyd.secret import AccessPair
from rekeyd.sinks.base import SinkContext, SinkSettings


class Guest:
    """Another package's sink behind the contract of `rekeyd.ports.Sink`."""

    def __init__(self, settings: SinkSettings, context: SinkContext) -> None:
        self.name = settings.label
        self.mark = settings.mark
        self._type = settings.type
        with self._told():
            self._sink: Sink = settings.open(context)
            self.readable = bool(self._sink.readable)

    def check(self) -> str | None:
        with self._told():
            return self._sink.check()

    def read(self) -> AccessPair | None:
        with self._told():
            return self._sink.read()

    def put(self, pair: AccessPair) -> None:
        with self._told():
            self._sink.put(pair)

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
