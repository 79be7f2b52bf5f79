import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import field_validator

from rekeyd import sinks
from rekeyd.config import AwsSettings, IdentitySettings, Listen, Settings, load, parse
from rekeyd.config.document import read
from rekeyd.config.explain import explain
from rekeyd.errors import Misconfigured
from rekeyd.sinks.base import SinkSettings

CONFIG = Path(__file__).parent.parent / "config"
BIRTH = datetime(2026, 11, 23, 12, tzinfo=UTC)
SINK = "{type: credential_process, path: /srv/pair.json}"


class StubSink(SinkSettings):
    type: Literal["stub"]
    where: str = "here"

    @field_validator("where")
    @classmethod
    def _wordy(cls, where):
        if where == "wordy":
            raise ValueError("is wrong\nin two lines")
        return where

    @property
    def place(self):
        if self.where == "broken":
            raise KeyError(self.where)
        return self.where


@pytest.fixture(autouse=True)
def stub_sink(monkeypatch):
    monkeypatch.setitem(sinks.BUILT_IN, "stub", f"{__name__}:StubSink")
    monkeypatch.setitem(sinks.BUILT_IN, "extra", "rekeyd_has_no_such_module:Sink")
    monkeypatch.setitem(sys.modules, __name__, sys.modules[StubSink.__module__])


def one(settings="", top="", sink=SINK) -> Settings:
    rows = "".join(f"    {row}\n" for row in settings.splitlines())
    return parse(
        f"{top}\nidentities:\n  - user: backup_user\n{rows}    sinks: [{sink}]\n", "f.yaml"
    )


def identity(settings="", top="") -> IdentitySettings:
    return one(settings, top).identities[0]


def refused(text) -> str:
    with pytest.raises(Misconfigured) as raised:
        parse(text, "f.yaml")
    assert raised.value.do
    return str(raised.value)


def in_sinks(*written) -> str:
    return "identities:\n- user: a\n  sinks:\n" + "".join(f"  - {sink}\n" for sink in written)


# Files


def test_the_minimal_file_gets_every_default():
    read = load(CONFIG / "rekeyd.yaml")
    rotation = read.identities[0].rotation
    assert (read.state, read.seal) == ("/var/lib/rekeyd", None)
    assert (read.listen.host, read.listen.port) == ("127.0.0.1", 9797)
    assert (read.log.format, read.log.level) == ("auto", "info")
    assert read.identities[0].name == read.identities[0].user == "backup_user"
    assert (rotation.every, rotation.overlap) == (timedelta(days=30), timedelta(hours=24))
    assert (rotation.grace, rotation.settle) == (timedelta(hours=24), timedelta(minutes=15))
    assert read.identities[0].verify == ("sts", "s3")


def test_the_file_is_found_by_the_environment(monkeypatch):
    monkeypatch.setenv("REKEYD_CONFIG", str(CONFIG / "rekeyd.yaml"))
    assert load().identities[0].user == "backup_user"


def test_without_a_name_the_file_in_etc_is_meant(monkeypatch):
    monkeypatch.setenv("REKEYD_CONFIG", "")
    monkeypatch.setattr("rekeyd.config.reader.DEFAULT", str(CONFIG / "none.yaml"))
    with pytest.raises(Misconfigured, match=r"none\.yaml: .* cannot be read: No such file"):
        load()


@pytest.mark.parametrize(
    ("name", "problem"),
    [("", "Is a directory"), ("none", "No such file"), ("rekeyd.yaml/x", "Not a directory")],
)
def test_what_is_no_readable_file_is_said(name, problem):
    with pytest.raises(Misconfigured, match=problem) as raised:
        load(CONFIG / name)
    assert "--config" in raised.value.do
    assert raised.value.__suppress_context__


def test_a_name_that_no_file_can_have_is_said():
    with pytest.raises(Misconfigured, match="no such name is possible"):
        load(Path("a\0b"))


def test_a_pipe_can_be_read():
    reading, writing = os.pipe()
    os.write(writing, (CONFIG / "rekeyd.yaml").read_bytes())
    os.close(writing)
    try:
        assert load(Path(f"/dev/fd/{reading}")).identities
    finally:
        os.close(reading)


