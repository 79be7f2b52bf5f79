"""The demo, once, as people see it."""

import importlib.util
import os
import re
import signal
import subprocess

import pytest

from processes import PROGRAM


@pytest.mark.timeout(110)
def test_it_shows_rotations_and_no_refused_backup(rekeyd):
    done = rekeyd("demo", "--rotations", "2")

    assert done.code == 0, done.out + done.err
    assert "enforces policies" in done.out
    assert "kill -USR1" in done.out
    assert "rotation 2 done" in done.out
    table = dict(line.rsplit("  ", 1) for line in done.out.strip().splitlines()[-7:])
    told = {what.strip(): result for what, result in table.items()}
    assert told["of them refused"] == "0"
    assert int(told["backup calls with the sink's pair meanwhile"]) > 50
    assert told["the daemon's exit code after SIGTERM"] == "0"


@pytest.mark.timeout(110)
def test_ctrl_c_ends_it_in_order_and_shows_what_was_done(aws):
    with subprocess.Popen(
        ["env", "--default-signal=INT", *PROGRAM, "demo", "--rotations", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    ) as demo:
        shown = iter(demo.stdout.readline, "")
        assert any("the first pair is in place" in line for line in shown)
        demo.send_signal(signal.SIGINT)
        rest = demo.stdout.read()

    assert demo.returncode == 0, rest
    assert re.search(r"of them refused +0$", rest, re.MULTILINE)
    assert re.search(r"exit code after SIGTERM +0$", rest, re.MULTILINE)
    assert "Traceback" not in rest


def test_it_says_what_is_not_installed(rekeyd, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr("rekeyd.demo.find_spec", lambda _: None)

    done = rekeyd("demo")

    assert done.code == 78
    assert "pip install 'rekeyd[demo]'" in done.err
