"""What the settings of a sink say that it points at."""

import pytest

from rekeyd.sinks import settings_class

SINKS = {
    "circleci_variable": {"project": "gh/o/p", "variable": "S3", "token": "env:T"},
    "exec": {"command": ["/bin/deliver"]},
    "github_actions_secret": {"repository": "o/p", "secret_name": "S3", "token": "env:T"},
}


def settings(kind, **changed):
    return settings_class(kind)(type=kind, **{**SINKS[kind], **changed})


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("circleci_variable", {"address": "https://circleci.example.com"}),
        ("exec", {"environment": {"TARGET": "b"}}),
        ("github_actions_secret", {"api_url": "https://github.example.com/api/v3"}),
    ],
)
def test_the_same_name_elsewhere_is_another_place(kind, change):
    assert settings(kind, **change).place != settings(kind).place


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("github_actions_secret", {"api_url": "https://api.github.com/"}),
        ("github_actions_secret", {"format": "env", "token": "env:OTHER"}),
        ("exec", {"timeout": "1m"}),
    ],
)
def test_one_place_is_one_however_it_is_reached(kind, change):
    assert settings(kind, **change).place == settings(kind).place


def test_variables_of_a_program_stand_in_no_log():
    assert settings("exec", environment={"TARGET": "b"}).label == "exec:/bin/deliver"
