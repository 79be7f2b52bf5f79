"""A sink from another package, really installed; and a sink whose extra is not."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from processes import command

pytestmark = pytest.mark.e2e

EXAMPLE = Path(__file__).parents[2] / "deploy/examples/sqlite-sink"
TABLE = "CREATE TABLE pair (name TEXT PRIMARY KEY, key_id TEXT, secret TEXT)"
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The example, installed by pip into a folder of its own."""
    folder = tmp_path_factory.mktemp("installed")
    offline = ("--no-deps", "--no-build-isolation", "--no-index")
    subprocess.run([*PIP, "install", *offline, "--target", folder, EXAMPLE], check=True)
    return folder


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "settings.sqlite"
    with closing(sqlite3.connect(path)) as opened:
        opened.execute(TABLE)
    return path


def rekeyd(config, *arguments, path=None, program=("-m", "rekeyd")):
    """Run a command, with packages from another folder too."""
    places = [str(path)] if path else []
    if "PYTHONPATH" in os.environ:
        places.append(os.environ["PYTHONPATH"])
    paths = {"PYTHONPATH": os.pathsep.join(places), "REKEYD_CONFIG": str(config.path)}
    return command(arguments, os.environ | paths, [sys.executable, *program])


def row(database):
    with closing(sqlite3.connect(database)) as opened:
        return opened.execute("SELECT key_id FROM pair WHERE name = 'backup'").fetchone()


def test_a_pair_reaches_a_sink_that_another_package_brings(aws, config, installed, database):
    config(sinks=[{"type": "sqlite_row", "path": str(database)}])

    checked = rekeyd(config, "check", path=installed)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"sink sqlite_row:{database}#backup" in checked.stdout
    assert row(database) is None

    rotated = rekeyd(config, "rotate", path=installed)
    assert rotated.returncode == 0, rotated.stdout + rotated.stderr
    assert aws.keys() == {row(database)[0]: "Active"}


def test_check_finds_that_it_cannot_write_before_anything_is_minted(aws, config, installed):
    config(sinks=[{"type": "sqlite_row", "path": "/nowhere/settings.sqlite"}])

    checked = rekeyd(config, "check", path=installed)

    assert checked.returncode == 1
    assert ": /nowhere/settings.sqlite: unable to open database file" in " ".join(
        checked.stdout.split()
    )
    assert aws.keys() == {}


def test_its_mistaken_settings_are_named_like_any_others(config, installed):
    config(sinks=[{"type": "sqlite_row", "pth": "/srv/settings.sqlite"}])

    checked = rekeyd(config, "check", "--offline", path=installed)

    assert checked.returncode == 78
    assert "identities[0].sinks[0].pth: there is no such setting; did you mean path?" in (
        checked.stderr
    )
    assert "identities[0].sinks[0].path: is missing" in checked.stderr


def test_without_the_package_its_type_is_not_known(config):
    config(sinks=[{"type": "sqlite_row", "path": "/srv/settings.sqlite"}])

    checked = rekeyd(config, "check", "--offline")

    assert checked.returncode == 78
    assert "there is no such sink sqlite_row" in checked.stderr


MISSING = {
    "jinja2": (
        {"type": "template", "path": "/srv/rclone.conf", "template": "{{ access_key_id }}"},
        "needs Jinja2, which is not installed",
        "pip install 'rekeyd[template]'",
    ),
    "nacl": (
        {
            "type": "github_actions_secret",
            "repository": "a/b",
            "secret_name": "AWS",
            "token": "env:HOME",
        },
        "PyNaCl is not installed",
        "pip install 'rekeyd[github]'",
    ),
}


@pytest.mark.parametrize("extra", MISSING)
def test_a_missing_extra_is_one_line_at_check(aws, config, extra):
    sink, says, do = MISSING[extra]
    config(sinks=[sink])
    without = (
        f"import sys; sys.modules['{extra}'] = None; sys.argv = ['rekeyd', 'check'];"
        " from rekeyd.__main__ import main; sys.exit(main())"
    )

    checked = rekeyd(config, program=("-c", without))

    assert checked.returncode == 1
    [line] = [line for line in checked.stdout.splitlines() if "✗" in line]
    assert says in line
    assert do in checked.stdout
