"""Terraform makes what `rekeyd provision` would, told by a real Terraform and its AWS provider."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import ZipFile

import pytest
import yaml

from processes import command

pytestmark = pytest.mark.e2e

IAM = Path(__file__).parents[2] / "deploy/iam"
IDENTITY = {
    "user": "photos_user",
    "group": "photos_group",
    "path": "/backup/",
    "policy": {"name": "Photos", "bucket": "photos", "preset": "restic"},
    "sinks": [{"type": "ssm_parameter", "parameter": "/photos/pair"}],
}
"""It has no permissions boundary: moto keeps none of a user."""

VARIABLES = {
    "user": "photos_user",
    "group": "photos_group",
    "path": "/backup/",
    "policy": "Photos",
    "backup_document": "backup.json",
    "rotator_document": "rotator.json",
}
PROVIDER = """\
provider "aws" {
  region                      = "us-east-1"
  access_key                  = "anybody"
  secret_key                  = "anybody"
  skip_credentials_validation = true
  skip_metadata_api_check     = true
  skip_requesting_account_id  = true
  skip_get_ec2_platforms      = true
  endpoints {
    iam = "ENDPOINT"
  }
}
"""
INSTALLED = """\
provider_installation {
  dev_overrides {
    "hashicorp/aws" = "FOLDER"
  }
}
"""
"""Where the provider lies, so that no registry is asked."""


class Terraform:
    """Terraform at work in a folder that holds the module."""

    def __init__(self, program: Path, provider: str, folder: Path, endpoint: str) -> None:
        self._program = program
        self._folder = folder
        for file in (IAM / "terraform").glob("*.tf"):
            shutil.copy(file, folder)
        (folder / "provider.tf").write_text(PROVIDER.replace("ENDPOINT", endpoint))
        (folder / "terraform.tfvars.json").write_text(json.dumps(VARIABLES))
        settings = folder / "terraformrc"
        settings.write_text(INSTALLED.replace("FOLDER", provider))
        self._environment = os.environ | {
            "TF_CLI_CONFIG_FILE": str(settings),
            "CHECKPOINT_DISABLE": "1",  # it asks for newer releases otherwise
        }

    def run(self, *arguments: str) -> int:
        """Return its exit code, but not 1: that is an error."""
        done = subprocess.run(
            [self._program, *arguments],
            cwd=self._folder,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode != 1, done.stdout + done.stderr[-2000:]
        return done.returncode


@pytest.fixture
def terraform(programs: Path, embedded_aws: Any, tmp_path: Path) -> Any:
    (packages,) = programs.parent.glob("lib/python*/site-packages/cloudrail")
    provider = packages / "terraform_plugins/terraform-provider-aws_3.39.0_linux_amd64.zip"
    embedded_aws.reset()
    with TemporaryDirectory() as folder:
        with ZipFile(provider) as packed:
            (name,) = packed.namelist()
            Path(packed.extract(name, folder)).chmod(0o755)
        program = packages / "terraform_0_15/terraform"
        yield Terraform(program, folder, tmp_path, embedded_aws.endpoint)


def test_terraform_finds_the_module_in_form(terraform: Terraform) -> None:
    assert terraform.run("validate") == 0
    assert terraform.run("fmt", "-check", str(IAM / "terraform")) == 0


def test_terraform_makes_what_rekeyd_would_provision(
    terraform: Terraform, embedded_aws: Any, tmp_path: Path
) -> None:
    settings = {
        "aws": {"region": "us-east-1", "endpoint_url": embedded_aws.endpoint},
        "identities": [IDENTITY],
    }
    config = tmp_path / "rekeyd.yaml"
    config.write_text(yaml.safe_dump(settings))
    anybody = {"AWS_ACCESS_KEY_ID": "anybody", "AWS_SECRET_ACCESS_KEY": "anybody"}
    environment = os.environ | anybody | {"REKEYD_CONFIG": str(config)}
    for party in ("backup", "rotator"):
        (tmp_path / f"{party}.json").write_text(command(["policy", party], environment).stdout)

    assert terraform.run("apply", "-auto-approve") == 0

    shown = command(["provision", "--dry-run"], environment)
    assert (shown.returncode, shown.stdout) == (0, "photos_user: nothing to change\n")
    arn = "arn:aws:iam::123456789012:policy/RekeydRotator"
    version = embedded_aws.iam.get_policy_version(PolicyArn=arn, VersionId="v1")
    made = version["PolicyVersion"]["Document"]
    assert made == json.loads((tmp_path / "rotator.json").read_text())

    embedded_aws.iam.create_access_key(UserName="photos_user")  # as a rotation does
    assert terraform.run("plan", "-detailed-exitcode") == 0  # 2 would be a change
