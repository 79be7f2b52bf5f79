"""What every HTTP sink has in common, each against its vendor's described server."""

import time

import pytest
from cases_http import CASES, Case
from described import NEW, OLD, Said, same

from rekeyd.errors import Refused, RekeydError, Transient
from rekeyd.sinks import _http, settings_class


@pytest.fixture(params=CASES, ids=str)
def case(request):
    return request.param


@pytest.fixture
def stage(case):
    with case.staged() as staged:
        yield staged


def deeds(stage):
    yield lambda: stage.sink.put(NEW)
    if stage.sink.readable:
        yield stage.sink.read


def test_a_consumer_reads_the_pair_that_was_put_last(stage):
    for pair in (OLD, NEW, OLD):
        stage.sink.put(pair)
        assert stage.held() == (pair.key_id, pair.secret.reveal())


def test_what_can_be_read_reads_back_and_what_cannot_says_so(stage):
    if not stage.sink.readable:
        with pytest.raises(NotImplementedError):
            stage.sink.read()
        return
    assert stage.sink.read() is None

    for pair in (OLD, NEW):
        stage.sink.put(pair)
        assert same(stage.sink.read(), pair)


def test_check_writes_nothing_before_and_after_a_delivery(stage):
    stage.sink.check()
    assert stage.server.writes == 0

    stage.sink.put(NEW)
    stage.sink.check()
    assert stage.server.writes == 1


def test_putting_a_readable_pair_twice_writes_once(stage):
    stage.sink.put(NEW)
    stage.sink.put(NEW)

    assert stage.held() == (NEW.key_id, NEW.secret.reveal())
    assert stage.server.writes == (1 if stage.sink.readable else 2)


def test_a_refused_token_is_refused(case, stage):
    stage.refuse_token()

    for deed in deeds(stage):
        with pytest.raises(Refused):
            deed()
    if case.check_proves_token:
        with pytest.raises(Refused):
            stage.sink.check()
    assert stage.server.writes == 0


def test_check_finds_a_missing_permission(case, stage):
    stage.forbid()

    if case.check_proves_token:
        with pytest.raises(Refused) as caught:
            stage.sink.check()
        assert caught.value.do


def test_check_finds_that_it_may_not_write_or_says_that_only_a_delivery_shows(stage):
    stage.forbid_writing()

    try:
        left = stage.sink.check()
    except Refused as refusal:
        left = refusal.do
    assert left
    with pytest.raises(Refused):
        stage.sink.put(NEW)


def test_an_unreachable_host_is_transient(stage):
    stage.server.stop()

    for deed in (*deeds(stage), stage.sink.check):
        with pytest.raises(Transient, match="could not be reached"):
            deed()


@pytest.mark.parametrize("status", [429, 500, 502])
def test_a_service_in_trouble_is_transient(stage, status):
    stage.server.instead = Said(status)

    for deed in deeds(stage):
        with pytest.raises(Transient):
            deed()


def test_a_silent_host_is_left_in_time(stage, monkeypatch):
    monkeypatch.setattr(_http, "LIMIT", 0.1)
    stage.server.hang = True
    begun = time.monotonic()

    for deed in deeds(stage):
        with pytest.raises(Transient):
            deed()

    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"data": 7, "value": []}'])
def test_an_answer_of_another_shape_is_one_of_our_errors(stage, body):
    stage.server.instead = Said(200, body)

    for deed in (*deeds(stage), stage.sink.check):
        try:
            deed()
        except RekeydError as error:
            assert error.do


def test_no_failure_shows_the_secret_or_the_token(stage):
    for status in (302, 400, 401, 403, 404, 409, 418, 500):
        stage.server.instead = Said(status, {"error": f"you sent {NEW.secret.reveal()}"})
        try:
            stage.sink.put(NEW)
        except RekeydError as error:
            told = f"{error!r} {error.do} {error.__cause__!r}"
            assert NEW.secret.reveal() not in told
            assert stage.server.token not in told


def test_opening_touches_nothing(stage):
    assert stage.server.heard == []


def test_the_name_tells_type_and_place(case, stage):
    assert stage.sink.name.startswith(f"{case.kind}:")


def test_the_settings_have_a_json_schema(case):
    assert settings_class(case.kind).model_json_schema()["properties"]["type"]["const"] == case.kind


def test_every_case_is_a_type_of_its_own():
    assert len({case.kind for case in CASES}) == 8
    assert all(isinstance(case, Case) for case in CASES)
