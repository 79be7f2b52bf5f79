"""The status page: what it says, that it stands alone, and that nobody can write on it."""

import re
from base64 import b64encode
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from html import unescape
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from rekeyd.lives import MOST, lives
from rekeyd.markup import join, tag
from rekeyd.page import page, policy, style
from rekeyd.ports import Event
from rekeyd.steps import Hold
from rekeyd.view import KeyStatus, SinkStatus, Status

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
DAY = timedelta(days=1)
EVIL = "<script>alert('x')</script>\"&"
VOID = {"meta"}


def key(name: str, state: str, created: datetime, **when: datetime) -> KeyStatus:
    return KeyStatus(
        key=f"…{name}",
        state=state,
        active="deactivated" not in when,
        created=created,
        last_used=None,
        verified=None,
        current_since=when.get("current"),
        deactivated=when.get("deactivated"),
    )


RESTING = Status(
    identity="backup_user",
    at=NOW,
    stage="resting",
    rule="rest",
    message="nothing to do",
    next_rotation=NOW + 26 * DAY,
    last_rotation=NOW - 4 * DAY,
    keys=(key("NEWK", "current", NOW - 4 * DAY, current=NOW - 4 * DAY),),
    sinks=(SinkStatus("env_file:/etc/env", True, None),),
)
HELD = replace(
    RESTING, identity="held", hold=Hold("in_use", "it is still used", "run `rekeyd status` first")
)
FAILING = replace(RESTING, identity="failing", failing="IAM is away", retry_at=NOW + 3 * DAY)


def event(at: datetime, step: str, detail: str = "", outcome: str = "done") -> Event:
    return Event(at, "backup_user", "rule", step, outcome, detail)


def rotation(at: datetime, name: str) -> list[Event]:
    return [
        event(at, "mint", "make a new pair"),
        event(at, "verify", "refused", "retry"),
        event(at + DAY / 24, "verify", f"prove that …{name} works"),
        event(at + DAY / 12, "record", f"every sink holds …{name}"),
        event(at + DAY / 12, "rotated"),
    ]


