"""What every channel is made of: its settings, which open it."""

from pydantic import BaseModel

from rekeyd.ports import Channel
from rekeyd.sinks.base import STRICT


class ChannelSettings(BaseModel):
    """One way to tell people of failed rotations and holds: `rekeyd.notify` has them."""

    model_config = STRICT

    type: str

    def open(self) -> Channel:
        """Make the channel. Tells nobody yet."""
        raise NotImplementedError
