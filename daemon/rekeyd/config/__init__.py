"""The configuration: one YAML file, read strictly, every mistake reported at once.

`document` reads YAML and knows its lines, `settings` holds the settings and their limits, `reader`
brings the two together, `explain` words the mistakes, and `reference` writes the JSON Schema and
the tables of config/README.md.
"""

from typing import Any

from rekeyd.config.reader import load, parse
from rekeyd.config.settings import (
    AwsSettings,
    IdentitySettings,
    Listen,
    LogSettings,
    PolicySettings,
    RotationSettings,
    Settings,
    TlsSettings,
)

__all__ = [
    "AwsSettings",
    "IdentitySettings",
    "Listen",
    "LogSettings",
    "PolicySettings",
    "RotationSettings",
    "Settings",
    "TlsSettings",
    "json_schema",
    "load",
    "parse",
]


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of the file, with every sink that comes with rekeyd."""
    from rekeyd.config.reference import json_schema as build  # noqa: PLC0415 (imports every sink)

    return build()