@pytest.mark.parametrize(
    ("content", "line", "problem"),
    [
        (b"", 1, "holds no settings"),
        (b"# only a comment\n", 1, "holds no settings"),
        (b"state: /a\nseal: \xff\n", 2, "is not UTF-8"),
        ("state: /a\n".encode("utf-16"), 1, "is not UTF-8"),
        (b"state: /a\nseal: \0\n", 2, "U+0000"),
        (b"state: \x1b[31m\n", 1, "U+001B"),
        (b"[" * 1_000_000, 1, "levels deep"),
        (b"\n- - " + b"- " * 100_000, 2, "levels deep"),
        (b"? " * 100_000, 1, "levels deep"),
        (b"{a: " * 100_000, 1, "levels deep"),
        (b"state: " + b"9" * 5_000, 1, "looks like a number"),
        (b"#" * (8 * 2**20 + 1), 1, "is larger than"),
        (b"a: &a [*a, *a]", 1, "refers to itself"),
    ],
)
def test_bytes_that_are_no_configuration_are_one_clear_line(tmp_path, content, line, problem):
    file = tmp_path / "rekeyd.yaml"
    file.write_bytes(content)
    with pytest.raises(Misconfigured) as raised:
        load(file)
    first = str(raised.value).splitlines()[0]
    assert first.startswith(f"{file}:{line}: ")
    assert problem in first
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__ or raised.value.__context__ is None


def test_a_byte_order_mark_is_no_mistake(tmp_path):
    file = tmp_path / "rekeyd.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + (CONFIG / "rekeyd.yaml").read_bytes())
    assert load(file).identities


@pytest.mark.parametrize(("levels", "deep"), [(64, False), (65, True)])
def test_nesting_has_a_limit(levels, deep):
    said = refused("[" * levels + "]" * levels)
    assert ("levels deep" in said) == deep


def test_half_a_surrogate_is_one_clear_line():
    assert refused("state: \ud800") == "f.yaml:1: holds the character U+D800; write plain text"


def test_aliases_that_multiply_are_stopped():
    rows = [f"{n}: &{n} [{', '.join([f'*{o}'] * 9)}]" for o, n in pairwise("abcdefghi")]
    assert "more than 300000 values" in refused("a: &a [1]\n" + "\n".join(rows))


def test_an_alias_says_a_whole_value_again():
    read = parse(
        "identities:\n"
        "- {user: a, rotation: &usual {every: 9d}, sinks: [{type: stub, where: one}]}\n"
        "- {user: b, rotation: *usual, sinks: [{type: stub, where: two}]}\n",
        "f.yaml",
    )
    assert {i.rotation.every for i in read.identities} == {timedelta(days=9)}


def test_a_mistake_behind_an_alias_is_shown_where_it_is_used():
    said = refused(
        "identities:\n"
        "- {user: a, rotation: &usual {every: 9d, colour: red}, sinks: [{type: stub}]}\n"
        "- user: b\n"
        "  rotation: *usual\n"
        "  sinks: [{type: stub, where: two}]\n"
    )
    assert "f.yaml:2: identities[0].rotation.colour: " in said
    assert "identities[1].rotation.colour: " in said


def test_a_source_with_strange_characters_keeps_to_its_line():
    with pytest.raises(Misconfigured) as raised:
        parse("", "a\nb\x1b.yaml")
    assert str(raised.value).startswith("a?b?.yaml:1: ")


@given(st.one_of(st.text(), st.binary().map(lambda b: b.decode("latin-1"))))
@settings(max_examples=200)
def test_any_text_is_read_or_refused(text):
    read_or_refused(text)


MINIMAL = (CONFIG / "rekeyd.yaml").read_text(encoding="utf-8")
FULL = (CONFIG / "rekeyd.full.yaml").read_text(encoding="utf-8")
SNIPPETS = st.sampled_from(
    [
        *"[]{}:,-?&*!|>'\"%@`#\t\n ~",
        "<<: ",
        "*a",
        "&a ",
        "!!int ",
        "no",
        "1:30",
        "---\n",
        "\x85",
        "é",
    ]
)


@given(
    st.sampled_from([MINIMAL, FULL]),
    st.lists(
        st.tuples(st.floats(0, 1), st.integers(0, 8), SNIPPETS | st.text(max_size=4)), max_size=4
    ),
)
@settings(max_examples=100)
def test_any_damage_to_a_good_file_is_read_or_refused(text, damage):
    for share, cut, put in damage:
        at = int(share * len(text))
        text = text[:at] + put + text[at + cut :]
    read_or_refused(text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        *Settings.model_fields,
                        *IdentitySettings.model_fields,
                        "type",
                        "every",
                        "address",
                    ]
                ),
                inner,
                max_size=3,
            )
        ),
    )
)
@settings(max_examples=150)
def test_any_shape_of_data_is_read_or_refused(data):
    import yaml

    read_or_refused(yaml.safe_dump(data, allow_unicode=True))


