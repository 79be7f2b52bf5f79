"""The JSON Schema of the configuration file, and the tables of config/README.md made from it."""

from typing import Any

from rekeyd.config.settings import Settings

Schema = dict[str, Any]


def json_schema() -> Schema:
    """Return the JSON Schema of the file, with every sink that comes with rekeyd."""
    return Settings.model_json_schema()
