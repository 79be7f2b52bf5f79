"""A pair as the text of one variable: three forms that a real reader reads back."""

import json
import os
import subprocess

import boto3
import pytest
from botocore.session import Session

from rekeyd.errors import Refused
from rekeyd.secret import AccessPair, Secret
from rekeyd.sinks._aws import Fields
from rekeyd.sinks._value import decode, encode

PAIR = AccessPair("AKIAIOSFODNN7EXAMPLE", Secret("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"))
ODD = AccessPair("AKIA", Secret("a'b\"c $d `e` \\f=g#h"))
FORMS = ["json", "env", "credentials"]
LONE = '{"region": "\\ud800"}'
"""A JSON object that no encoding can write: half of a character of UTF-16."""


@pytest.mark.parametrize("form", FORMS)
def test_a_pair_comes_back_as_it_was(form):
    assert decode(encode(PAIR, form), form).fingerprint() == PAIR.fingerprint()


@pytest.mark.parametrize("form", ["json", "env"])
def test_odd_characters_survive(form):
    assert decode(encode(ODD, form), form).fingerprint() == ODD.fingerprint()


def test_the_shell_reads_the_env_form():
    script = encode(ODD, "env") + 'printf "%s\n" "$AWS_ACCESS_KEY_ID" "$AWS_SECRET_ACCESS_KEY"'
    shown = subprocess.run(["sh"], input=script, text=True, capture_output=True, check=True)

    assert shown.stdout.splitlines() == [ODD.key_id, ODD.secret.reveal()]


def test_github_env_reads_the_env_form():
    """$GITHUB_ENV takes NAME=VALUE as it stands: a real secret needs no quotes."""
    assert encode(PAIR, "env").splitlines()[1] == f"AWS_SECRET_ACCESS_KEY={PAIR.secret.reveal()}"


def test_boto3_reads_the_credentials_form(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    file = tmp_path / "credentials"
    file.write_text(encode(PAIR, "credentials"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))

    found = boto3.Session(botocore_session=Session()).get_credentials()

    assert (found.access_key, found.secret_key) == (PAIR.key_id, PAIR.secret.reveal())


def test_json_is_one_line_without_blanks_so_that_it_can_be_masked():
    assert not set(" \n") & set(encode(PAIR, "json"))


def test_other_fields_of_a_json_object_are_kept():
    written = json.loads(encode(PAIR, "json", over='{"region": "eu-central-1", "n": 1.50}'))

    assert written["region"] == "eu-central-1"
    assert written["AWS_ACCESS_KEY_ID"] == PAIR.key_id


@pytest.mark.parametrize("form", FORMS)
def test_a_pair_in_another_form_is_replaced(form):
    for other in FORMS:
        assert decode(encode(PAIR, form, over=encode(ODD, other)), form) is not None


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("text", ["hunter2", "[1, 2]", "ssh-ed25519 AAAA", "A=1\nB=2\n", LONE])
def test_what_is_no_pair_is_somebody_elses_and_stays(form, text):
    with pytest.raises(Refused, match="no pair") as caught:
        encode(PAIR, form, over=text)

    assert text not in str(caught.value)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "text", ["", "{}", '{"AWS_ACCESS_KEY_ID": "AKIA"}', "'", "[default", "[x]", "[" * 100_000]
)
def test_text_without_a_whole_pair_holds_none(form, text):
    assert decode(text, form) is None


@pytest.mark.parametrize("odd", ["ключ", "\\ud800", "\\u00e9"])
@pytest.mark.parametrize("form", FORMS)
def test_what_is_no_ascii_is_no_pair(form, odd):
    text = {
        "json": f'{{"AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": "{odd}"}}',
        "env": "AWS_ACCESS_KEY_ID=AKIA\nAWS_SECRET_ACCESS_KEY=ключ\n",
        "credentials": "[default]\naws_access_key_id = AKIA\naws_secret_access_key = ключ\n",
    }[form]

    assert decode(text, form) is None


@pytest.mark.parametrize("text", [LONE, "[" * 100_000, '{"a":' * 100_000])
def test_an_object_that_cannot_be_kept_is_somebody_elses(text):
    for act in (Fields().decode, lambda held: Fields().encode(PAIR, held)):
        with pytest.raises(Refused, match="no JSON object"):
            act(text)
