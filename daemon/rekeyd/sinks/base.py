"""What every sink is made of: its settings, and the context in which they open the sink.

A sink is one module: a `SinkSettings` subclass, whose `open` returns an object with the contract of
`rekeyd.ports.Sink`. `rekeyd.sinks.settings_class` finds it by its `type`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rekeyd.policy import Grant
from rekeyd.ports import Sink

STRICT = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)
"""How all settings are read: unknown keys are mistakes, nothing is converted or shown in errors."""


@dataclass(frozen=True, slots=True)
class SinkContext:
    """What a sink may use of its surroundings."""

    identity: str
    """The identity whose pair it holds."""

    aws_client: Callable[[str, str | None], Any]
    """Make a boto3 client of a service, by name and region (None: the identity's), with the
    daemon's own credentials for this identity. The caller closes it."""

    tls_ca: str | None = None
    """A file of CA certificates for HTTPS sinks; None for the system's."""


def digest(*parts: object) -> str:
    """Return a short name of these parts that shows nothing of them."""
    return sha256(repr(parts).encode()).hexdigest()[:16]


class SinkSettings(BaseModel):
    """The settings that all sinks have. Unknown keys are mistakes; nothing is converted."""

    model_config = STRICT

    per_account: ClassVar[bool] = False
    """Whether every AWS account has places of its own, under the same names."""

    type: str
    name: str | None = Field(
        None, description="How logs and metrics call it. Left out: its type and what it points at."
    )

    @model_validator(mode="after")
    def _points_somewhere(self) -> Self:
        if not (self.label and self.place):  # they may be computed by a third party's code
            raise ValueError("does not say what it points at; look at its settings")
        return self

    @property
    def place(self) -> str:
        """What it points at. No two sinks of a configuration may share one."""
        raise NotImplementedError

    @property
    def label(self) -> str:
        return self.name or f"{self.type}:{self.place}"

    @property
    def mark(self) -> str:
        """What custody calls it. A digest: a place may be secret, as a webhook's address is.

        All settings but the name count, harmless ones too: a pair that is delivered once too often
        is the same pair, and one that is missing where the sink now points locks a consumer out.
        """
        settings = self.model_dump(exclude={"name"})
        return digest(self.place, sorted(settings.items()))

    @property
    def slowness(self) -> timedelta:
        """How much longer than any network's time limits a `put` with its `read` may take."""
        return timedelta()

    def open(self, context: SinkContext) -> Sink:
        """Make the sink. Touches nothing yet."""
        raise NotImplementedError

    def permissions(self, partition: str) -> Sequence[Grant]:
        """Return what the daemon needs in AWS to `check`, `read` and `put`. Often nothing."""
        del partition
        return ()
