"""The reference of the settings is generated, current, and complete."""

import json
import re
import runpy
from pathlib import Path

import jsonschema
import pytest
import yaml

from rekeyd.config import json_schema, load, parse
from rekeyd.config.reference import with_tables
from rekeyd.sinks import BUILT_IN

CONFIG = Path(__file__).parent.parent / "config"
EXAMPLES = [CONFIG / "rekeyd.yaml", CONFIG / "rekeyd.full.yaml"]

AGAIN = "run `python -m rekeyd.config config`"


def mappings():
    schema = json_schema()
    return {"": schema, **schema["$defs"]}.items()


def settings():
    for model, part in mappings():
        for name, value in part.get("properties", {}).items():
            yield model, name, value


def test_the_schema_is_current():
    stored = json.loads((CONFIG / "rekeyd.schema.json").read_text(encoding="utf-8"))
    assert stored == json_schema(), AGAIN


def test_the_tables_of_the_readme_are_current():
    readme = (CONFIG / "README.md").read_text(encoding="utf-8")
    assert with_tables(readme) == readme, AGAIN


def test_the_schema_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(json_schema())


@pytest.mark.parametrize("kind", sorted(BUILT_IN))
def test_each_sink_is_told_of_with_an_example_that_loads(kind):
    readme = (CONFIG / "README.md").read_text(encoding="utf-8")
    told = readme.partition(f"### `{kind}`\n")[2].partition("\n### ")[0]
    first = rf"^    - \{{?type: {kind}\b.*\n(?:      .*\n)*"
    [example] = re.findall(first, told, re.MULTILINE)

    settings = parse(f"identities:\n- user: backup_user\n  sinks:\n{example}", "README.md")

    assert [sink.type for sink in settings.identities[0].sinks] == [kind]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda file: file.name)
def test_an_example_is_valid_and_loads(example):
    jsonschema.validate(yaml.safe_load(example.read_text(encoding="utf-8")), json_schema())
    assert load(example).identities


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"identities": []},
        {"identities": [{"user": "a", "sinks": []}]},
        {"identities": [{"user": "a", "sinks": [{"type": "nowhere"}]}]},
        {"identities": [{"user": "a", "sinks": [{"type": "exec"}]}]},
        {
            "identities": [
                {"user": "a", "group": None, "sinks": [{"type": "exec", "command": ["/a"]}]}
            ]
        },
        {"identities": [{"user": "a b", "sinks": [{"type": "exec", "command": ["/a"]}]}]},
    ],
)
def test_the_schema_refuses_mistakes_too(wrong):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, json_schema())


def test_every_setting_has_a_description():
    described = {"description", "const"}
    assert not [f"{model}.{name}" for model, name, v in settings() if not described & {*v}]


def test_every_setting_of_a_certain_form_has_an_example_of_it():
    patterned = [
        (
            f"{model}.{name}",
            form["pattern"],
            [*form.get("examples", ()), *value.get("examples", ())],
        )
        for model, name, value in settings()
        for form in (value, *value.get("anyOf", ()))
        if "pattern" in form
    ]

    assert len(patterned) > 20
    assert not [name for name, form, told in patterned if not told or not re.match(form, told[0])]


def test_every_setting_stands_in_the_readme():
    readme = (CONFIG / "README.md").read_text(encoding="utf-8")
    assert not [name for _, name, _ in settings() if f"| `{name}` |" not in readme]


def test_every_kind_of_sink_stands_in_the_readme_and_in_the_full_example():
    readme = (CONFIG / "README.md").read_text(encoding="utf-8")
    full = EXAMPLES[1].read_text(encoding="utf-8")
    assert not [kind for kind in BUILT_IN if f"### `{kind}`" not in readme]
    assert not [kind for kind in BUILT_IN if f"type: {kind}" not in full]


def test_every_setting_but_those_of_sinks_stands_in_the_full_example():
    full = EXAMPLES[1].read_text(encoding="utf-8")
    ours = {"", *(m for m, _ in mappings() if m.endswith("Settings")), "Listen"}
    named = {name for model, name, _ in settings() if model in ours}
    assert {"every", "endpoint_url_s3", "insecure", "boundary"} <= named
    assert not [name for name in named if not re.search(rf"\b{name}:", full)]


def run(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["rekeyd.config", *arguments])
    runpy.run_module("rekeyd.config", run_name="__main__")


def test_the_schema_is_printed(capsys, monkeypatch):
    run(monkeypatch)
    assert capsys.readouterr().out == (CONFIG / "rekeyd.schema.json").read_text(encoding="utf-8")


def test_the_reference_is_written_into_a_folder(tmp_path, monkeypatch):
    text = (CONFIG / "README.md").read_text(encoding="utf-8")
    (tmp_path / "README.md").write_text(text.replace("| `every` |", "| `gone` |"), encoding="utf-8")
    run(monkeypatch, str(tmp_path))
    for file in ("README.md", "rekeyd.schema.json"):
        assert (tmp_path / file).read_bytes() == (CONFIG / file).read_bytes()
