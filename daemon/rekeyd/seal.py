"""Secrets at rest: AES-256-GCM, or AWS KMS, bound to the identity and the key id they belong to.

The binding is associated data, so a sealed secret that was moved to another pair does not open.
"""

import os
import secrets
import stat
from base64 import b64decode, b64encode
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from rekeyd.durable import flush_names
from rekeyd.errors import Misconfigured
from rekeyd.ports import Sealer
from rekeyd.secret import AccessPair, Secret

KEY_BYTES = 32
NONCE_BYTES = 12
"""96 bits, as NIST SP 800-38D recommends for GCM; random, and used for a handful of secrets."""


class KeySealer:
    """Seals with one 256-bit key that this process holds."""

    def __init__(self, key: bytes, source: str) -> None:
        self._cipher = AESGCM(key)
        self._source = source

    def seal(self, identity: str, pair: AccessPair) -> str:
        nonce = secrets.token_bytes(NONCE_BYTES)
        secret = pair.secret.reveal().encode()
        sealed = self._cipher.encrypt(nonce, secret, _bound_to(identity, pair.key_id))
        return b64encode(nonce + sealed).decode()

    def unseal(self, identity: str, key_id: str, sealed: str) -> Secret:
        try:
            raw = b64decode(sealed, validate=True)
            nonce, rest = raw[:NONCE_BYTES], raw[NONCE_BYTES:]
            return Secret(self._cipher.decrypt(nonce, rest, _bound_to(identity, key_id)).decode())
        except (InvalidTag, ValueError):
            raise Misconfigured(
                f"the seal key {self._source} does not open what the state holds, "
                "so rekeyd cannot use the pairs it keeps",
                f"backups go on with their pair; {LOST}",
            ) from None


LOST = (
    "put back the key that this state was made with: another one opens nothing of it; where it is "
    "lost, move the state away and `rekeyd adopt` the keys that the sinks hold"
)


def read_key(path: Path, *, private: bool = True, used: bool = False) -> bytes:
    """Read 32 bytes, raw or in base64, from a file that only its owner may read.

    A state may be sealed with it already, when it was `used`. Raises `Misconfigured` when it cannot
    be read, is open to others, or holds anything else.
    """
    make = f"`head -c 32 /dev/urandom > {path} && chmod 600 {path}` makes one"
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            raw = file.read(1024)
    except FileNotFoundError:
        raise Misconfigured(f"the seal key {path} does not exist", LOST if used else make) from None
    except OSError as error:
        raise Misconfigured(
            f"the seal key {path} cannot be read: {error.strerror}",
            "it must be readable by the user that rekeyd runs as, and by nobody else",
        ) from None
    if private and stat.S_IMODE(mode) & 0o077:
        raise Misconfigured(
            f"the seal key {path} is open to others (mode {stat.S_IMODE(mode):04o})",
            f"chmod 600 {path}",
        )
    for key in (raw, _from_base64(raw)):
        if len(key) == KEY_BYTES:
            return key
    raise Misconfigured(
        f"the seal key {path} is not 32 bytes, raw or in base64",
        LOST if used else f"name the file that holds it; where there is none yet, {make}",
    )


def make_key(path: Path) -> bytes:
    """Make a seal key where there is none yet, and return the one that is there then.

    It appears whole and for good, or not at all: the first start can be cut short too.
    """
    if path.exists():
        return read_key(path)
    draft = path.with_name(f"{path.name}.new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(draft, flags, 0o600), "wb") as file:
            file.write(AESGCM.generate_key(KEY_BYTES * 8))
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(draft, path)
        draft.unlink()
        flush_names(path.parent)
    except OSError as error:
        raise Misconfigured(
            f"the seal key {path} cannot be made: {error.strerror}",
            "make the folder writable for rekeyd, or name another place with `seal: file:PATH`",
        ) from None
    return read_key(path)


def credential(name: str) -> Path:
    """Return where systemd put a credential (systemd.exec(5), CREDENTIALS_DIRECTORY)."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if not folder:
        raise Misconfigured(
            f"`seal: credential:{name}` is in CREDENTIALS_DIRECTORY, which is not set here",
            f"start rekeyd from a unit with LoadCredential={name}:PATH, or use `seal: file:PATH`",
        )
    return Path(folder) / name


def open_sealer(seal: str, kms: Callable[[], Any], *, used: bool = False) -> Sealer:
    """Open what the `seal` setting names. `kms` makes a client when one is needed."""
    kind, _, value = seal.partition(":")
    match kind:
        case "kms":
            from rekeyd.kms import KmsSealer  # noqa: PLC0415 (boto3's part, for those who use it)

            return KmsSealer(value, kms)
        case "credential":
            return KeySealer(read_key(credential(value), private=False, used=used), seal)
        case _:
            return KeySealer(read_key(Path(value), used=used), seal)


CHECK = AccessPair("seal-check", Secret("this text opens with the right seal key"))
"""Sealed into every new state, so that a seal key that does not fit is found at start-up."""


def _from_base64(raw: bytes) -> bytes:
    try:
        return b64decode(raw.strip(), validate=True)
    except ValueError:
        return b""


def _bound_to(identity: str, key_id: str) -> bytes:
    return f"{identity}\0{key_id}".encode()
