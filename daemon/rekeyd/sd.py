"""sd_notify(3): tell systemd what the daemon is doing. Does nothing where systemd does not ask."""

import os
import socket
import time


def notify(*lines: str) -> None:
    """Send assignments such as `READY=1` to the socket that systemd named, if it named one."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        try:
            channel.connect(address)
            channel.sendall("\n".join(lines).encode())
        except OSError:
            return  # a service manager that went away is no reason to stop keeping keys fresh


def ready(status: str) -> None:
    notify("READY=1", f"STATUS={status}")


def reloading() -> None:
    """Announce a reload; systemd wants the instant so that it can tell two apart."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def stopping() -> None:
    notify("STOPPING=1", "STATUS=finishing the step in flight")


def watchdog_interval() -> float | None:
    """Return half of the watchdog's time in seconds, if there is one (sd_watchdog_enabled(3))."""
    usec = os.environ.get("WATCHDOG_USEC")
    if not usec or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(usec) / 2_000_000
