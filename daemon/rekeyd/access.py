"""Who may read what the listener shows: its certificate, and the passwords it asks for."""

import hmac
import secrets
import ssl
from base64 import b64decode
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import structlog

from rekeyd.config import Listen, TlsSettings
from rekeyd.errors import Misconfigured

_log = structlog.get_logger(__name__)


def secured(listen: Listen) -> "tuple[Certificate | None, Gate | None]":
    """Open what a listener shows and asks for, where the settings want it.

    Raises `Misconfigured` when the certificate or the password hashes cannot be used.
    """
    tls = Certificate(listen.tls_server_config) if listen.tls_server_config else None
    gate = Gate(listen.basic_auth_users) if listen.basic_auth_users else None
    return tls, gate


class Gate:
    """Basic authentication against bcrypt hashes. A password that was right is not hashed again.

    Raises `Misconfigured` when the package bcrypt is not installed.
    """

    def __init__(self, users: Mapping[str, str]) -> None:
        try:
            import bcrypt  # noqa: PLC0415  # only those who set a password have it
        except ImportError:
            raise Misconfigured(
                "`basic_auth_users` is set, but bcrypt, which checks passwords, is not installed",
                "install it with `pip install 'rekeyd[web]'`",
            ) from None
        self._check = bcrypt.checkpw
        self._users = {name: hashed.encode() for name, hashed in users.items()}
        self._key = secrets.token_bytes(32)
        self._right: dict[str, bytes] = {}  # user: digest of the last right header

    def remembers(self, authorization: str) -> bool:
        """Tell whether the same header was right before. Costs a hash, whoever asks."""
        digest = self._digest(authorization)
        return any(hmac.compare_digest(digest, known) for known in list(self._right.values()))

    def admits(self, authorization: str) -> bool:
        """Check a header. Takes as long for a user that does not exist."""
        user, password = _credentials(authorization)
        known = self._users.get(user)
        try:
            right = self._check(password, known or next(iter(self._users.values())))
        except ValueError:  # longer than bcrypt reads
            return False
        if known is None or not right:
            return False
        self._right[user] = self._digest(authorization)
        return True

    def _digest(self, authorization: str) -> bytes:
        return hmac.digest(self._key, authorization.encode(), "sha256")


def _credentials(authorization: str) -> tuple[str, bytes]:
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return "", b""
    try:
        user, _, password = b64decode(encoded.strip(), validate=True).partition(b":")
        return user.decode(), password
    except ValueError:
        return "", b""


class Certificate:
    """A TLS context that follows its files: a renewed certificate needs no signal."""

    def __init__(self, settings: TlsSettings) -> None:
        self._settings = settings
        self._seen = self._stamp()
        self._context = self._load()

    def context(self) -> ssl.SSLContext:
        stamp = self._stamp()
        if stamp != self._seen:
            self._seen = stamp
            try:
                self._context = self._load()
            except Misconfigured as error:
                _log.warning("certificate not renewed", error=str(error), do=error.do)
        return self._context

    def _stamp(self) -> list[int]:
        files = (self._settings.cert_file, self._settings.key_file)
        with suppress(OSError):
            return [Path(file).stat().st_mtime_ns for file in files]
        return []

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            # An empty password, so that a sealed key is an error and not a question on a terminal.
            context.load_cert_chain(self._settings.cert_file, self._settings.key_file, "")
        except (OSError, ValueError) as error:
            raise Misconfigured(
                f"the certificate {self._settings.cert_file} with the key "
                f"{self._settings.key_file} cannot be used: {_reason(error)}",
                "both must be PEM, readable by rekeyd, belong together, and need no passphrase",
            ) from None
        return context


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "not PEM").replace("_", " ").lower()
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
