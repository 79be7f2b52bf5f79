"""`kubernetes_secret`: two keys of one Secret of a Kubernetes cluster.

Who reads it: pods, through `envFrom`, `secretKeyRef` or a volume. A volume is refreshed by the
kubelet within about a minute; environment variables only when the pod starts again, so `overlap`
must outlast the longest-lived pod, or a tool such as Reloader restarts it.

Both keys are set by one merge patch that carries the resourceVersion that was read: a reader sees
the old pair or the new one, other keys, labels and annotations stay as they are, and a write by
somebody else at the same moment is never lost. A Secret that is missing is made, when RBAC allows.

Inside a cluster rekeyd uses its service account; elsewhere set `api_server`, `token` and `ca_file`.
Least rights, in the Secret's namespace:

    rules:
      - {apiGroups: [""], resources: [secrets], resourceNames: [backup-s3], verbs: [get, patch]}
      - {apiGroups: [""], resources: [secrets], verbs: [create]}    # only if it may have to be made

    - type: kubernetes_secret
      namespace: backup
      secret_name: backup-s3
"""

import os
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Literal

from pydantic import Field

from rekeyd.errors import Refused
from rekeyd.ports import Sink
from rekeyd.secret import AccessPair
from rekeyd.sinks._http import Address, Answer, Call, Client, HttpSettings, bearer, segment
from rekeyd.sinks._reference import Reference, token
from rekeyd.sinks._value import USUAL_NAMES, FieldNames
from rekeyd.sinks.base import SinkContext

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where the kubelet puts a pod's token and the cluster's CA."""

REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


class KubernetesSecret(HttpSettings):
    """A Secret of Kubernetes."""

    type: Literal["kubernetes_secret"]
    namespace: str = Field(min_length=1, description="The Secret's namespace.")
    secret_name: str = Field(min_length=1, description="metadata.name of the Secret.")
    api_server: Address | None = Field(
        None, description="Left out: the cluster in which rekeyd itself runs."
    )
    token: Reference = f"file:{SERVICE_ACCOUNT}/token"
    fields: FieldNames = Field(
        USUAL_NAMES, description="Names of the two fields in `data`. Others are kept."
    )

    @property
    def place(self) -> str:
        cluster = f"{self.api_server}/" if self.api_server else ""
        return f"{cluster}{self.namespace}/{self.secret_name}"

    def open(self, context: SinkContext) -> Sink:
        return _KubernetesSecretSink(self, context)


class _KubernetesSecretSink:
    """A pair in two keys of one Secret."""

    readable = True

    def __init__(self, settings: KubernetesSecret, context: SinkContext) -> None:
        self.name, self.mark = settings.label, settings.mark
        self._settings = settings
        self._default_ca = context.tls_ca
        self._collection = f"/api/v1/namespaces/{segment(settings.namespace)}/secrets"
        self._path = f"{self._collection}/{segment(settings.secret_name)}"

    def check(self) -> None:
        """Ask the cluster for each right in a SelfSubjectAccessReview, which is stored nowhere."""
        speaker = self._client()
        self._require(speaker, "get")
        found = self._get(speaker)
        if found.status == 404:
            self._require(speaker, "create")
        else:
            self._require(speaker, "patch")
            self._refuse_immutable(found)

    def read(self) -> AccessPair | None:
        data = self._get(self._client()).dig("data")
        fields = data if isinstance(data, dict) else {}
        return self._settings.fields.pick({name: _decoded(fields[name]) for name in fields})

    def put(self, pair: AccessPair) -> None:
        speaker = self._client()
        found = self._get(speaker)
        halves = self._settings.fields.fill(pair)
        data = {name: b64encode(half.encode()).decode() for name, half in halves.items()}
        if found.status == 404:
            self._create(speaker, data)
            return
        held = found.dig("data")
        if isinstance(held, dict) and data.items() <= held.items():
            return
        self._refuse_immutable(found)
        version = {"resourceVersion": found.dig("metadata", "resourceVersion")}
        headers = {**self._authorized(), "Content-Type": "application/merge-patch+json"}
        patch = {"metadata": version, "data": data}
        speaker.send(Call("PATCH", self._path, headers, content=patch))

    def _create(self, speaker: Client, data: dict[str, str]) -> None:
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": self._settings.secret_name},
            "type": "Opaque",
            "data": data,
        }
        speaker.send(Call("POST", self._collection, self._authorized(), content=secret))

    def _get(self, speaker: Client) -> Answer:
        return speaker.send(Call("GET", self._path, self._authorized()), accept=(404,))

    def _require(self, speaker: Client, verb: str) -> None:
        attributes = {
            "namespace": self._settings.namespace,
            "verb": verb,
            "group": "",
            "resource": "secrets",
            **({} if verb == "create" else {"name": self._settings.secret_name}),
        }
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        answer = speaker.send(Call("POST", REVIEWS, self._authorized(), content=review))
        if answer.dig("status", "allowed") is not True:
            raise Refused(
                f"{speaker.speaker} does not let this service account {verb} the Secret "
                f"{self._settings.namespace}/{self._settings.secret_name}, so a new pair could "
                "not be delivered",
                f"give it the verb {verb} on secrets in a Role of that namespace",
            )

    def _refuse_immutable(self, found: Answer) -> None:
        if found.dig("immutable") is True:
            raise Refused(
                f"the Secret {self._settings.namespace}/{self._settings.secret_name} is immutable, "
                "so it takes no new pair",
                "make it anew without `immutable: true`",
                reason="sink",
            )

    def _authorized(self) -> dict[str, str]:
        return bearer(token(self._settings.token))

    def _client(self) -> Client:
        own_ca = self._settings.ca_file or self._default_ca
        needs = "give the service account the verbs get and patch on this Secret"
        if self._settings.api_server:
            return Client(
                self._settings.api_server, service="Kubernetes", needs=needs, ca_file=own_ca
            )
        ca_file = own_ca or str(SERVICE_ACCOUNT / "ca.crt")
        return Client(_in_cluster(), service="Kubernetes", needs=needs, ca_file=ca_file)


def _in_cluster() -> str:
    """The API server, as every pod is told (Kubernetes, "Accessing the API from a Pod")."""
    host = os.environ.get("KUBERNETES_SERVICE_HOST")
    port = os.environ.get("KUBERNETES_SERVICE_PORT_HTTPS", "443")
    if not host:
        raise Refused(
            "rekeyd does not run inside a Kubernetes cluster, so it knows no API server",
            "set `api_server`, `token` and `ca_file` of the sink",
            reason="sink",
        )
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


def _decoded(text: object) -> str:
    try:
        return b64decode(str(text)).decode()
    except ValueError:
        return ""
