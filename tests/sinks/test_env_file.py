"""Two variables in a file, as three readers take it."""

import string
import subprocess

import pytest
from cases_files import opened
from contract import NEW, OLD
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from readers import docker_environment, systemd_environment

from rekeyd.errors import Refused
from rekeyd.secret import AccessPair, Secret
from rekeyd.sinks.env_file import DIALECTS, EnvFile, Variables, VariablesText

ID, SECRET = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"
PRINTABLE = "".join(c for c in string.printable if c.isprintable())
DIALECT = st.sampled_from(sorted(DIALECTS))


def form(dialect, **variables):
    return VariablesText(DIALECTS[dialect], Variables(**variables))


def shell_environment(path):
    names = (ID, SECRET, "OTHER")
    script = '. "$1"; printf "%s\\0%s\\0%s" ' + " ".join(f'"${name}"' for name in names)
    done = subprocess.run(
        ["sh", "-c", script, "sh", path], check=True, capture_output=True, text=True, env={}
    )
    return dict(zip(names, done.stdout.split("\0"), strict=True))


READERS = {
    "systemd": systemd_environment,
    "docker": docker_environment,
    "shell": shell_environment,
}

ODD = [
    string.ascii_letters + string.digits + "/+=",
    PRINTABLE,
    PRINTABLE[::-1],
    " blanks at both ends ",
    "'",
    "'quoted'",
    '"',
    "\\",
    "ends in \\",
    "#",
    "$HOME `id` $(id) ${x}",
    "~",
    "ünïcödé",
]


@pytest.mark.parametrize("dialect", READERS)
@pytest.mark.parametrize("secret", ODD)
def test_every_character_comes_back_through_the_reader(tmp_path, dialect, secret):
    path = tmp_path / "env"
    opened("env_file", path, dialect=dialect).put(AccessPair("AKIA", Secret(secret)))
    found = READERS[dialect](path)
    assert (found[ID], found[SECRET]) == ("AKIA", secret)


@pytest.mark.parametrize("dialect", ["systemd", "shell"])
def test_even_a_line_break_comes_back_where_there_are_quotes(tmp_path, dialect):
    path = tmp_path / "env"
    opened("env_file", path, dialect=dialect).put(AccessPair("AKIA", Secret("two\nlines")))
    assert READERS[dialect](path)[SECRET] == "two\nlines"


def test_docker_knows_no_line_break_in_a_value(tmp_path):
    path = tmp_path / "env"
    with pytest.raises(Refused, match="no line breaks") as refusal:
        opened("env_file", path, dialect="docker").put(AccessPair("AKIA", Secret("two\nlines")))
    assert "two" not in str(refusal.value)
    assert not path.exists()


FILES = {
    "systemd": "; c\n# it's\n\nOTHER='a b' \"c\"\n  {id} = {old_id}  \nA=\\\n  B\n"
    "{secret}='{old}'\nZ",
    "docker": "# it's\r\nOTHER='a b'\r\n{id}={old_id}\r\nPASSED\r\n{secret}={old}\r\nZ= x ",
    "shell": "#!/bin/sh\n# it's\nset -a; OTHER='a\nb'\n{id}={old_id} # c\nif true; then\n"
    '  export {secret}="{old}"\nfi\nZ=$HOME',
}
KEPT = {"systemd": "a bc", "docker": "'a b'", "shell": "a\nb"}


@pytest.mark.parametrize("dialect", FILES)
def test_everything_else_stays_to_the_byte(tmp_path, dialect):
    path = tmp_path / "env"
    old = {"old_id": OLD.key_id, "old": OLD.secret.reveal()}
    text = FILES[dialect].format(id=ID, secret=SECRET, **old)
    path.write_bytes(text.encode())
    sink = opened("env_file", path, dialect=dialect)
    assert sink.read().fingerprint() == OLD.fingerprint()

    sink.put(NEW)

    quoted = {"systemd": f"'{old['old']}'", "shell": f'"{old["old"]}"', "docker": old["old"]}
    value = text.replace(quoted[dialect], NEW.secret.reveal()).replace(OLD.key_id, NEW.key_id)
    trailing = value.replace(f"{NEW.key_id}  \n", f"{NEW.key_id}\n")
    assert path.read_bytes().decode() == trailing
    found = READERS[dialect](path)
    assert (found[ID], found[SECRET]) == (NEW.key_id, NEW.secret.reveal())
    assert found["OTHER"] == KEPT[dialect]


