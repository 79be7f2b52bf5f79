"""Any file, from a template."""

import sys

import pytest
from cases_files import ENCODED, RCLONE, opened
from contract import NEW, OLD
from pydantic import ValidationError

from rekeyd.errors import Refused, Transient
from rekeyd.secret import AccessPair, Secret
from rekeyd.sinks._atomic import AtomicFile
from rekeyd.sinks.template import Template


@pytest.fixture
def path(tmp_path):
    return tmp_path / "rclone.conf"


def test_the_file_is_what_the_template_says(path):
    opened("template", path, template=RCLONE).put(NEW)
    assert path.read_text() == (
        "# backup_user\n[s3]\ntype = s3\n"
        f"access_key_id = {NEW.key_id}\nsecret_access_key = {NEW.secret.reveal()}\n"
    )


@pytest.mark.parametrize(
    "template",
    [
        RCLONE,
        "{{ access_key_id }} {{ secret_access_key }}",
        "{{ secret_access_key }}\n{{ access_key_id }}\n{{ secret_access_key }}\n",
        '{"id": {{ access_key_id|tojson }}, "secret": {{ secret_access_key|tojson }}}',
        (
            "{% for n in range(3) %}[remote{{ n }}]\nid={{ access_key_id }}\n{% endfor %}\n"
            "s={{ secret_access_key }}"
        ),
    ],
)
def test_a_template_that_writes_the_pair_as_it_is_can_be_read_back(path, template):
    sink = opened("template", path, template=template)
    assert sink.readable
    assert sink.read() is None
    sink.put(OLD)
    sink.put(NEW)
    assert sink.read().fingerprint() == NEW.fingerprint()


@pytest.mark.parametrize(
    "template",
    [
        ENCODED,
        "{{ access_key_id }}{{ secret_access_key }}",
        "{{ access_key_id|lower }} {{ secret_access_key }}",
        "{{ access_key_id }} {{ secret_access_key[:8] }}",
    ],
)
def test_a_template_that_does_not_is_write_only(path, template):
    sink = opened("template", path, template=template)
    assert not sink.readable
    sink.check()
    sink.put(NEW)
    sink.put(NEW)


@pytest.mark.parametrize(
    "template", ["\n", "no pair at all", "{{ access_key_id }}", "{{ secret_access_key }}"]
)
def test_a_template_without_the_pair_empties_no_file(path, tmp_path, template):
    source = tmp_path / "rclone.j2"
    source.write_text(RCLONE)
    opened("template", path, template_file=str(source)).put(OLD)
    before = path.read_text()
    source.write_text(template)
    sink = opened("template", path, template_file=str(source))
    for act in sink.check, lambda: sink.put(NEW):
        with pytest.raises(Refused, match="leaves out the id or the secret"):
            act()
    assert path.read_text() == before


@pytest.mark.parametrize("change", ["# by hand\n", "x"])
def test_a_file_that_was_changed_by_hand_holds_no_pair_and_is_put_right(path, change):
    sink = opened("template", path, template=RCLONE)
    sink.put(NEW)
    path.write_text(path.read_text() + change)
    assert sink.read() is None
    sink.put(NEW)
    assert sink.read().fingerprint() == NEW.fingerprint()


def test_a_file_that_the_template_would_not_make_of_its_pair_holds_none(path):
    choosy = "{% if access_key_id == '" + NEW.key_id + "' %}# new\n{% endif %}" + RCLONE
    opened("template", path, template=RCLONE).put(NEW)
    assert opened("template", path, template=choosy).read() is None


def test_what_is_no_ascii_is_no_pair(path):
    twice = opened("template", path, template="{{ access_key_id }}\n{{ secret_access_key }}\n")
    path.write_text("AKIA\nключ\n")
    assert twice.read() is None

    twice.put(NEW)
    assert twice.read().fingerprint() == NEW.fingerprint()