def read_or_refused(text):
    try:
        assert isinstance(parse(text, "f.yaml"), Settings)
    except Misconfigured as mistakes:
        assert all(line.startswith("f.yaml:") for line in str(mistakes).splitlines())
        assert all(line.isprintable() for line in str(mistakes).splitlines())


# Settings


def test_the_settings_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        one().state = "/elsewhere"


@pytest.mark.parametrize(
    "address", ["postgresql://rekeyd:hunter2@db/rekeyd", "postgresql://db/rekeyd?password=hunter2"]
)
def test_a_password_in_the_address_of_the_state_is_refused_unseen(address):
    with pytest.raises(Misconfigured, match="holds no password") as refused:
        one(top=f"state: {address}")
    assert "hunter2" not in str(refused.value)


def test_a_database_keeps_no_seal_key():
    with pytest.raises(Misconfigured, match="has no seal, and a database keeps no seal key"):
        one(top="state: postgresql://rekeyd@db/rekeyd")
    read = one(top="state: postgresql://rekeyd@db/rekeyd?sslmode=verify-full\nseal: file:/seal.key")
    assert read.state_is_shared


@pytest.mark.parametrize(
    "row",
    [
        "basic_auth_users: {a: hunter2}",
        "tokens: hunter2",
        "password: [hunter2]",
        "state: postgres://a:hunter2@db",
        "secret: &hunter2 5",
        "aws: {endpoint_url: 'https://a:hunter2@b'}",
    ],
)
def test_what_may_be_a_secret_is_not_repeated(row):
    assert "hunter2" not in refused(f"{row}\nlisten: {{{row}}}\n")


@pytest.mark.parametrize("name", ["state", "seal", "token", "password", "client_secret", "url"])
def test_a_number_is_not_repeated_where_a_secret_may_stand(name):
    schema = {"properties": {name: {"type": "string"}}}
    document = read(f"{name}: 12345")
    error = {"type": "string_type", "loc": (name,), "msg": "", "input": None}
    said = explain(error, (name,), document.locate((name,))[2], schema)
    assert said == "is a number, and text is wanted; put it in quotes"


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("127.0.0.1:9797", "127.0.0.1", 9797),
        ("127.9.9.9:1", "127.9.9.9", 1),
        ("localhost:0", "localhost", 0),
        ('"[::1]:65535"', "::1", 65535),
    ],
)
def test_an_address_of_this_machine_needs_no_protection(address, host, port):
    listen = one(top=f"listen: {address}").listen
    assert (listen.host, listen.port) == (host, port)


def test_listening_can_be_switched_off():
    assert one(top="listen: none").listen is None


@pytest.mark.parametrize(
    "protection",
    [
        "insecure: true",
        "tls_server_config: {cert_file: /a, key_file: /b}",
        f"basic_auth_users: {{a: $2b$10${'a' * 53}}}",
    ],
)
def test_an_address_that_others_reach_needs_protection(protection):
    listen = one(top=f"listen: {{address: ':9797', {protection}}}").listen
    assert (listen.host, listen.port) == ("0.0.0.0", 9797)


def test_listen_settings_can_be_made_in_code():
    read = one()
    assert Settings(listen=Listen(address="[::1]:1"), identities=read.identities).listen.port == 1


def test_hashes_of_passwords_are_not_shown():
    digest = f"$2b$10${'a' * 53}"
    assert digest not in repr(one(top=f"listen: {{basic_auth_users: {{a: {digest}}}}}"))


def test_aws_of_an_identity_overrides_the_top_field_by_field():
    top = "aws: {region: us-east-1, role_arn: 'arn:aws:iam::012345670123:role/R', external_id: abc}"
    aws = identity(
        "aws: {region: eu-central-1, endpoint_url_s3: 'https://s3.example.com'}", top
    ).aws
    assert (aws.region, aws.external_id) == ("eu-central-1", "abc")
    assert aws.role_arn.endswith("role/R")
    assert (aws.endpoint_url_s3, aws.endpoint_url) == ("https://s3.example.com", None)


def test_without_sts_a_pair_is_proved_by_s3_alone():
    policy = "policy: {name: P, bucket: backup-bucket}"
    top = "aws: {endpoint_url: 'https://s3.example.com', endpoint_url_sts: none}"
    assert identity(policy, top).verify == ("s3",)
    assert identity(f"{policy}\nverify: [s3]", top).verify == ("s3",)
    assert identity(policy).verify == ("sts", "s3")


def test_an_identity_without_aws_has_that_of_the_top():
    assert identity(top="aws: {profile: rotator}").aws == AwsSettings(profile="rotator")