class Reader(HTMLParser):
    """Reads a page as a browser does, and insists that every element is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def drawn(*statuses: Status, events: tuple[Event, ...] = ()) -> str:
    return page(statuses, lambda _: events, NOW).decode()


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    assert reader.open == []
    return reader


def words(html: str) -> str:
    """Return what a person reads."""
    body = html[html.index("<body>") :]
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", body)))


# What it says.


@pytest.mark.parametrize(
    ("statuses", "summary"),
    [
        ([], "starting"),
        ([RESTING], "1 identity, in order"),
        ([RESTING, replace(RESTING, identity="b")], "2 identities, all in order"),
        ([RESTING, HELD, FAILING], "1 of 3 identities waits for you"),
        ([HELD, replace(HELD, identity="b")], "2 of 2 identities wait for you"),
        ([RESTING, FAILING], "1 of 2 identities is being tried again"),
        ([FAILING, replace(FAILING, identity="b")], "2 of 2 identities are being tried again"),
    ],
)
def test_it_says_first_whether_anything_is_to_be_done(statuses: list[Status], summary: str) -> None:
    html = drawn(*statuses)
    assert f"<title>rekeyd: {summary}</title>" in html
    assert summary in words(html)


def test_many_identities_are_listed_first_and_each_is_a_step_away() -> None:
    names = ["a", "b", "c"]
    several = [replace(RESTING, identity=name) for name in names]
    assert 'class="overview"' not in drawn(*several)
    html = drawn(*several, HELD)
    listed = words(html[html.index("<body>") : html.index("<main>")])
    assert listed.endswith("1 of 4 identities waits for you ! held ✓ a ✓ b ✓ c ")
    seen = [attributes for _, attributes in read(html).seen]
    links = [each["href"] for each in seen if str(each.get("href")).startswith("#")]
    places = [f"#{each['id']}" for each in seen if str(each.get("id")).startswith("identity-")]
    assert links == places
    assert len(links) == 4


def test_it_says_how_all_goes_by_a_sign_too() -> None:
    for status, sign in ((RESTING, "✓"), (FAILING, "↻"), (HELD, "!")):
        assert f"rekeyd {sign} 1" in words(drawn(status))


def test_what_waits_for_a_person_comes_first() -> None:
    html = drawn(RESTING, FAILING, HELD)
    assert html.index(">held<") < html.index(">failing<") < html.index(">backup_user<")


def test_a_hold_says_why_and_what_to_do() -> None:
    html = drawn(HELD)
    assert "! on hold It is still used What to do: run rekeyd status first" in words(html)
    assert "<code>rekeyd status</code>" in html


def test_a_command_to_copy_names_the_identity() -> None:
    hold = Hold("slots_full", "two keys", "hand it over with `rekeyd adopt IDENTITY KEY_ID`")
    html = drawn(replace(HELD, hold=hold))
    assert "<code>rekeyd adopt held KEY_ID</code>" in html


def test_a_rotation_that_a_person_keeps_waiting_is_not_said_to_be_now() -> None:
    for held in (replace(HELD, asked=True), replace(HELD, next_rotation=NOW - DAY)):
        assert "Next rotation waits for you" in words(drawn(held))


def test_a_failure_says_why_and_when_it_is_tried_again() -> None:
    assert "↻ trying again IAM is away Tried again in 3 days" in words(drawn(FAILING))


def test_a_failure_whose_next_try_is_not_known_promises_none() -> None:
    assert "Tried again" not in words(drawn(replace(FAILING, retry_at=None)))


def test_a_name_at_the_beginning_of_a_sentence_stays_as_it_is() -> None:
    for failing in ("rekeyd is away", "https://vault could not be reached"):
        assert failing in words(drawn(replace(FAILING, failing=failing)))


def test_an_identity_in_order_tells_its_key_and_its_times() -> None:
    said = words(drawn(RESTING))
    assert "✓ in order Nothing to do" in said
    assert "Current key …NEWK Its age 4 days 19 Nov 2026 12:00 UTC" in said
    assert "Next rotation in 26 days 19 Dec 2026 12:00 UTC" in said
    assert "Last rotation 4 days ago 19 Nov 2026 12:00 UTC" in said


def test_an_identity_that_is_new_has_none_of_them() -> None:
    bare = Status(identity="new", at=NOW, stage="minting", rule="mint", message="make a new pair")
    said = words(drawn(bare))
    assert "→ minting Make a new pair" in said
    assert "Current key none yet Its age not known Next rotation not known" in said
    assert "Sinks" not in said
    assert "Pairs in time" not in said


@pytest.mark.parametrize(
    ("change", "words_said"),
    [({"next_rotation": NOW - DAY}, "now"), ({"asked": True}, "asked for, now")],
)
def test_a_rotation_that_is_due_is_now(change: dict[str, object], words_said: str) -> None:
    assert f"Next rotation {words_said}" in words(drawn(replace(RESTING, **change)))


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 seconds"), (1, "1 second"), (119, "119 seconds"), (120, "2 minutes"),
     (7199, "119 minutes"), (7200, "2 hours"), (172799, "47 hours"), (172800, "2 days")],
)  # fmt: skip
def test_durations_are_said_in_the_largest_unit_that_fits(seconds: int, said: str) -> None:
    looked = replace(RESTING, at=NOW - timedelta(seconds=seconds))
    assert f"last look {said} ago" in words(drawn(looked))


@pytest.mark.parametrize(
    ("sink", "said"),
    [
        (SinkStatus("a", True, None), "✓ holds the current pair"),
        (SinkStatus("a", False, None), "✗ does not hold the current pair"),
        (SinkStatus("a", False, "it is away"), "? it is away"),
    ],
)
def test_each_sink_says_how_it_stands(sink: SinkStatus, said: str) -> None:
    assert f"Sinks a {said}" in words(drawn(replace(RESTING, sinks=(sink,))))


# That it stands alone, and that nobody can write on it.


def test_nothing_of_what_it_shows_becomes_markup() -> None:
    evil = Status(
        identity=EVIL,
        at=NOW,
        stage=EVIL,
        rule=EVIL,
        message=EVIL,
        hold=Hold(EVIL, EVIL, f"`{EVIL}`"),
        failing=EVIL,
        keys=(key(EVIL, EVIL, NOW),),
        sinks=(SinkStatus(EVIL, False, EVIL),),
    )
    for status in (evil, replace(evil, hold=None), replace(evil, hold=None, failing=None)):
        html = drawn(status)
        assert EVIL in words(html).replace("& #x27;", "'")
        assert "script" not in {name for name, _ in read(html).seen}


def test_it_needs_no_other_address_no_script_and_no_style_but_its_own() -> None:
    for name, attributes in read(drawn(*[RESTING] * 2, HELD, FAILING)).seen:
        assert name not in {"script", "img", "link", "iframe", "form", "base"}
        assert not {"style", "onload", "onclick", "src"} & attributes.keys()
        target = attributes.get("href") or "#"
        assert target.startswith("#") or target in {"/metrics", "/api/v1/status"}
    assert "url(" not in style()
    assert "@import" not in style()


def test_its_policy_allows_its_own_style_sheet_and_nothing_else() -> None:
    [shown] = re.findall(r"<style>(.*?)</style>", drawn(RESTING), re.DOTALL)
    digest = b64encode(sha256(shown.encode()).digest()).decode()
    assert policy().startswith(f"default-src 'none'; style-src 'sha256-{digest}';")
    assert "unsafe" not in policy()


def test_identifiers_are_unique_and_pictures_have_words() -> None:
    html = drawn(RESTING, HELD, FAILING)
    seen = read(html).seen
    identifiers = [attributes["id"] for _, attributes in seen if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    for name, attributes in seen:
        if name == "svg":
            assert attributes.get("aria-hidden") or attributes.get("aria-label")
    assert [name for name, _ in seen if name in {"header", "main", "footer", "h1"}] == [
        "header",
        "h1",
        "main",
        "footer",
    ]


def luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_every_colour_of_text_can_be_read_on_its_ground(scheme: int) -> None:
    colours = dict(re.findall(r"--([\w-]+): (#\w{6})", style().split("@media")[scheme]))
    grounds = {name: ["paper", "card"] for name in ("ink", "soft", "accent", "good", "warn", "bad")}
    for name in ("good", "warn", "bad"):
        grounds[name].append(f"{name}-ground")
        grounds["ink"].append(f"{name}-ground")
        grounds["soft"].append(f"{name}-ground")
    grounds["accent"].append("busy-ground")
    for text, behind in grounds.items():
        for ground in behind:
            light, dark = sorted([luminance(colours[text]), luminance(colours[ground])])[::-1]
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, ground)


def test_markup_escapes_what_was_not_made_by_it() -> None:
    assert tag("b", "<", join("&", None), class_="x", aria_label='"', id=None) == (
        '<b class="x" aria-label="&quot;">&lt;&amp;</b>'
    )


# The pairs in time.


def test_a_life_is_told_from_history_and_from_the_last_look() -> None:
    first, second = NOW - 64 * DAY, NOW - 34 * DAY
    history = [
        *rotation(first, "OLDK"),
        *rotation(second, "MIDK"),
        event(second + 2 * DAY, "deactivate", "deactivate …OLDK"),
        event(second + 5 * DAY, "delete", "delete …OLDK"),
    ]
    middle = key("MIDK", "superseded", second, current=second, deactivated=NOW - DAY)
    newest = key("NEWK", "current", NOW - 4 * DAY, current=NOW - 4 * DAY)
    old, mid, new = lives(replace(RESTING, keys=(middle, newest)), history)
    assert [(life.key, life.state) for life in (old, mid, new)] == [
        ("…OLDK", "gone"),
        ("…MIDK", "superseded"),
        ("…NEWK", "current"),
    ]
    assert old.created == first
    assert old.current == first + DAY / 12
    assert old.replaced == second
    assert old.deactivated == second + 2 * DAY
    assert old.deleted == second + 5 * DAY
    assert [name for name, _, _ in old.phases()] == ["new", "current", "superseded", "inactive"]
    assert list(mid.phases())[-1] == ("inactive", NOW - DAY, NOW)
    assert list(new.phases())[-1] == ("current", NOW - 4 * DAY, NOW)


def test_phases_follow_one_another_without_a_gap() -> None:
    [life] = lives(RESTING, [])
    phases = list(life.phases())
    assert phases[0][1] == life.created
    assert all(until == start for (_, _, until), (_, start, _) in pairwise(phases))


def test_only_the_newest_lives_are_told() -> None:
    history = [line for n in range(9) for line in rotation(NOW - (90 - 10 * n) * DAY, f"KEY{n}")]
    told = lives(replace(RESTING, keys=()), history)
    assert [life.key for life in told] == [f"…KEY{n}" for n in range(9 - MOST, 9)]


def test_a_history_that_begins_in_the_middle_does_no_harm() -> None:
    history = [
        event(NOW, "rotated"),
        event(NOW, "deactivate", "deactivate …LOST"),
        event(NOW, "look", "nothing said"),
    ]
    assert lives(replace(RESTING, keys=()), history) == []


def test_a_pair_that_was_activated_again_is_not_inactive() -> None:
    history = [
        *rotation(NOW - 9 * DAY, "BACK"),
        event(NOW - 3 * DAY, "deactivate", "deactivate …BACK"),
        event(NOW - 2 * DAY, "activate", "activate …BACK"),
        event(NOW - DAY, "deactivate", "could not deactivate …BACK", "retry"),
    ]
    [life] = lives(replace(RESTING, keys=()), history)
    assert life.deactivated is None
    assert life.seen == NOW - 2 * DAY


def test_a_pair_that_was_given_up_was_never_replaced() -> None:
    given_up = key("DEAD", "superseded", NOW - 5 * DAY, deactivated=NOW - 4 * DAY)
    first, _ = lives(replace(RESTING, keys=(given_up, *RESTING.keys)), [])
    assert first.replaced is None
    assert [name for name, _, _ in first.phases()] == ["new", "inactive"]


def test_a_foreign_key_is_shown_as_such() -> None:
    [life] = lives(replace(RESTING, keys=(key("EVIL", "foreign", NOW - DAY),)), [])
    assert list(life.phases()) == [("foreign", NOW - DAY, NOW)]
    assert "…EVIL (foreign): made 22 Nov 2026" in words(
        drawn(replace(RESTING, keys=(key("EVIL", "foreign", NOW - DAY),)))
    )


def test_a_key_of_which_nobody_knows_when_it_was_made_has_no_place_in_time() -> None:
    undated = replace(key("EVIL", "foreign", NOW), created=None)
    assert lives(replace(RESTING, keys=(undated,)), []) == []
    assert "EVIL" not in drawn(replace(RESTING, keys=(undated,)))


def picture_of(status: Status) -> str:
    html = drawn(status)
    return html[html.index("<svg") : html.index("</svg>")]


def test_the_picture_shows_both_pairs_of_a_rotation() -> None:
    old = key("OLDK", "superseded", NOW - 30 * DAY, current=NOW - 30 * DAY)
    picture = picture_of(replace(RESTING, keys=(old, *RESTING.keys), next_rotation=NOW + 10 * DAY))
    bars = re.findall(r'x="([\d.]+)%" width="([\d.]+)%"[^>]* class="bar (\w+)"', picture)
    assert bars == [
        ("0.00", "0.40", "new"),
        ("0.00", "65.00", "current"),
        ("65.00", "10.00", "superseded"),
        ("65.00", "0.40", "new"),
        ("65.00", "10.00", "current"),
    ]
    assert ">now<" in picture
    assert ">next 3 Dec 2026<" in picture
    assert 'class="due"' in picture
    assert ">24 Oct 2026<" in picture


@pytest.mark.parametrize("age", [timedelta(minutes=5), 40 * DAY], ids=["a_new_pair", "an_old_pair"])
def test_a_far_rotation_is_pointed_at_and_leaves_the_past_its_room(age: timedelta) -> None:
    only = key("NEWK", "current", NOW - age, current=NOW - age)
    picture = picture_of(replace(RESTING, keys=(only,), next_rotation=NOW + 91 * DAY))
    (now,) = re.findall(r'x1="([\d.]+)%"[^>]* class="now"', picture)
    assert float(now) == pytest.approx(100 * 2 / 3, abs=0.01)
    assert ">next 22 Feb 2027 →<" in picture
    assert 'class="due"' not in picture


def test_nothing_is_pointed_at_when_no_rotation_is_ahead() -> None:
    assert ">next" not in picture_of(replace(RESTING, next_rotation=None))
    assert ">next" not in picture_of(replace(RESTING, next_rotation=NOW - DAY))


def test_what_was_not_looked_at_since_is_drawn_paler() -> None:
    looked = replace(RESTING, at=NOW - 2 * DAY, next_rotation=None)
    picture = picture_of(looked)
    bars = re.findall(r'x="([\d.]+)%" width="([\d.]+)%"[^>]* class="bar ([\w ]+)"', picture)
    assert bars[1:] == [("0.00", "50.00", "current"), ("50.00", "50.00", "current since")]
    assert "every sink holds it, at the last look" in picture
    assert " since" not in drawn(replace(looked, at=NOW - DAY / 96))  # too little to be seen
    gone = (*rotation(NOW - 9 * DAY, "OLDK"), event(NOW - 8 * DAY, "delete", "delete …OLDK"))
    assert drawn(looked, events=gone).count(" since") == 1


def test_the_picture_marks_a_deletion() -> None:
    first = NOW - 10 * DAY
    history = [*rotation(first, "OLDK"), event(NOW - DAY, "delete", "delete …OLDK")]
    html = drawn(RESTING, events=tuple(history))
    assert html.count('class="cross"') == 1
    assert "…OLDK (deleted)" in words(html)


@pytest.mark.parametrize(
    ("age", "label"),
    [
        (timedelta(minutes=5), "11:55:00"),
        (timedelta(hours=30), "22 Nov 06:00"),
        (timedelta(days=90), "25 Aug 2026"),
    ],
)
def test_the_axis_is_as_fine_as_its_span(age: timedelta, label: str) -> None:
    only = key("NEWK", "current", NOW - age, current=NOW - age)
    assert f">{label}<" in drawn(replace(RESTING, keys=(only,), next_rotation=None))
