"""Secrets at rest under a key that never leaves AWS KMS."""

from base64 import b64decode, b64encode
from collections.abc import Callable
from typing import Any

from rekeyd.botoerrors import translated
from rekeyd.secret import AccessPair, Secret


class KmsSealer:
    """Seals by KMS Encrypt; identity and key id are the encryption context."""

    def __init__(self, key_id: str, client: Callable[[], Any]) -> None:
        self._key_id = key_id
        self._client = client

    def seal(self, identity: str, pair: AccessPair) -> str:
        with translated("encrypt a secret", "kms:Encrypt", self._key_id):
            answer = self._client().encrypt(
                KeyId=self._key_id,
                Plaintext=pair.secret.reveal().encode(),
                EncryptionContext={"identity": identity, "key_id": pair.key_id},
            )
        return b64encode(answer["CiphertextBlob"]).decode()

    def unseal(self, identity: str, key_id: str, sealed: str) -> Secret:
        with translated("decrypt a secret", "kms:Decrypt", self._key_id):
            answer = self._client().decrypt(
                KeyId=self._key_id,
                CiphertextBlob=b64decode(sealed),
                EncryptionContext={"identity": identity, "key_id": key_id},
            )
        return Secret(answer["Plaintext"].decode())
