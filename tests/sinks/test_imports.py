"""A sink that no configuration names costs nothing: nothing is imported for it."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from rekeyd.sinks import BUILT_IN

EXAMPLE = Path(__file__).parents[2] / "config/rekeyd.full.yaml"
SINKS = {
    sink["type"]: sink
    for identity in yaml.safe_load(EXAMPLE.read_text())["identities"]
    for sink in identity["sinks"]
}
MODULES = {kind: place.partition(":")[0] for kind, place in BUILT_IN.items()}
CHANNELS = {
    "apprise": {"type": "apprise", "urls": "env:URLS"},
    "webhook": {"type": "webhook", "url": "https://ops.example.com", "secret": "env:SECRET"},
}
EXTRAS = {"jinja2", "nacl", "apprise", "bcrypt", "moto", "psycopg"}
HEAVY = EXTRAS | {"boto3", "botocore", "urllib3", "cryptography"}
AWS_ITSELF = {"botocore", "urllib3"}
NEEDS = {
    "gcp_secret_manager": {"cryptography", "bcrypt"},  # it signs for its token; bcrypt comes along
    "s3_object": AWS_ITSELF,
    "secrets_manager": AWS_ITSELF,
    "ssm_parameter": AWS_ITSELF,
}

SCRIPT = """
import sys
from pathlib import Path
from rekeyd.config import load
load(Path(sys.argv[1]))
print(*sys.modules)
"""


def imported(folder, sinks, channels=()):
    """Read a configuration in a process of its own; return what that imported."""
    path = folder / "rekeyd.yaml"
    identity = {"user": "backup_user", "sinks": list(sinks)}
    path.write_text(yaml.safe_dump({"notify": list(channels), "identities": [identity]}))
    command = [sys.executable, "-c", SCRIPT, str(path)]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize("kind", sorted(BUILT_IN))
def test_only_the_sink_that_is_named_is_imported(tmp_path, kind):
    modules = imported(tmp_path, [SINKS[kind]])

    assert modules & {*MODULES.values()} == {MODULES[kind]}
    assert modules & HEAVY <= NEEDS.get(kind, set())
    assert "rekeyd.notify.notifier" not in modules


@pytest.mark.parametrize("kind", sorted(CHANNELS))
def test_only_the_channel_that_is_named_is_imported(tmp_path, kind):
    modules = imported(tmp_path, [SINKS["credential_process"]], [CHANNELS[kind]])

    assert modules & {f"rekeyd.notify.{name}" for name in CHANNELS} == {f"rekeyd.notify.{kind}"}
    signing = {"rekeyd.sinks.webhook"} if kind == "webhook" else set()
    assert modules & {*MODULES.values()} == {MODULES["credential_process"], *signing}
    assert not modules & HEAVY