def test_a_changed_template_is_delivered_anew(path, tmp_path):
    source = tmp_path / "rclone.j2"
    source.write_text(RCLONE)
    sink = opened("template", path, template_file=str(source))
    sink.put(NEW)
    source.write_text(RCLONE + "region = eu-west-1\n")
    assert sink.read() is None
    sink.put(NEW)
    assert path.read_text().endswith("region = eu-west-1\n")


def test_another_template_file_is_another_form(path, tmp_path):
    source = tmp_path / "encoded.j2"
    source.write_text(ENCODED)
    sink = opened("template", path, template_file=str(source))
    before = sink.mark
    source.write_text("# " + ENCODED)
    assert sink.mark != before
    source.unlink()
    assert sink.mark != before
    source.write_text(ENCODED)
    assert sink.mark == before


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ access_key }}", "'access_key' is undefined"),
        ("{% if %}", "line 1"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{% include 'x' %}", "no loader"),
        (r"{{ '\ud800' }}", "UnicodeEncodeError|surrogates not allowed"),
    ],
)
def test_a_template_that_cannot_be_rendered_is_found_by_check(path, template, why):
    with pytest.raises(Refused, match=why):
        opened("template", path, template=template).check()
    assert not path.exists()


def test_a_failure_with_the_real_pair_tells_nothing_of_it(path):
    leaky = "{{ {}[secret_access_key].x }}"
    with pytest.raises(Refused) as refusal:
        opened("template", path, template=leaky).put(NEW)
    assert refusal.value.__suppress_context__
    assert str(refusal.value) == "the template cannot be rendered: UndefinedError"


def test_a_template_file_that_is_not_there_is_told(path):
    sink = opened("template", path, template_file="/nowhere/rclone.j2")
    with pytest.raises(Refused, match=r"/nowhere/rclone\.j2 cannot be read: No such file"):
        sink.check()


def test_a_template_file_that_comes_later_is_read_without_a_reload(path, tmp_path):
    source = tmp_path / "rclone.j2"
    sink = opened("template", path, template_file=str(source))
    source.write_text(RCLONE)
    assert sink.readable
    sink.put(NEW)
    assert sink.read().fingerprint() == NEW.fingerprint()


def test_whether_a_template_can_be_read_back_follows_the_template(path, tmp_path):
    source = tmp_path / "rclone.j2"
    source.write_text(RCLONE)
    sink = opened("template", path, template_file=str(source))
    source.write_text(ENCODED)
    assert not sink.readable
    sink.put(NEW)
    source.write_text(RCLONE)
    assert sink.readable
    assert sink.read() is None


def test_without_its_template_nobody_knows_what_a_file_holds(path, tmp_path):
    source = tmp_path / "encoded.j2"
    source.write_text(ENCODED)
    sink = opened("template", path, template_file=str(source))
    sink.put(NEW)
    source.unlink()
    assert sink.readable
    with pytest.raises(Refused, match="cannot be read: No such file"):
        sink.read()


def test_without_jinja2_check_says_what_to_install(monkeypatch, path):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    monkeypatch.setattr("rekeyd.sinks.template.find_spec", lambda _: None)
    with pytest.raises(Refused, match="needs Jinja2") as refusal:
        opened("template", path, template=RCLONE).check()
    assert "pip install 'rekeyd[template]'" in refusal.value.do


def test_a_pair_that_the_template_does_not_carry_unchanged_is_not_written(path):
    sink = opened("template", path, template='"{{ access_key_id }}" {{ secret_access_key|tojson }}')
    with pytest.raises(Refused, match="cannot hold this pair"):
        sink.put(AccessPair("AKIA", Secret('"<&')))
    assert not path.exists()


def test_a_file_that_changed_under_the_delivery_is_tried_again(monkeypatch, path):
    sink = opened("template", path, template=ENCODED)
    monkeypatch.setattr(AtomicFile, "update", lambda *_: True)
    with pytest.raises(Transient, match="does not hold what was written"):
        sink.put(NEW)


@pytest.mark.parametrize("settings", [{}, {"template": "x", "template_file": "/x"}])
def test_a_template_has_one_source(settings):
    with pytest.raises(ValidationError, match="either `template` or `template_file`"):
        Template(type="template", path="/srv/x", **settings)