@pytest.mark.parametrize("dialect", READERS)
def test_missing_variables_follow_what_is_there(dialect):
    after = form(dialect).holding("OTHER=1", NEW)
    prefix = "export " if dialect == "shell" else ""
    assert after == (
        f"OTHER=1\n{prefix}{ID}={NEW.key_id}\n{prefix}{SECRET}={NEW.secret.reveal()}\n"
    )
    assert form(dialect).holding(after, NEW) == after


@pytest.mark.parametrize("dialect", READERS)
def test_a_variable_that_is_set_twice_is_changed_twice(dialect):
    text = f"{ID}=a\n{ID}=b\n{SECRET}=c\n"
    assert form(dialect).held(text).key_id == "b"
    after = form(dialect).holding(text, NEW)
    assert after.count(NEW.key_id) == 2


@pytest.mark.parametrize("dialect", READERS)
def test_a_stale_session_token_goes(dialect):
    text = form(dialect).holding("", NEW)
    spoilt = f"A=1\nAWS_SESSION_TOKEN=IQo\n{text}"
    assert form(dialect).held(spoilt) is None
    assert form(dialect).holding(spoilt, NEW) == f"A=1\n{text}"


def test_a_session_token_beside_names_of_ones_own_stays():
    own = form("docker", access_key_id="S3_ID", secret_access_key="S3_SECRET")
    after = own.holding("AWS_SESSION_TOKEN=IQo\n", NEW)
    assert after.startswith("AWS_SESSION_TOKEN=IQo\nS3_ID=")
    assert own.held(after).fingerprint() == NEW.fingerprint()


@pytest.mark.parametrize(
    ("dialect", "text", "why"),
    [
        ("systemd", "A='open\n", "never closed"),
        ("systemd", "# C:\\\nA=1\n", "comment that ends in a backslash"),
        ("docker", "A B=1\n", "space in it"),
        ("shell", "A='open\n", "never closed"),
        ("shell", "cat <<X\nAWS_ACCESS_KEY_ID=1\nX\n", "here-document"),
        ("shell", f"export A=1 {ID}=2\n", "otherwise"),
        ("shell", f"{ID}=2 command\n", "otherwise"),
        ("shell", f'{ID}="$OTHER"\n', "otherwise"),
        ("shell", f"{ID}=2\r\n", "otherwise"),
        ("shell", f"{ID}=2\nunset {ID}\n", "otherwise"),
    ],
)
def test_what_cannot_be_followed_is_refused_and_left_alone(tmp_path, dialect, text, why):
    path = tmp_path / "env"
    path.write_bytes(text.encode())
    sink = opened("env_file", path, dialect=dialect)
    for refused in (sink.read, sink.check, lambda: sink.put(NEW)):
        with pytest.raises(Refused, match=why):
            refused()
    assert path.read_bytes() == text.encode()


def test_a_last_line_that_goes_on_would_swallow_the_new_one():
    with pytest.raises(ValueError, match="laid out"):
        form("systemd").holding("A=1\\\n", NEW)


LINES = st.lists(
    st.sampled_from(
        [
            "A=1",
            "# it's",
            "; c",
            "",
            "  ",
            f"{ID}=x",
            f" {SECRET}='y'",
            f'{ID}="a b"',
            "B='1\n2'",
            "C=a\\ b",
            "export D=1",
            "AWS_SESSION_TOKEN=t",
            "E",
            "F==",
            "G='a'b'c'",
            "H=#x",
            'I="\\""',
        ]
    ),
    max_size=8,
)


@given(DIALECT, LINES, st.booleans())
def test_whatever_the_file_it_holds_the_pair_or_is_refused(dialect, lines, ended):
    text = "\n".join(lines) + ("\n" if ended else "")
    try:
        after = form(dialect).holding(text, NEW)
    except ValueError:
        return
    assert form(dialect).held(after).fingerprint() == NEW.fingerprint()
    assert form(dialect).holding(after, NEW) == after


@given(st.lists(st.sampled_from(["A", "=", "'", '"', "\\", " ", "\t", "b", "#", ";", "\n", "$"])))
def test_rekeyd_and_systemd_read_the_same(tmp_path_factory, characters):
    path = tmp_path_factory.getbasetemp() / "systemd"
    path.write_text("".join(characters))
    try:
        ours = {
            a.name: a.value for a in DIALECTS["systemd"].assignments("".join(characters), set())
        }
    except ValueError:
        return
    assert ours == systemd_environment(path)


def test_the_two_variables_need_two_names():
    with pytest.raises(ValidationError, match="variables of their own"):
        EnvFile(
            type="env_file",
            path="/srv/env",
            dialect="docker",
            variables={"access_key_id": "A", "secret_access_key": "A"},
        )