def test_an_external_id_without_a_role_is_said_once_where_it_stands():
    text = "aws: {external_id: abc}\nidentities:\n"
    text += (
        "- {user: a, sinks: [{type: stub, where: a}]}\n- {user: b, sinks: [{type: stub, where: b}]}"
    )
    assert refused(text) == (
        "f.yaml:1: aws: has an external_id, and no role_arn that asks for it; add one"
    )


def test_a_bucket_is_probed_when_it_is_known():
    assert identity().verify == ("sts",)
    assert identity("policy: {name: P, bucket: backup-bucket}").verify == ("sts", "s3")
    assert identity("policy: {name: P, bucket: backup-bucket}\nverify: [s3]").verify == ("s3",)


def test_the_same_user_may_stand_in_two_accounts():
    role = "arn:aws:iam::111122223333:role/R"
    read = parse(
        "identities:\n- {user: a, sinks: [{type: secrets_manager, secret_id: x}]}\n"
        f"- {{user: a, name: b, aws: {{role_arn: '{role}'}},"
        " sinks: [{type: secrets_manager, secret_id: x}]}\n",
        "f.yaml",
    )
    assert [i.name for i in read.identities] == ["a", "b"]


# Times


def test_a_key_is_due_after_every():
    assert identity("rotation: {every: 9d}").timing.due(BIRTH) == BIRTH + timedelta(days=9)


def test_a_key_is_due_at_the_first_fire_after_its_birth():
    timing = identity("rotation: {cron: '0 3 * * sun'}").timing
    assert timing.due(BIRTH) == datetime(2026, 11, 29, 3, tzinfo=UTC)
    assert (timing.overlap, timing.grace) == (timedelta(days=1), timedelta(days=1))
    assert timing.settle == timedelta(minutes=15)


@pytest.mark.parametrize("schedule", ["every: 9d", "cron: '0 3 * * sun'"])
def test_jitter_is_a_share_that_follows_from_the_name(schedule):
    def delay(name):
        rotation = f"name: {name}\nrotation: {{{schedule}, jitter: 100h}}"
        plain = identity(f"rotation: {{{schedule}}}").timing.due(BIRTH)
        return identity(rotation).timing.due(BIRTH) - plain

    delays = [delay(f"name-{n}") for n in range(8)]
    assert all(timedelta(0) <= d < timedelta(hours=100) for d in delays)
    assert len(set(delays)) == len(delays)
    assert delays == [delay(f"name-{n}") for n in range(8)]


def test_jitter_is_the_same_in_every_process():
    assert identity("rotation: {jitter: 10h}").rotation.share_of_jitter("a") == timedelta(
        seconds=28489
    )


# Sinks


def test_each_sink_is_read_by_its_own_class():
    read = parse(
        in_sinks("{type: stub, where: a, name: first}", "{type: stub, where: b}"), "f.yaml"
    )
    assert [s.label for s in read.identities[0].sinks] == ["first", "stub:b"]
    assert all(isinstance(s, StubSink) for s in read.identities[0].sinks)


