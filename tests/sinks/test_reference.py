"""Where tokens stand: in a file, the environment or systemd's credentials, never in the YAML."""

import os

import pytest
from pydantic import TypeAdapter, ValidationError

from rekeyd.errors import Refused
from rekeyd.sinks._reference import Reference, dereference, token


def test_a_file_is_read_anew_each_time(tmp_path):
    file = tmp_path / "token"
    file.write_text("first\n")
    assert token(f"file:{file}").reveal() == "first"

    file.write_text("second\n")
    assert token(f"file:{file}").reveal() == "second"


def test_a_pipe_that_nobody_writes_to_is_not_waited_for(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    with pytest.raises(Refused, match="there is no token"):
        dereference(f"file:{pipe}")


def test_a_variable_of_the_environment_is_read(monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", "from-env")

    assert token("env:SOME_TOKEN").reveal() == "from-env"


def test_a_credential_of_systemd_is_read_from_its_folder(tmp_path, monkeypatch):
    (tmp_path / "github").write_text("from-systemd")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))

    assert token("credential:github").reveal() == "from-systemd"


@pytest.mark.parametrize("reference", ["file:/nowhere/at/all", "env:SURELY_UNSET", "credential:x"])
def test_a_token_that_is_missing_is_one_clear_refusal(reference, monkeypatch):
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)

    with pytest.raises(Refused) as caught:
        dereference(reference)

    assert "cannot be used" in str(caught.value)
    assert "put the token there" in caught.value.do


@pytest.mark.parametrize("text", ["pa55 w0rd", "t0k3n\nX-Injected: yes", "t0kén"])
def test_what_cannot_stand_in_a_header_is_refused_unseen(tmp_path, text):
    file = tmp_path / "token"
    file.write_text(text)

    with pytest.raises(Refused, match="no token") as caught:
        token(f"file:{file}")

    assert text.split()[0] not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["ghp_inlinetoken", "file:relative/path", "env:9LIVES", "credential:../seal.key", "env:A B"],
)
def test_a_token_in_the_configuration_itself_is_a_mistake_that_is_not_repeated(text):
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Reference, config={"hide_input_in_errors": True}).validate_python(text)

    assert text not in str(caught.value)
    assert "file:/absolute/path" in str(caught.value)
