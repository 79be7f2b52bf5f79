"""A secret access key, and the pair that it makes with its key id."""

from dataclasses import dataclass
from hashlib import sha256
from typing import Any


class Secret:
    """A secret access key. It shows itself only when asked to `reveal`."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Secret(…)"

    __str__ = __repr__

    def __reduce__(self) -> Any:
        raise TypeError("a secret is not pickled")


@dataclass(frozen=True, slots=True)
class AccessPair:
    """A key id with its secret: what a consumer signs with, and a sink gets as one object."""

    key_id: str
    secret: Secret

    def fingerprint(self) -> str:
        """Tell this pair from any other without the secret, which has 240 random bits.

        What a damaged file holds may be no text: its bytes, whatever they are, make another pair.
        """
        held = f"{self.key_id}:{self.secret.reveal()}"
        return sha256(held.encode(errors="surrogatepass")).hexdigest()


def short(key_id: str) -> str:
    """A key id as people may see it: its last four characters."""
    return f"…{key_id[-4:]}"
