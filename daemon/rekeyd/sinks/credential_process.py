"""`credential_process`: a JSON file for `rekeyd credentials`, which AWS SDKs run to get a pair.

The SDKs ask it again before its answer expires, so that consumers change pairs without a restart.
The consumer's profile says `credential_process = rekeyd credentials /srv/backup/pair.json`.

    - {type: credential_process, path: /srv/backup/pair.json}
"""

from typing import Literal

from rekeyd import credentials
from rekeyd.ports import Sink
from rekeyd.secret import AccessPair
from rekeyd.sinks._file import FileSettings, FileSink, whole
from rekeyd.sinks.base import SinkContext


class CredentialProcess(FileSettings):
    """A file of its own, which `rekeyd credentials FILE` hands to AWS SDKs."""

    type: Literal["credential_process"]

    def open(self, context: SinkContext) -> Sink:  # noqa: ARG002 - a file needs no surroundings
        return FileSink(self, self.file(), ProcessDocument())


class ProcessDocument:
    """The whole file is one pair. Anything else in its place is somebody else's file."""

    def held(self, text: str) -> AccessPair | None:
        if not text.strip():
            return None
        fields = credentials.parse(text)
        return whole(*map(fields.get, ("AccessKeyId", "SecretAccessKey", "SessionToken")))

    def holding(self, text: str, pair: AccessPair) -> str:  # noqa: ARG002 - nothing in it is kept
        return credentials.document(pair.key_id, pair.secret.reveal())
