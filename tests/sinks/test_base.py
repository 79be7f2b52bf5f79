"""What a sink points at, and what custody calls it: a digest of all that decides where and how."""

import pytest

from rekeyd.sinks import settings_class

SINKS = {
    "azure_key_vault": {
        "vault": "https://a.vault.azure.net",
        "secret": "s3",
        "auth": {"method": "managed_identity"},
    },
    "circleci_variable": {"project": "gh/o/p", "variable": "S3", "token": "env:T"},
    "env_file": {"path": "/srv/pair", "dialect": "systemd"},
    "exec": {"command": ["/bin/deliver"]},
    "gcp_secret_manager": {"project": "p", "secret": "s3"},
    "github_actions_secret": {"repository": "o/p", "secret_name": "S3", "token": "env:T"},
    "gitlab_variable": {"project": "o/p", "variable": "S3", "token": "env:T"},
    "kubernetes_secret": {"namespace": "n", "secret_name": "s3"},
    "s3_object": {"bucket": "settings", "key": "pair.json"},
    "secrets_manager": {"secret_id": "s3"},
    "ssm_parameter": {"parameter": "/s3"},
    "template": {"path": "/srv/pair", "template": "{{ access_key_id }}"},
    "vault_kv2": {
        "address": "https://vault",
        "path": "s3",
        "auth": {"method": "token", "token": "env:T"},
    },
    "webhook": {"url": "https://deploy/hooks/a", "secret": "env:S"},
}

CHANGES = [
    ("azure_key_vault", {"vault": "https://b.vault.azure.net"}),
    ("azure_key_vault", {"format": "env"}),
    ("circleci_variable", {"address": "https://circleci.example.com"}),
    ("circleci_variable", {"format": "env"}),
    ("env_file", {"dialect": "docker"}),
    ("env_file", {"variables": {"access_key_id": "ID"}}),
    ("exec", {"environment": {"TARGET": "b"}}),
    ("exec", {"command": ["/bin/deliver", "b"]}),
    ("gcp_secret_manager", {"address": "https://secretmanager.example.com"}),
    ("gcp_secret_manager", {"format": "env"}),
    ("github_actions_secret", {"api_url": "https://github.example.com/api/v3"}),
    ("github_actions_secret", {"environment": "live"}),
    ("github_actions_secret", {"format": "env"}),
    ("gitlab_variable", {"address": "https://gitlab.example.com"}),
    ("gitlab_variable", {"format": "env"}),
    ("kubernetes_secret", {"api_server": "https://cluster"}),
    ("kubernetes_secret", {"fields": {"id": "ID"}}),
    ("s3_object", {"region": "eu-west-1"}),
    ("s3_object", {"fields": {"id": "ID"}}),
    ("secrets_manager", {"region": "eu-west-1"}),
    ("ssm_parameter", {"region": "eu-west-1"}),
    ("template", {"template": "{{ secret_access_key }}"}),
    ("vault_kv2", {"namespace": "team"}),
    ("vault_kv2", {"fields": {"id": "ID"}}),
    ("webhook", {"url": "https://deploy/hooks/b"}),
]


def settings(kind, **changed):
    return settings_class(kind)(type=kind, **{**SINKS[kind], **changed})


@pytest.mark.parametrize(("kind", "change"), CHANGES)
def test_what_decides_where_and_how_a_pair_is_written_is_in_the_mark(kind, change):
    assert settings(kind, **change).mark != settings(kind).mark


@pytest.mark.parametrize("kind", SINKS)
def test_a_name_is_not_in_the_mark_and_nothing_can_be_read_from_it(kind):
    mark = settings(kind, name="nightly").mark
    assert mark == settings(kind).mark
    assert len(mark) == 16
    assert int(mark, 16)


def test_what_is_written_out_and_what_is_left_out_have_one_mark_when_they_mean_the_same():
    written = settings("exec", timeout="30s", environment={})
    assert written.mark == settings("exec").mark


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
