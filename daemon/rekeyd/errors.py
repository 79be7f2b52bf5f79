"""The ways in which rekeyd can fail. Adapters turn library errors into these once, at their edge.

Every message is one sentence for the operator: what happened, then what it means for the backups.
`do` is the next thing to type or to look at. Neither ever holds a secret.
"""


class RekeydError(Exception):
    """Anything that rekeyd reports instead of a traceback."""

    def __init__(self, message: str, do: str = "") -> None:
        super().__init__(message)
        self.do = do

    @property
    def in_full(self) -> str:
        """What happened and what to do, on one line."""
        return f"{self}; {self.do}" if self.do else str(self)


class Transient(RekeydError):
    """Something could not be reached or done just now. Nothing is lost; try again later."""


class Propagating(Transient):
    """A key is not known everywhere yet, as for some seconds after a mint; look again soon."""


class Elsewhere(Propagating):
    """Another replica acts on this identity, or has taken it over; look again soon."""


class Unanswered(Transient):
    """A call was sent and its answer was lost, so nobody knows whether it took effect.

    Time-outs, dropped connections, 5xx and unreadable answers. A 4xx answer is definite instead:
    nothing was done (AWS, "IAM common errors").
    """


class Refused(RekeydError):
    """The other side understood and said no. It will say so again until a person changes something.

    `reason` names the kind of hold that this becomes.
    """

    def __init__(self, message: str, do: str = "", reason: str = "permission") -> None:
        super().__init__(message, do)
        self.reason = reason


class Gone(Refused):
    """What the call was about does not exist (IAM: NoSuchEntity)."""


class Permanent(RekeydError):
    """The request itself cannot be met: wrong usage, or something that is not there."""


class Misconfigured(Permanent):
    """The configuration, the seal key or the state folder cannot be used as it is. Exit code 78."""


class Mistaken(Misconfigured):
    """The configuration's file has mistakes, each of which is a line that begins with FILE:LINE."""

    def __init__(self, mistakes: list[str], do: str = "") -> None:
        super().__init__("\n".join(mistakes), do)
        self.mistakes = mistakes
