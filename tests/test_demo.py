"""The demo, once, as people see it."""

import importlib.util

import pytest


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


def test_it_says_what_is_not_installed(rekeyd, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr("rekeyd.demo.find_spec", lambda _: None)

    done = rekeyd("demo")

    assert done.code == 78
    assert "pip install 'rekeyd[demo]'" in done.err
