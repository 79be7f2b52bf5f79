"""Secrets sealed by KMS, whose key never leaves it."""

import pytest

from rekeyd.errors import Refused, RekeydError
from rekeyd.seal import open_sealer
from rekeyd.secret import AccessPair, Secret

PAIR = AccessPair("AKIA1", Secret("the secret of a pair"))


@pytest.fixture
def key(aws):
    return aws.kms.create_key()["KeyMetadata"]["KeyId"]


def test_a_secret_is_opened_for_the_pair_that_it_belongs_to(aws, key):
    sealer = open_sealer(f"kms:{key}", lambda: aws.kms)
    sealed = sealer.seal("backup_user", PAIR)

    assert sealer.unseal("backup_user", "AKIA1", sealed).reveal() == PAIR.secret.reveal()
    with pytest.raises(RekeydError) as error:
        sealer.unseal("backup_user", "AKIA2", sealed)
    assert PAIR.secret.reveal() not in str(error.value)


def test_a_key_that_is_not_there_is_refused(aws):
    with pytest.raises(Refused, match="could not encrypt a secret"):
        open_sealer("kms:nowhere", lambda: aws.kms).seal("backup_user", PAIR)


def test_a_daemon_keeps_its_secrets_under_kms(rekeyd, aws, config, key):
    config(top={"seal": f"kms:{key}"})

    assert rekeyd("rotate").code == 0
    assert rekeyd("rotate").code == 0
    assert rekeyd("check").code == 0
    assert aws.keys()[config.held()] == "Active"
