"""Who is told what: news only, not too much, and never at the daemon's expense."""

import json
import logging
import signal
import sys
import threading
from datetime import UTC, datetime

import pytest

from processes import LONG_ENOUGH, running
from rekeyd.errors import Refused, Transient
from rekeyd.notify import settings_class
from rekeyd.notify.notifier import LARGEST_BURST, Notifier
from rekeyd.ports import Event
from sinks.described import Described, Receiver, Said, route


def event(outcome="refused", rule="mint", step="hold", identity="backup_user"):
    at = datetime(2026, 11, 23, 22, 0, tzinfo=UTC)
    return Event(at, identity, rule, step, outcome, "a rotation is due, but a sink is away")


class Listener:
    """A channel that keeps what it is given, after `failures`."""

    name = "listener"

    def __init__(self, *failures):
        self.failures = list(failures)
        self.got = []

    def check(self):
        """Nothing to prove."""

    def deliver(self, told):
        if self.failures:
            raise self.failures.pop(0)
        self.got.append(told)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def told(events, clock=None):
    """What a listener gets of these events."""
    listener = Listener()
    notifier = Notifier([listener], clock=clock or Clock())
    for one in events:
        notifier.send(one)
    notifier.close()
    return listener.got


def test_a_hold_is_told_at_once():
    assert told([event("refused")]) == [event("refused")]


@pytest.mark.parametrize(
    "ordinary", [event("done"), event("asked"), event("refused", rule="request")]
)
def test_what_goes_well_and_what_a_person_asked_for_is_no_news(ordinary):
    assert told([ordinary]) == []


def test_a_failure_is_told_only_when_it_does_not_mend_itself():
    clock = Clock()

    def failing():
        for minute in range(0, 40, 5):
            clock.now = minute * 60.0
            yield event("retry", rule="deliver")

    assert len(told(failing(), clock)) == 1


def test_a_step_that_was_done_starts_the_patience_anew():
    clock = Clock()

    def mending():
        for minute in range(0, 60, 5):
            clock.now = minute * 60.0
            yield event("retry", rule="deliver", step="deliver")
            if minute % 10 == 0:
                yield event("done", rule="deliver", step="deliver")

    assert told(mending(), clock) == []


def failing_twice(mended):
    """A step fails now and in an hour, and this is heard in between."""
    clock = Clock()

    def heard():
        yield event("retry", rule="mint", step="mint")
        yield mended
        clock.now = 3600.0
        yield event("retry", rule="mint", step="mint")

    return len(told(heard(), clock))


@pytest.mark.parametrize(
    ("rule", "step"), [("close_a_crashed_mint", "record"), ("retire", "delete"), ("rest", "look")]
)
def test_what_is_done_besides_does_not_mend_a_failure(rule, step):
    assert failing_twice(event("done", rule=rule, step=step)) == 1


@pytest.mark.parametrize(
    ("rule", "step"), [("mint", "mint"), ("deliver", "rotated"), ("rest", "rest")]
)
def test_a_failure_is_mended_by_its_step_by_a_rotation_and_by_rest(rule, step):
    assert failing_twice(event("done", rule=rule, step=step)) == 0


def test_the_same_trouble_is_told_once_an_hour():
    clock = Clock()

    def holding():
        for minute in (0, 30, 59, 61):
            clock.now = minute * 60.0
            yield event()

    assert len(told(holding(), clock)) == 2


def test_a_common_cause_does_not_flood_people():
    many = [event(identity=f"user{number}") for number in range(100)]

    assert len(told(many)) == LARGEST_BURST


def test_send_returns_while_a_channel_hangs_and_close_does_not_wait_for_ever():
    released = threading.Event()

    class Hanging(Listener):
        def deliver(self, told):
            released.wait()

    notifier = Notifier([Hanging()])
    notifier.send(event())
    notifier.close(0.05)
    released.set()


def test_a_channel_that_hangs_keeps_nobody_from_the_others():
    released, reached = threading.Event(), threading.Event()

    class Hanging(Listener):
        def deliver(self, told):
            released.wait()

    class Reached(Listener):
        def deliver(self, told):
            reached.set()

    notifier = Notifier([Hanging(), Reached()])
    notifier.send(event())

    assert reached.wait(LONG_ENOUGH)
    released.set()
    notifier.close()


def test_a_channel_that_is_away_is_tried_again():
    listener = Listener(Transient("away"), Transient("away"))
    notifier = Notifier([listener], waits=(0.0, 0.0))

    notifier.send(event())
    notifier.close()

    assert listener.failures == []

    assert len(listener.got) == 1


def test_a_channel_that_refuses_keeps_nobody_from_the_others():
    refusing, listener = Listener(Refused("no", "do"), OSError("odd")), Listener()
    notifier = Notifier([refusing, listener], waits=(0.0,))

    notifier.send(event())
    notifier.send(event(identity="another"))
    notifier.close()

    assert refusing.got == []
    assert len(listener.got) == 2


