from datetime import UTC, datetime, timedelta

import pytest
from apscheduler.triggers.cron import CronTrigger
from hypothesis import given, settings
from hypothesis import strategies as st

from rekeyd.times import Crontab, duration, duration_text

HOURS = timedelta(hours=1)


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("30s", timedelta(seconds=30)),
        ("15m", timedelta(minutes=15)),
        ("12h", timedelta(hours=12)),
        ("90d", timedelta(days=90)),
        ("2w", timedelta(weeks=2)),
        ("1h30m", timedelta(minutes=90)),
        ("1w1d1h1m1s", timedelta(days=8, seconds=3661)),
        ("0s", timedelta(0)),
        ("3660d", timedelta(days=3660)),
    ],
)
def test_a_duration_is_read_as_it_is_written(text, length):
    assert duration(text) == length


@given(st.integers(0, 3660 * 86_400))
@settings(max_examples=200)
def test_a_duration_that_was_written_reads_the_same(seconds):
    length = timedelta(seconds=seconds)
    assert duration(duration_text(length)) == length


@pytest.mark.parametrize(
    ("line", "after", "fires"),
    [
        ("0 3 * * sun", "2026-11-23T00:00", "2026-11-29T03:00"),  # a Monday, and the next Sunday
        ("0 3 * * 0", "2026-11-23T00:00", "2026-11-29T03:00"),
        ("0 3 * * 7", "2026-11-23T00:00", "2026-11-29T03:00"),
        ("0 3 * * 1", "2026-11-23T00:00", "2026-11-23T03:00"),
        ("0 3 * * 1", "2026-11-23T03:00", "2026-11-30T03:00"),
        ("0 3 * * mon-fri", "2026-11-27T03:00", "2026-11-30T03:00"),
        ("0 3 * * 5-7", "2026-11-23T03:00", "2026-11-27T03:00"),
        ("*/20 * * * *", "2026-11-23T00:00", "2026-11-23T00:20"),
        ("10/20 * * * *", "2026-11-23T00:10", "2026-11-23T00:30"),
        ("5-15/5 4 * * *", "2026-11-23T04:05", "2026-11-23T04:10"),
        ("0 0 1 jan *", "2026-11-23T00:00", "2027-01-01T00:00"),
        ("0 0 29 2 *", "2026-11-23T00:00", "2028-02-29T00:00"),
        ("0 0 29 2 *", "2096-02-29T00:00", "2104-02-29T00:00"),  # 2100 is no leap year
        ("0 0 13 * fri", "2026-11-24T00:00", "2026-11-27T00:00"),  # either is enough: crontab(5)
        ("0 0 */2 * fri", "2026-11-24T00:00", "2026-11-27T00:00"),  # a star: both are needed
        ("@monthly", "2026-11-23T00:00", "2026-12-01T00:00"),
        ("0 3 * * SUN", "2026-11-23T00:00", "2026-11-29T03:00"),
    ],
)
def test_a_crontab_fires_when_crontab_5_says(line, after, fires):
    instant = datetime.fromisoformat(after).replace(tzinfo=UTC)
    expected = datetime.fromisoformat(fires).replace(tzinfo=UTC)
    assert Crontab.parse(line).next_after(instant) == expected


def test_a_fire_time_follows_an_instant_between_two_seconds():
    instant = datetime(2026, 11, 23, 2, 59, 59, 999_999, UTC)
    assert Crontab.parse("0 3 * * *").next_after(instant) == datetime(2026, 11, 23, 3, tzinfo=UTC)


@pytest.mark.parametrize(
    ("line", "gap"),
    [
        ("* * * * *", timedelta(minutes=1)),
        ("0 3 * * *", 24 * HOURS),
        ("0 3,5 * * *", 2 * HOURS),
        ("50 23 * * *", 24 * HOURS),
        ("0 1,23 * * *", 2 * HOURS),
        ("0 1,23 * * mon", 22 * HOURS),
        ("0 3 * * sun", timedelta(days=7)),
        ("0 3 * * sat,mon", timedelta(days=2)),
        ("0 3 1 * *", timedelta(days=28)),
        ("0 3 1 * sun", timedelta(days=1)),
        ("0 0 29 2 *", timedelta(days=1461)),
    ],
)
def test_the_smallest_gap_between_two_fires_is_known(line, gap):
    assert Crontab.parse(line).smallest_gap() == gap


def field(lowest, highest):
    number = st.integers(lowest, highest)
    listed = st.lists(number, min_size=1, max_size=3).map(lambda n: ",".join(map(str, n)))
    spans = st.tuples(number, number).map(lambda n: f"{min(n)}-{max(n)}")
    steps = st.integers(1, highest - lowest).map(lambda n: f"*/{n}")
    return st.one_of(st.just("*"), listed, spans, steps)


@given(
    st.tuples(field(0, 59), field(0, 23), field(1, 28), field(1, 12)),
    st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
)
@settings(max_examples=100)
def test_apscheduler_agrees_where_weekdays_do_not_matter(fields, instant):
    minute, hour, day, month = fields
    oracle = CronTrigger(minute=minute, hour=hour, day=day, month=month, timezone=UTC)
    soon = instant + timedelta(microseconds=1)
    expected = oracle.get_next_fire_time(None, soon)
    assert Crontab.parse(" ".join([*fields, "*"])).next_after(instant) == expected
