"""Secrets at rest: bound to their pair, and to a key that only its owner can read."""

import base64
import os
from unittest.mock import Mock

import pytest

from rekeyd import seal as module
from rekeyd.errors import Misconfigured
from rekeyd.seal import CHECK, KeySealer, make_key, open_sealer, read_key
from rekeyd.secret import AccessPair, Secret

KEY = bytes(range(32))
PAIR = AccessPair("AKIA1", Secret("the secret of a pair"))


def write(path, content, mode=0o600):
    path.touch()
    path.chmod(mode)
    path.write_bytes(content)
    return path


def no_kms():
    raise AssertionError("KMS was not asked for")


def test_a_secret_is_opened_with_what_it_was_sealed_with():
    sealer = KeySealer(KEY, "the key")
    sealed = sealer.seal("backup_user", PAIR)

    assert sealer.unseal("backup_user", "AKIA1", sealed).reveal() == "the secret of a pair"
    assert sealed != sealer.seal("backup_user", PAIR)
    assert b"secret" not in base64.b64decode(sealed)


@pytest.mark.parametrize(
    ("identity", "key_id", "key"),
    [
        ("another_user", "AKIA1", KEY),
        ("backup_user", "AKIA2", KEY),
        ("backup_user", "AKIA1", bytes(32)),
    ],
)
def test_a_secret_moved_elsewhere_does_not_open(identity, key_id, key):
    sealed = KeySealer(KEY, "the key").seal("backup_user", PAIR)

    with pytest.raises(Misconfigured, match="does not open what the state holds") as refused:
        KeySealer(key, "the key").unseal(identity, key_id, sealed)
    assert "put back the key that this state was made with" in refused.value.do


def test_what_an_earlier_rekeyd_sealed_still_opens():
    sealer = KeySealer(KEY, "the key")
    secret = "5S7EEo5Asv3c9WyS4jVAWjnvxRNLKGn5hfdfJkPGsi2ssxIPxxbXcDIjeP6bFeD4"
    check = (
        "Uy540aUNUyh2PL4SGx7MHamDAEguMphbKl+ZPMeKUzd7"
        "Lo8qUFDUk8Zn4dvQqpds4vWz6kalcoGEc2xAS44vOZck/w=="
    )

    assert sealer.unseal("backup_user", "AKIA1", secret).reveal() == PAIR.secret.reveal()
    assert sealer.unseal("rekeyd", CHECK.key_id, check).reveal() == CHECK.secret.reveal()


@pytest.mark.parametrize("sealed", ["", "no base64", "AAAA"])
def test_what_is_no_sealed_secret_does_not_open(sealed):
    with pytest.raises(Misconfigured):
        KeySealer(KEY, "the key").unseal("backup_user", "AKIA1", sealed)


@pytest.mark.parametrize("content", [KEY, base64.b64encode(KEY), base64.b64encode(KEY) + b"\n"])
def test_a_key_is_raw_or_base64(tmp_path, content):
    assert read_key(write(tmp_path / "key", content)) == KEY


@pytest.mark.parametrize(
    ("content", "mode", "problem"),
    [
        (KEY, 0o640, "is open to others"),
        (KEY + b"\n", 0o600, "is not 32 bytes"),
        (b"", 0o600, "is not 32 bytes"),
        (b"!" + base64.b64encode(KEY), 0o600, "is not 32 bytes"),
        (b"no base64", 0o600, "is not 32 bytes"),
    ],
)
def test_another_file_is_no_key(tmp_path, content, mode, problem):
    with pytest.raises(Misconfigured, match=problem) as error:
        read_key(write(tmp_path / "key", content, mode))
    assert "chmod 600" in error.value.do


def test_a_key_that_is_not_there_or_is_a_folder(tmp_path):
    with pytest.raises(Misconfigured, match="does not exist") as missing:
        read_key(tmp_path / "key")
    assert "makes one" in missing.value.do
    with pytest.raises(Misconfigured, match="cannot be read: Is a directory") as unreadable:
        read_key(tmp_path)
    assert "readable by the user that rekeyd runs as" in unreadable.value.do


