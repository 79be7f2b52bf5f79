"""What users can touch is written down, and what is written down exists."""

import re
from pathlib import Path

import pytest

from rekeyd.cli import cli
from rekeyd.config import load
from rekeyd.metrics import Metrics
from rekeyd.policy import PRESETS
from rekeyd.sinks import BUILT_IN

TOP = Path(__file__).parent.parent
PAGES = (
    *("README.md", "CONTRIBUTING.md", "config/README.md", "tests/README.md"),
    *("deploy/README.md", "deploy/tools.md"),
)
RECIPES = re.findall(r"```yaml\n(.*?)```", (TOP / "deploy/tools.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("command", sorted(cli.commands))
def test_every_command_is_in_the_readme(command):
    assert f"rekeyd {command}" in (TOP / "README.md").read_text()


@pytest.mark.parametrize("command", sorted(cli.commands))
def test_every_command_says_what_it_does(command):
    assert len(cli.commands[command].help) > 20


@pytest.mark.parametrize("kind", sorted(BUILT_IN))
def test_every_sink_is_in_the_readme_and_in_the_table_of_settings(kind):
    assert f"`{kind}`" in (TOP / "README.md").read_text()
    assert f"`{kind}`" in (TOP / "config/README.md").read_text()


def test_every_metric_is_explained():
    told = (TOP / "README.md").read_text()
    named = {m.name for m in Metrics("0").registry.collect() if m.name.startswith("rekeyd_")}
    assert named
    assert {name for name in named if name not in told} == set()


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    path = TOP / page
    for target in re.findall(r"\]\(([^)#\s]+)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), f"{page} links {target}"


def test_every_module_is_on_the_map():
    told = (TOP / "CONTRIBUTING.md").read_text()
    modules = {path.stem for path in (TOP / "daemon/rekeyd").glob("*.py")} - {"__init__"}
    assert {name for name in modules if f"`{name}`" not in told} == set()


def test_every_tool_with_a_preset_has_a_recipe_that_loads(tmp_path):
    path = tmp_path / "rekeyd.yaml"
    presets = set()
    for recipe in RECIPES:
        path.write_text(recipe)
        [identity] = load(path).identities
        presets.add(identity.policy.preset)
    assert presets == PRESETS.keys() - {"append-only"}
