"""What every sink promises, tried on every sink: `rekeyd.ports.Sink`."""

import pytest
from contract import NEW, OLD, cases

from rekeyd.errors import Refused, RekeydError
from rekeyd.sinks import BUILT_IN


@pytest.fixture(params=cases(), ids=lambda case: case.name)
def place(request, tmp_path):
    with request.param.place(tmp_path) as opened:
        yield opened


def fingerprint(pair):
    return pair and pair.fingerprint()


def test_an_empty_place_holds_no_pair(place):
    sink = place.open()
    assert not sink.readable or sink.read() is None
    assert place.consumer() is None


def test_check_changes_nothing_in_an_empty_place(place):
    before = place.look()
    place.open().check()
    assert place.look() == before


def test_check_changes_nothing_beside_a_pair(place):
    sink = place.open()
    sink.put(OLD)
    before = place.look()
    sink.check()
    assert place.look() == before


def test_the_consumer_reads_just_what_was_put(place):
    place.open().put(OLD)
    assert fingerprint(place.consumer()) == OLD.fingerprint()


def test_a_pair_replaces_the_one_before(place):
    sink = place.open()
    sink.put(OLD)
    sink.put(NEW)
    assert fingerprint(place.consumer()) == NEW.fingerprint()


def test_a_readable_sink_tells_the_pair_after_a_restart(place):
    place.open().put(OLD)
    sink = place.open()
    assert not sink.readable or fingerprint(sink.read()) == OLD.fingerprint()


def test_doing_it_twice_is_doing_it_once(place):
    place.open().put(OLD)
    before = place.look()
    place.open().put(OLD)
    assert place.look() == before


def test_a_denied_write_is_found_by_check_and_leaves_the_old_pair(place):
    place.open().put(OLD)
    place.deny()
    if place.check_notices:
        with pytest.raises(Refused):
            place.open().check()
    with pytest.raises(Refused):
        place.open().put(NEW)
    assert fingerprint(place.consumer()) == OLD.fingerprint()


def test_check_finds_a_denied_write_in_an_empty_place_or_says_that_it_cannot(place):
    place.deny()
    try:
        left = place.open().check()
    except Refused:
        return
    assert left
    with pytest.raises(Refused):
        place.open().put(NEW)


def test_no_secret_stands_in_a_refusal(place):
    sink = place.open()
    place.deny()
    with pytest.raises(RekeydError) as refusal:
        sink.put(NEW)
    told = f"{refusal.value} {refusal.value.do} {refusal.value!r} {sink!r} {sink.name}"
    assert NEW.secret.reveal() not in told
    assert NEW.key_id not in told


def test_every_sink_that_comes_with_rekeyd_is_tried_here():
    tried = {case.name.partition(" ")[0] for case in cases()}
    assert tried >= BUILT_IN.keys()
