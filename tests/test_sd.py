"""What systemd is told, and that it is no trouble where there is none."""

import os
import socket

import pytest

from rekeyd import sd


@pytest.mark.parametrize("name", ["@rekeyd-test-{}", "{}/notify"])
def test_both_kinds_of_address_are_reached(monkeypatch, tmp_path, name):
    address = name.format(tmp_path if name.startswith("{") else os.getpid())
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + address[1:] if address.startswith("@") else address)
        manager.settimeout(5)

        sd.ready("2 identities")

        assert manager.recv(1024) == b"READY=1\nSTATUS=2 identities"


def test_without_systemd_nothing_is_told(monkeypatch, tmp_path):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    sd.stopping()
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    sd.reloading()


@pytest.mark.parametrize(
    ("usec", "process", "interval"),
    [
        (None, None, None),
        ("20000000", None, 10.0),
        ("20000000", "ours", 10.0),
        ("20000000", "1", None),
    ],
)
def test_the_watchdog_is_fed_twice_in_its_time(monkeypatch, usec, process, interval):
    for name, value in (("WATCHDOG_USEC", usec), ("WATCHDOG_PID", process)):
        monkeypatch.delenv(name, raising=False)
        if value:
            monkeypatch.setenv(name, value.replace("ours", str(os.getpid())))

    assert sd.watchdog_interval() == interval
