"""`webhook` against a receiver that checks what Standard Webhooks asks it to check."""

import logging
from datetime import UTC, datetime

import pytest
import time_machine
from described import NEW, OLD, Receiver, opened
from pydantic import ValidationError

from rekeyd.errors import Refused, Transient, Unanswered
from rekeyd.sinks.webhook import sign


@pytest.fixture
def receiver(monkeypatch):
    with Receiver() as server:
        monkeypatch.setenv("WEBHOOK", server.secret)
        yield server


def sink(receiver, **more):
    url = f"{receiver.address}/hooks/backup/"
    return opened("webhook", **{"url": url, "secret": "env:WEBHOOK", **more})


def test_the_receiver_accepts_the_signature_and_gets_the_pair_whole(receiver):
    sink(receiver).put(NEW)

    assert receiver.accepted == [
        {
            "identity": "backup_user",
            "access_key_id": NEW.key_id,
            "secret_access_key": NEW.secret.reveal(),
        }
    ]


def test_the_signature_is_that_of_the_specifications_example():
    """The vector of the reference libraries (standard-webhooks, "libraries", test suites)."""
    key = __import__("base64").b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    at = datetime.fromtimestamp(1614265330, UTC)

    headers = sign(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", at, b'{"test": 2432232314}')

    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_pair_that_comes_back_is_a_message_of_its_own(receiver):
    """Else a receiver that drops repetitions would drop a rollback."""
    for pair in (OLD, NEW, OLD):
        sink(receiver).put(pair)

    assert len({heard.headers["webhook-id"] for heard in receiver.heard}) == 3
    assert receiver.accepted[-1]["access_key_id"] == OLD.key_id


def test_a_receiver_with_another_secret_refuses(receiver):
    receiver.secret = "whsec_" + "A" * 43 + "="

    with pytest.raises(Refused, match="401"):
        sink(receiver).put(NEW)

    assert receiver.accepted == []


def test_a_recorded_delivery_is_worthless_later(receiver):
    sink(receiver).put(NEW)
    recorded = receiver.heard[0]

    with time_machine.travel(datetime.now(UTC).timestamp() + 301, tick=True):
        answer = receiver.receive(recorded)

    assert answer.status == 403


def test_check_connects_and_sends_nothing(receiver):
    sink(receiver).check()

    assert receiver.heard == []


def test_check_finds_a_receiver_that_is_away(receiver):
    receiver.stop()

    with pytest.raises(Transient, match="could not be reached"):
        sink(receiver).check()


@pytest.mark.parametrize("secret", ["plain", "whsec_!!!", "whsec_é", "whsec_c2hvcnQ=", "whsec_"])
def test_check_finds_a_shared_secret_that_is_too_weak(receiver, monkeypatch, secret):
    monkeypatch.setenv("WEBHOOK", secret)

    with pytest.raises(Refused, match="no webhook secret"):
        sink(receiver).check()


def test_an_answer_that_was_lost_leaves_doubt(receiver):
    receiver.drop = True

    with pytest.raises(Unanswered):
        sink(receiver).put(NEW)


def test_a_metadata_address_is_refused():
    aimed = opened("webhook", url="https://169.254.169.254/latest", secret="env:WEBHOOK")

    with pytest.raises(Refused):
        aimed.check()


@pytest.mark.parametrize("url", ["http://deploy.example.com/hook", "https://a.example.com/?k=1"])
def test_only_https_without_secrets_in_the_address_is_configured(url):
    with pytest.raises(ValidationError):
        opened("webhook", url=url, secret="env:WEBHOOK")


def test_its_name_does_not_show_the_path(receiver):
    assert "hooks" not in sink(receiver).name


def test_it_is_write_only_and_says_so(receiver):
    assert sink(receiver).readable is False


def test_nothing_of_the_pair_is_logged(receiver, caplog):
    caplog.set_level(logging.DEBUG)

    sink(receiver).put(NEW)

    assert NEW.secret.reveal() not in caplog.text


def test_custody_calls_it_by_its_address_and_shows_nothing_of_it(receiver):
    here = sink(receiver, name="box")
    there = sink(receiver, name="box", url=f"{receiver.address}/hooks/other/")

    assert here.name == there.name
    assert here.mark != there.mark
    assert "hooks" not in here.mark
