"""The settings that all file sinks have."""

import pytest
from pydantic import ValidationError

from rekeyd.sinks.credential_process import CredentialProcess


def settings(**given):
    return CredentialProcess(**{"type": "credential_process", "path": "/srv/pair.json", **given})


@pytest.mark.parametrize(("mode", "meant"), [("0640", 0o640), ("440", 0o440), ("0600", 0o600)])
def test_a_mode_is_octal(mode, meant):
    assert settings(mode=mode).file().mode == meant


@pytest.mark.parametrize(
    ("mode", "why"),
    [
        (0o640, "must be quoted"),
        ("0644", "every user of this machine"),
        ("0602", "every user of this machine"),
        ("0240", "let the owner read"),
        ("u=rw", "must be octal"),
        ("4600", "must be octal"),
        ("0680", "must be octal"),
    ],
)
def test_a_mode_that_is_unclear_or_unsafe_is_a_mistake(mode, why):
    with pytest.raises(ValidationError, match=why):
        settings(mode=mode)


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("~/.aws/credentials", "is not expanded"),
        ("~backup/.aws/credentials", "is not expanded"),
        ("credentials", "absolute"),
        ("", "absolute"),
        ("/", "name a file"),
        ("/srv/", "name a file"),
        ("/srv//pair", "name a file"),
        ("/srv/../pair", "name a file"),
        ("/srv/pa\0ir", "name a file"),
    ],
)
def test_a_path_is_plain_and_absolute(path, why):
    with pytest.raises(ValidationError, match=why):
        settings(path=path)


def test_a_sink_is_called_by_what_it_is_unless_it_has_a_name():
    assert settings().label == "credential_process:/srv/pair.json"
    assert settings(name="nightly").label == "nightly"