def test_only_sinks_that_are_named_are_imported():
    code = (
        "import sys; from rekeyd.config import parse\n"
        "parse('identities: [{user: a, sinks: [{type: credential_process, path: /a}]}]', 'f')\n"
        "assert 'rekeyd.sinks.credential_process' in sys.modules\n"
        "heavy = {'boto3', 'botocore', 'urllib3', 'jinja2', 'sqlalchemy', 'difflib'}\n"
        "heavy |= {'rekeyd.sinks.vault_kv2', 'rekeyd.sinks.exec', 'rekeyd.config.explain'}\n"
        "assert not heavy & {*sys.modules}, heavy & {*sys.modules}\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_sink_that_cannot_be_imported_is_said():
    assert refused(in_sinks("{type: extra}")) == (
        "f.yaml:4: identities[0].sinks[0].type: cannot be used: "
        "No module named 'rekeyd_has_no_such_module'; install it"
    )


def test_a_sink_class_that_fails_is_said():
    assert refused(in_sinks("{type: stub, where: broken}")) == (
        "f.yaml:4: identities[0].sinks[0]: its settings could not be read (KeyError); look at them"
    )


def test_what_a_sink_class_says_is_one_line():
    assert refused(in_sinks("{type: stub, where: wordy}")) == (
        "f.yaml:4: identities[0].sinks[0].where: is wrong?in two lines"
    )


def test_mistakes_in_one_identity_do_not_hide_conflicts_with_it():
    said = refused(
        "identities:\n- {user: a b, name: x, sinks: [{type: stub}]}\n"
        "- {user: b, name: x, sinks: [{type: stub}]}\n"
    )
    assert "f.yaml:2: identities[0].user: " in said
    assert "f.yaml:3: identities[1].name: has the same name as identities[0].name in line 2" in said
    assert "f.yaml:3: identities[1].sinks[0]: has the same place" in said


def test_one_file_is_one_place_however_it_is_spelled(monkeypatch):
    class Loose(StubSink):
        type: Literal["loose"]
        path: str

        @property
        def place(self):
            return self.path

    monkeypatch.setattr(sys.modules[__name__], "Loose", Loose, raising=False)
    monkeypatch.setitem(sinks.BUILT_IN, "loose", f"{__name__}:Loose")
    for spelling in ("/srv/../srv/a", "/srv//a", "//srv/a", "/srv/./a"):
        said = refused(
            in_sinks("{type: loose, path: /srv/a}", f"{{type: loose, path: {spelling}}}")
        )
        assert (
            "f.yaml:5: identities[0].sinks[1]: has the same place as identities[0].sinks[0]" in said
        )
    other = refused(
        in_sinks("{type: loose, path: /srv/../a}", "{type: credential_process, path: /a}")
    )
    assert "has the same file as" in other


def test_a_linked_folder_leads_to_the_same_file(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    sink = "{{type: credential_process, path: {}/pair.json}}"
    said = refused(in_sinks(*(sink.format(tmp_path / folder) for folder in ("real", "link"))))
    assert "identities[0].sinks[1]: has the same place as identities[0].sinks[0]" in said


def test_one_name_on_two_servers_is_two_places():
    github = "type: github_actions_secret, repository: o/p, secret_name: S, token: 'env:T'"
    deliver = "type: exec, command: [/bin/deliver]"
    text = in_sinks(
        f"{{{github}}}",
        f"{{{github}, api_url: 'https://github.example.com/api/v3'}}",
        f"{{{deliver}, name: a, environment: {{TARGET: a}}}}",
        f"{{{deliver}, name: b, environment: {{TARGET: b}}}}",
    )
    assert len(parse(text, "f.yaml").identities[0].sinks) == 4


def test_two_profiles_of_one_file_are_two_places():
    text = in_sinks(*(f"{{type: aws_credentials, path: /a, profile: {p}}}" for p in "xy"))
    assert len(parse(text, "f.yaml").identities[0].sinks) == 2


# Channels


TOLD = "identities: [{user: a, sinks: [{type: stub}]}]\nnotify:\n"


def test_every_mistake_in_a_channel_is_said_where_it_is():
    said = refused(
        TOLD
        + "- {type: webhok, url: 'https://ops.example.com', secret: 'env:S'}\n"
        + "- {type: webhook, url: 'http://ops.example.com', secret: hunter2}\n"
        + "- mail\n"
        + "- {type: apprise}\n"
    )
    assert "f.yaml:3: notify[0].type: there is no such channel webhok" in said
    assert "f.yaml:4: notify[1].url: is not https" in said
    assert "f.yaml:4: notify[1].secret: is not file:/absolute/path" in said
    assert "hunter2" not in said
    assert (
        "f.yaml:5: notify[2]: is no mapping; write {type: …} with one of apprise, webhook" in said
    )
    assert "f.yaml:6: notify[3].urls: is missing" in said


def test_channels_are_a_list():
    assert "f.yaml:2: notify: " in refused(TOLD[:-1] + " all\n")


# Forms


def test_the_form_of_a_setting_is_told_in_words():
    bucket = refused(in_sinks("{type: s3_object, bucket: a_, key: pair}"))
    assert "is not as it must be: the bucket's name, of 3 to 255 letters, digits and ._-" in bucket
    assert bucket.endswith("at both ends; write for example backup-bucket")
    variables = "variables: {access_key_id: 1A}"
    told = refused(in_sinks(f"{{type: env_file, path: /a, dialect: docker, {variables}}}"))
    assert "the name for the key id, of letters, digits and _, no digit first; write" in told


def test_the_pattern_is_told_where_no_words_are_known():
    error = {"type": "string_pattern_mismatch", "msg": "String should match pattern '^a+$'"}
    schema = {"properties": {"where": {"type": "string", "description": "Where."}}}

    assert explain(error, ("where",), None, schema) == "should match pattern '^a+$'; write text"


@pytest.mark.parametrize(
    ("setting", "limit"), [("user", "64 at most"), ("group", "128 at most"), ("name", "64 at most")]
)
def test_a_name_that_is_too_long_is_told_of_the_limit(setting, limit):
    written = {"user": "backup_user", setting: "a" * 129}
    rows = "".join(f"  {name}: {value}\n" for name, value in written.items())

    assert limit in refused(f"identities:\n-\n{rows}  sinks: [{SINK}]\n")
