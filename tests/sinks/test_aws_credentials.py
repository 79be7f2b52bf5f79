"""A profile in a credentials file, and everything beside it."""

import pytest
from cases_files import by_botocore, opened
from contract import NEW, OLD
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from rekeyd.errors import Refused
from rekeyd.secret import AccessPair, Secret
from rekeyd.sinks.aws_credentials import AwsCredentials, Profile

NEW_ID, NEW_SECRET = NEW.key_id, NEW.secret.reveal()
BACKUP = Profile("backup")


def with_new(text):
    return BACKUP.holding(text, NEW)


def test_a_first_profile_is_written_into_an_empty_file():
    assert with_new("") == (
        f"[backup]\naws_access_key_id = {NEW_ID}\naws_secret_access_key = {NEW_SECRET}\n"
    )


@pytest.mark.parametrize(
    "text",
    [
        # what a person writes: the two values change, and not one byte more
        (
            "# mine\n[default]\nregion = eu-west-1\n\n[backup]\naws_access_key_id=ID\n"
            "aws_secret_access_key=SECRET\nregion = us-east-1 ; not a comment\n"
        ),
        "[backup]\r\naws_access_key_id = ID\r\naws_secret_access_key = SECRET\r\n; end\r\n",
        "[backup]\naws_secret_access_key =    SECRET\nAWS_Access_Key_Id:ID\nregion=x",
        "[backup]\n  aws_access_key_id = ID\n  aws_secret_access_key = SECRET\n  region = x\n",
        "[backup]\naws_access_key_id = ID\n# between\n\naws_secret_access_key\t=\tSECRET",
        (
            "[backup]\ns3 =\n  max_concurrent_requests = 20\n  x = y\naws_access_key_id = ID\n"
            "aws_secret_access_key = SECRET\n[other]\naws_access_key_id = AKIAOTHER\n"
        ),
        (
            "[other]\nnote = [backup]\n  [backup]\n[backup]\naws_access_key_id = ID\n"
            "aws_secret_access_key = SECRET\n"
        ),
    ],
)
def test_two_values_change_and_not_one_byte_more(text):
    def filled(key_id, secret):
        return (
            text.replace("ID\n", f"{key_id}\n")
            .replace("ID\r\n", f"{key_id}\r\n")
            .replace("SECRET", secret)
        )

    assert with_new(filled(OLD.key_id, OLD.secret.reveal())) == filled(NEW_ID, NEW_SECRET)


def test_a_missing_setting_stands_below_its_header_in_the_same_layout():
    text = "[backup]\r\n  region = x\r\n[other]\r\n"
    assert with_new(text) == (
        f"[backup]\r\n  aws_access_key_id = {NEW_ID}\r\n  aws_secret_access_key = {NEW_SECRET}\r\n"
        "  region = x\r\n[other]\r\n"
    )


def test_a_file_without_a_last_line_end_gets_one_before_a_new_profile():
    assert with_new("[other]\nregion = x").startswith("[other]\nregion = x\n\n[backup]\n")
    assert with_new("[backup]").startswith(f"[backup]\naws_access_key_id = {NEW_ID}\n")


@pytest.mark.parametrize("name", ["aws_session_token", "AWS_SESSION_TOKEN", "aws_security_token"])
def test_a_stale_session_token_goes_with_its_continuation(name):
    text = f"[backup]\n{name} = IQo\n  rest\nregion = x\n[other]\naws_session_token = theirs\n"
    after = with_new(text)
    assert "IQo" not in after
    assert "rest" not in after
    assert after.endswith("region = x\n[other]\naws_session_token = theirs\n")


def test_a_pair_beside_a_stale_token_is_none_that_works():
    text = with_new("") + "aws_session_token = IQo\n"
    assert BACKUP.held(text) is None
    assert with_new(text) == with_new("")


def test_a_temporary_pair_is_told_whole_so_that_it_is_not_overwritten():
    temporary = AccessPair("ASIATEMPORARY", Secret("s"))
    text = BACKUP.holding("", temporary) + "aws_session_token = IQo\n"
    assert BACKUP.held(text).key_id == "ASIATEMPORARY"


