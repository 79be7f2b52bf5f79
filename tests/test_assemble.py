"""From settings to objects that work."""

import sys
import threading
from pathlib import Path

import pytest

from rekeyd.assemble import Workshop, fit_sealer, open_store, side_by_side
from rekeyd.config import load
from rekeyd.errors import Misconfigured


def no_kms():
    raise AssertionError("KMS was not asked for")


def test_a_missing_driver_for_the_database_is_one_clear_line(config, monkeypatch):
    monkeypatch.delitem(sys.modules, "rekeyd.postgres", raising=False)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    config(top={"state": "postgresql://db/rekeyd"})

    with pytest.raises(Misconfigured, match="is not installed") as refused:
        open_store(load(config.path))
    assert refused.value.do == "pip install 'rekeyd[postgres]'"


def test_without_a_seal_key_one_is_made_beside_the_state_and_kept(config):
    config(top={"seal": None})
    config.path.write_text(config.path.read_text().replace("seal: null\n", ""))
    settings = load(config.path)
    store = open_store(settings)

    assert fit_sealer(settings, store, no_kms)[1]
    made = (Path(settings.state) / "seal.key").read_bytes()
    assert fit_sealer(settings, store, no_kms)[1]
    assert (Path(settings.state) / "seal.key").read_bytes() == made

    (Path(settings.state) / "seal.key").unlink()
    with pytest.raises(Misconfigured, match="does not exist"):
        fit_sealer(settings, store, no_kms)
    store.close()


def test_identities_of_one_account_share_a_session(config):
    other = config.identity | {"user": "other", "aws": {"region": "eu-west-1"}, "sinks": []}
    twin = config.identity | {"user": "twin", "sinks": []}
    for number, identity in enumerate((other, twin)):
        path = str(config.folder / f"file{number}")
        identity["sinks"] = [{"type": "credential_process", "path": path}]
    settings = load(config(top={"identities": [config.identity, other, twin]}))
    store = open_store(settings)
    shop = Workshop(settings, store, None, lambda *_: None)

    first, second, third = (shop.account(identity) for identity in settings.identities)

    assert first is third
    assert first is not second
    assert second.region == "eu-west-1"
    store.close()


def test_sinks_are_worked_on_side_by_side_and_answer_in_order():
    together = threading.Barrier(3, timeout=10)

    def work(item):
        together.wait()
        return item * 2

    assert side_by_side(work, [1, 2, 3]) == [2, 4, 6]
    assert side_by_side(str, [7]) == ["7"]