def test_without_channels_there_is_not_even_a_thread():
    before = threading.active_count()
    notifier = Notifier([])

    notifier.send(event())

    assert threading.active_count() == before
    notifier.close()


def channel(**settings):
    return settings_class(settings["type"]).model_validate(settings).open()


class Events(Receiver):
    """A receiver whose address is another one."""

    @route("POST", "/events")
    def event(self, heard):
        return self.receive(heard)


def test_a_webhook_gets_a_signed_event(monkeypatch):
    with Events() as receiver:
        monkeypatch.setenv("NOTIFY", receiver.secret)
        ours = channel(type="webhook", url=f"{receiver.address}/events", secret="env:NOTIFY")

        ours.check()
        assert receiver.heard == []
        ours.deliver(event())

        assert receiver.accepted[0]["identity"] == "backup_user"
        assert json.loads(receiver.heard[0].body)["type"] == "rekeyd.refused"


class AnyJson(Described):
    """What Apprise's `json://` talks to."""

    @route("POST", "/")
    def receive(self, heard):
        return Said(200)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Apprise still imports `imghdr`
def test_apprise_reaches_its_services(monkeypatch):
    with AnyJson() as server:
        monkeypatch.setenv("URLS", f"# ours\n{server.address.replace('http', 'json')}\n")
        ours = channel(type="apprise", urls="env:URLS")

        ours.check()
        ours.deliver(event())
        assert json.loads(server.heard[0].body)["message"] == event().detail

        server.instead = Said(500)
        with pytest.raises(Transient, match="could not reach"):
            ours.deliver(event())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("urls", ["nonsense", "json://127.0.0.1/\nhunter2"])
def test_a_line_that_is_no_apprise_url_is_refused_unseen(monkeypatch, caplog, urls):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("URLS", urls)

    with pytest.raises(Refused) as caught:
        channel(type="apprise", urls="env:URLS").check()

    assert "hunter2" not in str(caught.value) + caught.value.do + caplog.text


def test_a_missing_extra_is_one_clear_line_at_check(monkeypatch):
    monkeypatch.setenv("URLS", "json://127.0.0.1/")
    monkeypatch.setitem(sys.modules, "apprise", None)

    with pytest.raises(Refused, match="not installed") as caught:
        channel(type="apprise", urls="env:URLS").check()

    assert "rekeyd[apprise]" in caught.value.do


# In the daemon and its commands


@pytest.fixture
def receiver(monkeypatch):
    with Events() as server:
        monkeypatch.setenv("NOTIFY", server.secret)
        yield server


def told_by(receiver):
    return [
        {"type": "webhook", "url": f"{receiver.address}/events", "secret": "env:NOTIFY"},
    ]


def fill_both_slots(aws):
    for _ in range(2):
        aws.iam.create_access_key(UserName="backup_user")


def test_the_daemon_tells_of_a_hold_once(aws, config, receiver):
    fill_both_slots(aws)
    config.plain["notify"] = told_by(receiver)

    with running(config()) as daemon:
        daemon.expect("hold")
        receiver.receives(1)
        config(top={"log": {"format": "json", "level": "debug"}})
        daemon.signal(signal.SIGHUP, signal.SIGUSR1)
        daemon.expect("reloaded")
        daemon.expect("request")
        assert daemon.stop() == 0

    assert [told["identity"] for told in receiver.accepted] == ["backup_user"]
    assert "IAM allows two keys" in receiver.accepted[0]["detail"]


def test_a_reload_changes_who_is_told(aws, config, receiver):
    with running(config()) as daemon:
        daemon.expect("rotated")
        config.plain["notify"] = told_by(receiver)
        config(user="nobody_of_this_name", name="backup_user")
        daemon.signal(signal.SIGHUP)
        daemon.expect("reloaded")
        receiver.receives(1)


def test_check_proves_a_channel_and_tells_nobody(rekeyd, config, receiver, monkeypatch):
    config(top={"notify": told_by(receiver)})
    assert "notify the webhook at 127.0.0.1" in rekeyd("check").out
    assert receiver.heard == []

    monkeypatch.delenv("NOTIFY")
    checked = rekeyd("check")
    assert checked.code == 1
    assert "there is no token at env:NOTIFY" in checked.out


@pytest.mark.parametrize("options", [[], ["--due"]])
def test_a_timer_tells_and_who_watches_is_not_told(rekeyd, aws, config, receiver, options):
    fill_both_slots(aws)
    config(top={"notify": told_by(receiver)})

    assert rekeyd("rotate", *options).code == 3
    assert [told["identity"] for told in receiver.accepted] == ["backup_user"] * len(options)
