"""Runs a program so that it cannot hurt the daemon: bounded in time and output, clean of its state.

`subprocess` alone leaves three gaps: `communicate` keeps all that a program prints, waits for
whoever else holds the pipe, and kills the program but not its children.
"""

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO

LARGEST = 64 * 1024
"""Bytes that are kept of an output: its end. The rest is read and forgotten."""

TERMINATION = 2.0
"""Seconds between SIGTERM and SIGKILL."""

TICK = 0.1
"""Seconds after which a program's end is noticed though a child of it holds its output open."""


@dataclass(frozen=True, slots=True, repr=False)
class Outcome:
    """How a program ended: its exit status, or a signal's number below zero; and what it printed.

    Either output may hold a secret.
    """

    status: int
    output: str
    complaint: str


def run(
    command: Sequence[str], given: bytes, environment: Mapping[str, str], timeout: float
) -> Outcome:
    """Run a program to its end with `given` on its standard input.

    `given` is smaller than a pipe, so that a program that does not read it delays nobody
    (pipe(7): 4096 bytes at least). Raises `OSError` when it cannot be started, and `TimeoutError`
    when it was not done in time: it and its children have then been ended.
    """
    until = time.monotonic() + timeout
    process = _start(command, environment)
    try:
        _give(process, given)
        output, complaint = _listen(process, until)
        _wait(process, until)
    except BaseException:
        _end(process)
        raise
    finally:
        _close(process)
    return Outcome(process.returncode, output, complaint)


def _start(command: Sequence[str], environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    with _no_signals_blocked():
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            cwd="/",
            start_new_session=True,
        )


@contextmanager
def _no_signals_blocked() -> Iterator[None]:
    """A child inherits the mask of the thread that starts it, and would not hear a SIGTERM."""
    blocked = signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _give(process: "subprocess.Popen[bytes]", given: bytes) -> None:
    stdin = _pipe(process.stdin)
    with suppress(BrokenPipeError):  # a program need not read it: its exit status tells
        os.write(stdin.fileno(), given)
    stdin.close()


def _listen(process: "subprocess.Popen[bytes]", until: float) -> tuple[str, str]:
    """Read both outputs until they end, or the program has and nobody else writes to them."""
    kept = bytearray(), bytearray()
    with selectors.DefaultSelector() as selector:
        for pipe, buffer in zip((process.stdout, process.stderr), kept, strict=True):
            selector.register(_pipe(pipe), selectors.EVENT_READ, buffer)
        while selector.get_map():
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError
            ready = selector.select(min(left, TICK))
            if not ready and _ended(process):
                break
            for key, _ in ready:
                chunk = os.read(key.fd, LARGEST)
                if not chunk:
                    selector.unregister(key.fileobj)
                key.data.extend(chunk)
                del key.data[:-LARGEST]
    return kept[0].decode("utf-8", "replace"), kept[1].decode("utf-8", "replace")


def _wait(process: "subprocess.Popen[bytes]", until: float) -> None:
    try:
        process.wait(max(until - time.monotonic(), 0))
    except subprocess.TimeoutExpired:
        raise TimeoutError from None


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a program and its children. Until it is waited for, nobody else gets its number."""
    if process.returncode is not None:
        return
    os.killpg(process.pid, signal.SIGTERM)
    until = time.monotonic() + TERMINATION
    while not _ended(process) and time.monotonic() < until:
        time.sleep(TICK / 4)
    os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.wait(TERMINATION)


def _ended(process: "subprocess.Popen[bytes]") -> bool:
    """Tell whether it has ended, leaving its number taken."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _close(process: "subprocess.Popen[bytes]") -> None:
    for pipe in (process.stdin, process.stdout, process.stderr):
        _pipe(pipe).close()


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise AssertionError("all three are pipes")
    return pipe
