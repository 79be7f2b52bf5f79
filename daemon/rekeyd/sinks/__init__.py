"""Where consumers read their pair. A module is imported only when a configuration names it."""

from importlib import import_module
from typing import TYPE_CHECKING

from rekeyd.errors import Misconfigured

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

    from rekeyd.ports import Sink
    from rekeyd.sinks.base import SinkContext, SinkSettings

KIND = "sink"

BUILT_IN = {
    "aws_credentials": "rekeyd.sinks.aws_credentials:AwsCredentials",
    "azure_key_vault": "rekeyd.sinks.azure_key_vault:AzureKeyVault",
    "circleci_variable": "rekeyd.sinks.circleci_variable:CircleciVariable",
    "credential_process": "rekeyd.sinks.credential_process:CredentialProcess",
    "env_file": "rekeyd.sinks.env_file:EnvFile",
    "exec": "rekeyd.sinks.exec:Exec",
    "gcp_secret_manager": "rekeyd.sinks.gcp_secret_manager:GcpSecretManager",
    "github_actions_secret": "rekeyd.sinks.github_actions_secret:GithubActionsSecret",
    "gitlab_variable": "rekeyd.sinks.gitlab_variable:GitlabVariable",
    "kubernetes_secret": "rekeyd.sinks.kubernetes_secret:KubernetesSecret",
    "s3_object": "rekeyd.sinks.s3_object:S3Object",
    "secrets_manager": "rekeyd.sinks.secrets_manager:SecretsManager",
    "ssm_parameter": "rekeyd.sinks.ssm_parameter:SsmParameter",
    "template": "rekeyd.sinks.template:Template",
    "vault_kv2": "rekeyd.sinks.vault_kv2:VaultKv2",
    "webhook": "rekeyd.sinks.webhook:Webhook",
}
"""The settings class of each type that comes with rekeyd."""

GROUP = "rekeyd.sinks"
"""The entry point group in which other packages add a type: its name, and its settings class."""


def types() -> list[str]:
    """Return every type of sink that can be named here."""
    return sorted({*BUILT_IN, *(entry.name for entry in _elsewhere())})


def settings_class(kind: str) -> "type[SinkSettings]":
    """Import the settings of a type of sink.

    Raises `Misconfigured` for a type that nobody provides.
    """
    if kind in BUILT_IN:
        module, _, name = BUILT_IN[kind].partition(":")
        found: type[SinkSettings] = getattr(import_module(module), name)
        return found
    for entry in _elsewhere():
        if entry.name == kind:
            loaded: type[SinkSettings] = entry.load()
            return loaded
    raise Misconfigured(f"no sink of type {kind!r}", f"types there are: {', '.join(types())}")


def opened(settings: "SinkSettings", context: "SinkContext") -> "Sink":
    """Make the sink of these settings. Touches nothing yet.

    One of another package is kept from failing in other ways than the contract allows.
    """
    if settings.type in BUILT_IN:
        return settings.open(context)
    from rekeyd.sinks._guest import Guest  # noqa: PLC0415 (for those who have one)

    return Guest(settings, context)


def _elsewhere() -> "EntryPoints":
    from importlib.metadata import entry_points  # noqa: PLC0415 (20 ms, for those who need it)

    return entry_points(group=GROUP)