def test_a_key_is_made_once(tmp_path):
    made = make_key(tmp_path / "key")

    assert len(made) == 32
    assert make_key(tmp_path / "key") == made
    with pytest.raises(Misconfigured, match="cannot be made") as refused:
        make_key(tmp_path / "nowhere" / "key")
    assert "seal: file:PATH" in refused.value.do


def test_a_key_and_its_name_are_on_the_disk_before_anything_is_sealed_with_it(tmp_path, flushed):
    make_key(tmp_path / "key")

    assert flushed == [tmp_path / "key.new", tmp_path]
    assert [file.name for file in tmp_path.iterdir()] == ["key"]


def test_a_key_is_written_before_it_is_flushed(tmp_path, monkeypatch):
    sizes = []
    monkeypatch.setattr(module.os, "fsync", lambda file: sizes.append(os.fstat(file).st_size))

    make_key(tmp_path / "key")

    assert sizes[0] == 32


@pytest.mark.parametrize("call", ["open", "fdopen", "fsync", "link"])
def test_making_a_key_that_is_cut_short_leaves_none(tmp_path, monkeypatch, call):
    class Killed(BaseException):
        pass

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(module.os, call, Mock(side_effect=Killed))
        make_key(tmp_path / "key")

    assert not (tmp_path / "key").exists()
    assert len(make_key(tmp_path / "key")) == 32
    assert [file.name for file in tmp_path.iterdir()] == ["key"]


def test_of_two_who_make_a_key_the_first_has_made_it(tmp_path, monkeypatch):
    def link(source, target):
        write(target, KEY, 0o600)
        raise FileExistsError

    monkeypatch.setattr(module.os, "link", link)

    assert make_key(tmp_path / "key") == KEY


def test_systemd_passes_a_key_as_a_credential(tmp_path, monkeypatch):
    write(tmp_path / "seal", KEY, 0o440)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    sealed = open_sealer("credential:seal", no_kms).seal("backup_user", PAIR)

    assert (
        KeySealer(KEY, "").unseal("backup_user", "AKIA1", sealed).reveal() == PAIR.secret.reveal()
    )


def test_without_systemd_there_are_no_credentials(monkeypatch):
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)

    with pytest.raises(Misconfigured, match="CREDENTIALS_DIRECTORY") as refused:
        open_sealer("credential:seal", no_kms)
    assert "LoadCredential=seal:" in refused.value.do


@pytest.mark.parametrize("seal", ["file:{}/seal", "credential:seal"])
def test_a_key_that_was_used_is_put_back_and_not_made_anew(tmp_path, monkeypatch, seal):
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    for used, do in (({}, "makes one"), ({"used": True}, "put back the key that this state was")):
        with pytest.raises(Misconfigured, match="does not exist") as refused:
            open_sealer(seal.format(tmp_path), no_kms, **used)
        assert do in refused.value.do


def test_a_file_is_a_key_of_its_own(tmp_path):
    path = write(tmp_path / "key", os.urandom(32))
    sealed = open_sealer(f"file:{path}", no_kms).seal("backup_user", PAIR)

    assert open_sealer(f"file:{path}", no_kms).unseal("backup_user", "AKIA1", sealed)


def test_what_is_sealed_with_a_nonce_of_96_bits_is_not_opened_with_something_added():
    sealer = KeySealer(KEY, "the key")
    sealed = sealer.seal("backup_user", PAIR)

    assert len(base64.b64decode(sealed)) == 12 + len("the secret of a pair") + 16
    with pytest.raises(Misconfigured, match="does not open"):
        sealer.unseal("backup_user", "AKIA1", f"{sealed[:8]}\n{sealed[8:]}")


def test_a_key_that_others_may_only_run_is_open_to_others(tmp_path):
    with pytest.raises(Misconfigured, match="open to others"):
        read_key(write(tmp_path / "key", KEY, 0o601))


def test_kms_seals_when_it_is_named():
    assert open_sealer("kms:alias/rekeyd", no_kms) is not None
