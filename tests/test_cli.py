"""Each command as it is typed: what it prints, and the exit code that it leaves with."""

import json
import os
import signal
import subprocess
import sys
from subprocess import PIPE

import pytest

from processes import LONG_ENOUGH, PROGRAM

COMMANDS = [
    "run",
    "provision",
    "rotate",
    "rollback",
    "adopt",
    "plan",
    "status",
    "history",
    "policy",
    "check",
    "credentials",
    "demo",
]

A_DAY_OF_JSON = ("provision", "rotate", "plan", "status", "history", "check")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(rekeyd, command):
    done = rekeyd(command, "--help")

    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"Usage: rekeyd {command}") or "rekeyd credentials" in done.out


def test_help_and_version_need_no_configuration(rekeyd, config):
    config.path.unlink()

    assert "rotate --revoke-now" in rekeyd("--help").out
    assert "rekeyd provision && rekeyd check" in rekeyd("--help").out  # check wants the user
    assert rekeyd("--version").out.startswith("rekeyd ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_is_printed(shell):
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from rekeyd.cli import main; sys.argv[0]='rekeyd'; main()",
        ],
        env=os.environ | {"_REKEYD_COMPLETE": f"{shell}_source"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "_REKEYD_COMPLETE" in done.stdout


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("rekeyd ro", ["rotate", "rollback"]),
        ("rekeyd rotate ", ["backup_user"]),
        ("rekeyd rotate --re", ["--revoke-now"]),
        ("rekeyd -c {path} rollback b", ["backup_user"]),
        ("rekeyd history --config {path} ", ["backup_user"]),
        ("rekeyd adopt c", []),
        ("rekeyd -c /nowhere rotate ", []),
    ],
)
def test_a_shell_completes_commands_options_and_identities(
    rekeyd, config, monkeypatch, typed, offered
):
    words = typed.format(path=config.path)
    monkeypatch.setenv("_REKEYD_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))

    done = rekeyd()

    assert (done.code, done.err) == (0, "")
    assert sorted(line.removeprefix("plain,") for line in done.out.split()) == sorted(offered)


@pytest.mark.parametrize(
    "typed",
    [
        ["history", "-n", "0"],
        ["rotate", "--wait", "-1"],
        ["rotate", "--wait", "soon"],
        ["demo", "--rotations", "-1"],
        ["policy", "nobody"],
        ["rollback"],
        ["status", "backup_user"],
        ["rotaet"],
    ],
)
def test_what_cannot_be_meant_is_wrong_usage(rekeyd, typed):
    done = rekeyd(*typed)

    assert (done.code, done.out) == (2, "")
    assert "Error: " in done.err


def test_rotate_makes_a_pair_by_itself_and_shows_each_step(rekeyd, aws, config):
    done = rekeyd("rotate")

    assert (done.code, done.err) == (0, "")
    shown = [line.split()[3] for line in done.out.splitlines()]
    steps = [step for step in shown if step != "record"]
    assert steps == ["rotate", "mint", "verify", "deliver", "rotated"]
    assert aws.keys() == {config.held(): "Active"}


@pytest.mark.parametrize("command", A_DAY_OF_JSON)
def test_json_is_one_document_and_nothing_else(rekeyd, command):
    rekeyd("rotate")

    done = rekeyd(command, "--json")

    assert isinstance(json.loads(done.out), dict)
    assert done.err == ""


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_help_fits_a_terminal_of_80_columns_and_keeps_its_lines(rekeyd, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "80")
    shown = rekeyd(*command, "--help").out

    assert "\\b" not in shown
    assert "..." not in shown.replace("]...", "")
    assert max(map(len, shown.splitlines())) <= 80


def test_ctrl_c_finishes_what_has_begun_and_says_how_it_goes_on(aws, config, proxy):
    gate = proxy.hold("CreateAccessKey")
    config.through(proxy)
    with subprocess.Popen(
        # whoever runs the tests in the background ignores SIGINT, and hands that down
        ["env", "--default-signal=INT", *PROGRAM, "-c", config.path, "rotate"],
        stdout=PIPE,
        stderr=PIPE,
        text=True,
    ) as command:
        assert gate.arrived.wait(LONG_ENOUGH)
        command.send_signal(signal.SIGINT)
        gate.opened.set()
        out, err = command.communicate(timeout=LONG_ENOUGH)

    assert command.returncode == 130
    assert "mint" in out
    assert "it goes on when the daemon runs" in err
    assert "Traceback" not in err
    assert len(aws.keys()) == 1
