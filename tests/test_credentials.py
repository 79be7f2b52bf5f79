"""`rekeyd credentials FILE`, as SDKs run it."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from botocore.session import Session

from rekeyd import __main__, credentials

COMMAND = str(Path(sys.executable).with_name("rekeyd"))
ALLOWED = {"rekeyd", "rekeyd.__main__", "rekeyd.credentials", "rekeyd.errors"}


@pytest.fixture
def pair(tmp_path):
    path = tmp_path / "pair.json"
    deliver(path, "AKIAFIRST", "first/+=secret")
    return path


def deliver(path, key_id, secret):
    path.write_text(credentials.document(key_id, secret))


def test_it_prints_the_pair_and_when_to_ask_again(pair, capsys):
    before = datetime.now(UTC).replace(microsecond=0)
    assert credentials.main([str(pair)]) == 0
    told = json.loads(capsys.readouterr().out)
    expiration = datetime.fromisoformat(told.pop("Expiration"))
    assert told == {
        "Version": 1,
        "AccessKeyId": "AKIAFIRST",
        "SecretAccessKey": "first/+=secret",
    }
    assert timedelta(0) <= expiration - before - timedelta(seconds=960) < timedelta(seconds=60)


@pytest.mark.parametrize("option", [["--expires-in", "120"], ["--expires-in=120"]])
def test_the_expiration_can_be_set(pair, capsys, option):
    assert credentials.main([*option, str(pair)]) == 0
    expiration = datetime.fromisoformat(json.loads(capsys.readouterr().out)["Expiration"])
    assert timedelta(seconds=60) < expiration - datetime.now(UTC) <= timedelta(seconds=120)


def test_help_teaches(capsys):
    assert credentials.main(["--help"]) == 0
    assert "credential_process = " in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["a", "b"],
        ["--wrong", "a"],
        ["--expires-in"],
        ["--expires-in", "0", "a"],
        ["--expires-in", "15m", "a"],
        ["--expires-in", "99999", "a"],
    ],
)
def test_wrong_usage_ends_with_2(capsys, arguments):
    assert credentials.main(arguments) == 2
    one_line(capsys)


def test_no_pair_yet_ends_with_75(tmp_path, capsys):
    assert credentials.main([str(tmp_path / "none")]) == 75
    assert "no pair was delivered there yet" in one_line(capsys)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"{", "is not JSON"),
        (b"\xff\xfe", "is not text"),
        (b"[1]", "is not the JSON of a credential_process"),
        (b'{"Version": 2}', "is not the JSON of a credential_process"),
        (b'{"Version": 1, "AccessKeyId": "AKIA"}', "holds no pair"),
        (b'{"Version": 1, "AccessKeyId": "AKIA", "SecretAccessKey": 5}', "holds no pair"),
        (b'{"SecretAccessKey": "s3cret"', "is not JSON"),
    ],
)
def test_a_file_of_something_else_ends_with_78_and_is_not_quoted(tmp_path, capsys, content, why):
    path = tmp_path / "pair"
    path.write_bytes(content)
    assert credentials.main([str(path)]) == 78
    told = one_line(capsys)
    assert why in told
    assert "s3cret" not in told


def test_a_folder_ends_with_78(tmp_path, capsys):
    assert credentials.main([str(tmp_path)]) == 78
    assert "Is a directory" in one_line(capsys)


def one_line(capsys):
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("rekeyd: ")
    assert printed.err.count("\n") == 1
    return printed.err


def test_it_imports_next_to_nothing(pair):
    program = (
        "import json, sys; before = set(sys.modules); from rekeyd.__main__ import main\n"
        "code = main(); print(*(sys.modules.keys() - before), file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "credentials", str(pair)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert set(done.stderr.split()) == ALLOWED


def test_the_installed_command_answers(pair):
    done = subprocess.run([COMMAND, "credentials", pair], check=True, capture_output=True)
    assert json.loads(done.stdout)["AccessKeyId"] == "AKIAFIRST"


def test_the_command_hands_over_what_follows_its_name(pair, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["rekeyd", "credentials", str(pair)])
    assert __main__.main() == 0
    assert "AKIAFIRST" in capsys.readouterr().out


def test_everything_else_is_the_command_lines(monkeypatch):
    from rekeyd import cli

    monkeypatch.setattr(sys, "argv", ["rekeyd", "status"])
    monkeypatch.setattr(cli, "main", lambda: 42)
    assert __main__.main() == 42


@pytest.fixture
def sdk(tmp_path, pair, monkeypatch):
    """The credentials of an SDK that was set up once and never again."""
    config = tmp_path / "config"
    config.write_text(f"[default]\ncredential_process = {COMMAND} credentials {pair}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    return Session().get_credentials()


def let_pass(sdk, minutes):
    """Let botocore's clock, and no other, go on."""
    then = datetime.now(UTC) + timedelta(minutes=minutes)
    sdk._time_fetcher = lambda: then


def test_boto3_asks_again_after_a_minute_and_gets_the_new_pair(sdk, pair):
    assert sdk.get_frozen_credentials()[:2] == ("AKIAFIRST", "first/+=secret")
    deliver(pair, "AKIASECOND", "second")
    assert sdk.get_frozen_credentials().access_key == "AKIAFIRST", "not for every request"
    let_pass(sdk, 1.1)
    assert sdk.get_frozen_credentials()[:2] == ("AKIASECOND", "second")


def test_boto3_rides_out_a_failure_of_five_minutes(sdk, pair):
    assert sdk.get_frozen_credentials().access_key == "AKIAFIRST"
    pair.unlink()
    let_pass(sdk, 5.5)
    assert sdk.get_frozen_credentials().access_key == "AKIAFIRST"