@pytest.mark.parametrize(
    "text", ["", "[other]\n", "[backup]\n", "[backup]\naws_access_key_id = A\n"]
)
def test_half_a_pair_is_none(text):
    assert BACKUP.held(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "aws_access_key_id = A\n",
        "[backup]\n[backup]\n",
        "[backup]\nregion = x\nregion = y\n",
        "[backup]\nno setting\n",
        "\ufeff[backup]\n",
        "{}",
    ],
)
def test_a_file_that_consumers_cannot_read_is_refused_before_anything_is_minted(tmp_path, text):
    path = tmp_path / "credentials"
    path.write_text(text, encoding="utf-8")
    sink = opened("aws_credentials", path, profile="backup")
    for refused in (sink.read, sink.check, lambda: sink.put(NEW)):
        with pytest.raises(Refused, match="is no AWS credentials file"):
            refused()
    assert path.read_text(encoding="utf-8") == text


def test_a_layout_in_which_a_new_line_would_swallow_another_is_refused():
    with pytest.raises(ValueError, match="laid out"):
        with_new("[backup]\n [other]\nregion = x\n")


def test_a_token_that_every_profile_inherits_is_refused(tmp_path):
    path = tmp_path / "credentials"
    path.write_text("[DEFAULT]\naws_session_token = IQo\n")
    with pytest.raises(Refused, match="cannot hold this pair"):
        opened("aws_credentials", path, profile="backup").check()


def test_bytes_of_another_encoding_stay(tmp_path):
    path = tmp_path / "credentials"
    path.write_bytes(b"# sch\xf6n\n[backup]\n")
    opened("aws_credentials", path, profile="backup").put(NEW)
    assert path.read_bytes().startswith(b"# sch\xf6n\n[backup]\naws_access_key_id = ")


def test_a_secret_that_ini_cannot_carry_is_refused(tmp_path):
    path = tmp_path / "credentials"
    with pytest.raises(Refused, match="cannot hold this pair") as refusal:
        opened("aws_credentials", path).put(AccessPair("AKIA", Secret("two\nlines")))
    assert "two" not in str(refusal.value)
    assert not path.exists()


def test_two_profiles_of_one_file_do_not_disturb_each_other(tmp_path):
    path = tmp_path / "credentials"
    opened("aws_credentials", path, profile="other").put(OLD)
    opened("aws_credentials", path, profile="backup").put(NEW)
    assert by_botocore(path).fingerprint() == NEW.fingerprint()
    assert (
        opened("aws_credentials", path, profile="other").read().fingerprint() == OLD.fingerprint()
    )


@pytest.mark.parametrize("profile", ["", " backup", "DEFAULT", "a]b", "a\nb"])
def test_a_name_that_no_profile_can_have_is_a_mistake(profile):
    with pytest.raises(ValidationError):
        AwsCredentials(type="aws_credentials", path="/srv/c", profile=profile)


PIECES = st.sampled_from(
    [
        "[backup]",
        "[other]",
        "[default]",
        "aws_access_key_id = OLD",
        "aws_secret_access_key:OLD",
        "aws_session_token=T",
        "region = x",
        "s3 =",
        "# c",
        "; c",
        "",
        "x",
        "a = [backup]",
    ]
)
LINES = st.lists(st.tuples(st.sampled_from(["", " ", "   ", "\t"]), PIECES), max_size=9)


@given(LINES, st.sampled_from(["\n", "\r\n", "\r"]), st.booleans())
@example([("", "[backup]"), (" ", "[other]")], "\n", True)
def test_whatever_the_file_it_holds_the_pair_and_all_else_or_is_refused(lines, end, ended):
    text = end.join(indent + piece for indent, piece in lines) + (end if ended else "")
    try:
        after = with_new(text)
    except ValueError:
        return
    assert BACKUP.held(after).fingerprint() == NEW.fingerprint()
    comments = ("#", ";")
    kept = [line for line in text.splitlines() if line.strip().startswith(comments)]
    kept = [line for line in text.splitlines() if line in kept or line.startswith("region")]
    assert [line for line in after.splitlines() if line in kept] == kept
    assert with_new(after) == after
