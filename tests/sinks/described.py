"""Servers on loopback that hold every request against a published API description.

Each class is written from its vendor's public documentation, named in its docstring, and knows
nothing of rekeyd's client. A request that the documentation does not know (method, path, query,
header, body) is answered as an error and kept as a violation; leaving the `with` block then fails.
"""

import json
import re
import threading
from base64 import b64decode, b64encode, urlsafe_b64decode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hmac import compare_digest
from hmac import new as new_hmac
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import time
from typing import Any, ClassVar, Self
from urllib.parse import parse_qs, unquote, urlsplit

from rekeyd.ports import Sink
from rekeyd.secret import AccessPair, Secret
from rekeyd.sinks import settings_class
from rekeyd.sinks.base import SinkContext

OLD = AccessPair("AKIAOLDOLDOLDOLDOLD1", Secret("old/sEcret+0000000000000000000000000000"))
NEW = AccessPair("AKIANEWNEWNEWNEWNEW2", Secret("new/sEcret+1111111111111111111111111111"))


def opened(kind: str, **settings: Any) -> Sink:
    """Open a sink as the daemon does, from settings as the configuration gives them."""

    def no_aws(service: str, region: str | None) -> None:
        raise AssertionError(f"an HTTP sink asked for {service} in {region}")

    validated = settings_class(kind).model_validate({"type": kind, **settings})
    return validated.open(SinkContext("backup_user", no_aws))


def same(found: AccessPair | None, wanted: AccessPair) -> bool:
    """Tell whether a sink gave back this pair. Pairs never compare equal by their secrets."""
    return found is not None and found.fingerprint() == wanted.fingerprint()


class UndocumentedError(Exception):
    """A request that the published description does not allow."""


@dataclass(frozen=True)
class Heard:
    """One request as it came over the wire. Header names are in lower case."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        content_type = self.headers.get("content-type", "")
        if not content_type.split(";")[0].endswith("json"):
            raise UndocumentedError(f"a JSON body under Content-Type {content_type!r}")
        try:
            return json.loads(self.body)
        except ValueError:
            raise UndocumentedError("the body is no JSON") from None

    @property
    def form(self) -> dict[str, str]:
        if self.headers.get("content-type") != "application/x-www-form-urlencoded":
            raise UndocumentedError("a form without its Content-Type")
        return {name: values[0] for name, values in parse_qs(self.body.decode()).items()}


@dataclass
class Said:
    """One answer."""

    status: int
    content: Any = None
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def body(self) -> bytes:
        if isinstance(self.content, bytes):
            return self.content
        return b"" if self.content is None else json.dumps(self.content).encode()


Handler = Callable[..., Said]


def route(method: str, path: str) -> Callable[[Handler], Handler]:
    """Mark what answers one documented operation; the groups of `path` are passed on."""

    def mark(handler: Handler) -> Handler:
        handler.route = (method, re.compile(path))  # type: ignore[attr-defined]
        return handler

    return mark


def only(mapping: Any, required: dict[str, type], optional: dict[str, type] | None = None) -> Any:
    """Check that an object has its documented fields, of their types, and no others."""
    if not isinstance(mapping, dict):
        raise UndocumentedError(f"an object was expected, not {type(mapping).__name__}")
    allowed = {**required, **(optional or {})}
    for name, value in mapping.items():
        if name not in allowed:
            raise UndocumentedError(f"unknown field {name}")
        if not isinstance(value, allowed[name]):
            raise UndocumentedError(f"{name} is no {allowed[name].__name__}")
    missing = required.keys() - mapping.keys()
    if missing:
        raise UndocumentedError(f"missing fields {sorted(missing)}")
    return mapping


class Described:
    """A server for the length of a `with` block.

    `writes` counts changes. `instead` replaces every answer; `hang` and `drop` break connections.
    """

    def __init__(self) -> None:
        self.heard: list[Heard] = []
        self.violations: list[str] = []
        self.writes = 0
        self.instead: Said | None = None
        self.may_read = True
        self.may_write = True
        self.token = "t0k3n-of-the-test"  # tokens are ASCII without blanks
        self.drop = False
        self.hang = False
        self._released = threading.Event()
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # clients break off on purpose
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        self.stop()
        if kind is None:
            assert self.violations == []

    def stop(self) -> None:
        """Stop listening, so that connections are refused from now on."""
        self._released.set()
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()

    def let_go(self) -> None:
        """Break the connections that hang, and answer again."""
        self.hang = False
        self._released.set()

    def answer(self, heard: Heard) -> Said:
        self.heard.append(heard)
        if self.instead:
            return self.instead
        for handler, matched in self._routes(heard):
            try:
                return handler(heard, **{k: unquote(v) for k, v in matched.groupdict().items()})
            except UndocumentedError as violation:
                self.violations.append(f"{heard.method} {heard.path}: {violation}")
                return Said(400)
        self.violations.append(f"{heard.method} {heard.path} is not documented")
        return Said(405)

    def _routes(self, heard: Heard) -> Iterator[tuple[Handler, re.Match[str]]]:
        for name in dir(type(self)):
            handler = getattr(self, name)
            method, pattern = getattr(handler, "route", ("", re.compile("$^")))
            matched = pattern.fullmatch(heard.path)
            if method == heard.method and matched:
                yield handler, matched

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        described = self

        class Speaker(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                """Stay silent."""

            def handle_any(self) -> None:
                if described.hang:
                    described._released.wait()
                    self.close_connection = True
                    return
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length)
                url = urlsplit(self.path)
                query = {k: v[0] for k, v in parse_qs(url.query, keep_blank_values=True).items()}
                headers = {name.lower(): value for name, value in self.headers.items()}
                with described._lock:
                    said = described.answer(Heard(self.command, url.path, query, headers, body))
                if described.drop:
                    self.close_connection = True
                    return
                self.send_response(said.status)
                for name, value in said.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(said.body)))
                self.end_headers()
                self.wfile.write(said.body)

            def __getattr__(self, name: str) -> Any:
                """Give every method of HTTP to `handle_any`."""
                if name.startswith("do_"):
                    return self.handle_any
                raise AttributeError(name)

        return Speaker


class Vault(Described):
    """HashiCorp Vault (developer.hashicorp.com/vault/api-docs: secret/kv/kv-v2, auth/approle,
    auth/kubernetes, system/capabilities-self, system/internal-ui-mounts, system/seal-status).
    """

    def __init__(self) -> None:
        super().__init__()
        self.versions: list[dict[str, Any] | None] = []
        self.engine = {"type": "kv", "options": {"version": "2"}}
        self.sealed = False
        self.namespace: str | None = None
        self.logins: list[dict[str, str]] = []
        self.before_write: Callable[[], None] = lambda: None

    @property
    def held(self) -> dict[str, Any]:
        return (self.versions and self.versions[-1]) or {}

    def _guard(self, heard: Heard, allowed: bool = True) -> Said | None:
        if self.sealed:
            return Said(503, {"errors": ["Vault is sealed"]})
        if heard.headers.get("x-vault-namespace") != self.namespace:
            return Said(404, {"errors": ["no handler for route"]})
        known = heard.headers.get("x-vault-token") == self.token
        return None if known and allowed else Said(403, {"errors": ["permission denied"]})

    @route("GET", "/v1/secret/data/backup/s3")
    def read_version(self, heard: Heard) -> Said:
        if refused := self._guard(heard, self.may_read):
            return refused
        if not self.versions:
            return Said(404, {"errors": []})
        metadata = {"version": len(self.versions), "deletion_time": "", "destroyed": False}
        status = 404 if self.versions[-1] is None else 200
        return Said(status, {"data": {"data": self.versions[-1], "metadata": metadata}})

    @route("POST", "/v1/secret/data/backup/s3")
    def write_version(self, heard: Heard) -> Said:
        if refused := self._guard(heard, self.may_write):
            return refused
        content = only(heard.json, {"data": dict}, {"options": dict})
        options = only(content.get("options", {}), {}, {"cas": int})
        self.before_write()
        if options.get("cas", len(self.versions)) != len(self.versions):
            return Said(400, {"errors": ["check-and-set parameter did not match"]})
        self.versions.append(content["data"])
        self.writes += 1
        return Said(200, {"data": {"version": len(self.versions)}})

    @route("POST", "/v1/sys/capabilities-self")
    def capabilities(self, heard: Heard) -> Said:
        if refused := self._guard(heard):
            return refused
        (path,) = only(heard.json, {"paths": list})["paths"]
        rights = ["read"] * self.may_read + ["create", "update"] * self.may_write or ["deny"]
        return Said(200, {"capabilities": rights, path: rights, "data": {path: rights}})

    @route("GET", "/v1/sys/internal/ui/mounts/secret")
    def mount(self, heard: Heard) -> Said:
        return self._guard(heard) or Said(200, {"data": self.engine})

    @route("GET", "/v1/sys/seal-status")
    def seal_status(self, heard: Heard) -> Said:
        return Said(200, {"type": "shamir", "initialized": True, "sealed": self.sealed})

    @route("POST", "/v1/auth/(?P<method>approle|kubernetes)/login")
    def login(self, heard: Heard, method: str) -> Said:
        fields = {"approle": ("role_id", "secret_id"), "kubernetes": ("role", "jwt")}[method]
        asked = only(heard.json, dict.fromkeys(fields, str))
        self.logins.append(asked)
        if asked[fields[1]] != "the-right-one":
            return Said(400, {"errors": ["invalid role or secret ID"]})
        return Said(200, {"auth": {"client_token": self.token, "lease_duration": 300}})


class Kubernetes(Described):
    """Kubernetes 1.29 (kubernetes.io/docs/reference: secret-v1, self-subject-access-review-v1)."""

    SECRETS: ClassVar[str] = "/api/v1/namespaces/backup/secrets"

    def __init__(self) -> None:
        super().__init__()
        self.verbs = {"get", "patch", "create"}
        self.secret: dict[str, Any] | None = None
        self.before_write: Callable[[], None] = lambda: None

    def hold(self, data: dict[str, str], **more: Any) -> None:
        """Make the Secret, with resourceVersion 7."""
        encoded = {name: b64encode(text.encode()).decode() for name, text in data.items()}
        metadata = {"name": "backup-s3", "labels": {"team": "storage"}, "resourceVersion": "7"}
        self.secret = {
            "apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": encoded, **more
        }  # fmt: skip

    @property
    def held(self) -> dict[str, str]:
        data = self.secret["data"] if self.secret else {}
        return {name: b64decode(text).decode() for name, text in data.items()}

    def _guard(self, heard: Heard, verb: str) -> Said | None:
        if heard.headers.get("authorization") != f"Bearer {self.token}":
            return Said(401, {"kind": "Status", "code": 401})
        if verb in self.verbs:
            return None
        return Said(403, {"kind": "Status", "reason": "Forbidden", "code": 403})

    @route("GET", f"{SECRETS}/backup-s3")
    def get(self, heard: Heard) -> Said:
        missing = Said(404, {"kind": "Status", "reason": "NotFound"})
        found = Said(200, self.secret) if self.secret else missing
        return self._guard(heard, "get") or found

    @route("PATCH", f"{SECRETS}/backup-s3")
    def patch(self, heard: Heard) -> Said:
        if refused := self._guard(heard, "patch"):
            return refused
        if heard.headers["content-type"] != "application/merge-patch+json":
            raise UndocumentedError("this patch is a merge patch")
        change = only(heard.json, {"metadata": dict, "data": dict})
        self._check_data(change["data"])
        self.before_write()
        assert self.secret
        asked = only(change["metadata"], {}, {"resourceVersion": str}).get("resourceVersion")
        if asked not in {None, self.secret["metadata"]["resourceVersion"]}:
            return Said(409, {"kind": "Status", "reason": "Conflict"})
        self.secret["data"].update(change["data"])
        self.touch()
        return Said(200, self.secret)

    @route("POST", SECRETS)
    def create(self, heard: Heard) -> Said:
        if refused := self._guard(heard, "create"):
            return refused
        kinds = {"apiVersion": str, "kind": str, "metadata": dict, "data": dict}
        secret = only(heard.json, kinds, {"type": str})
        self._check_data(secret["data"])
        if (secret["apiVersion"], secret["kind"]) != ("v1", "Secret"):
            raise UndocumentedError("not a v1 Secret")
        secret["metadata"]["resourceVersion"] = "1"
        self.secret = secret
        self.writes += 1
        return Said(201, secret)

    @route("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews")
    def review(self, heard: Heard) -> Said:
        review = only(heard.json, {"apiVersion": str, "kind": str, "spec": dict})
        if review["apiVersion"] != "authorization.k8s.io/v1":
            raise UndocumentedError("wrong apiVersion")
        attributes = only(review["spec"], {"resourceAttributes": dict})["resourceAttributes"]
        fields = {"namespace": str, "verb": str, "group": str, "resource": str}
        only(attributes, fields, {"name": str})
        allowed = attributes["verb"] in self.verbs and attributes["resource"] == "secrets"
        return Said(201, {**review, "status": {"allowed": allowed}})

    def touch(self) -> None:
        """Count a write, as the API server does in resourceVersion."""
        assert self.secret
        metadata = self.secret["metadata"]
        metadata["resourceVersion"] = str(int(metadata["resourceVersion"]) + 1)
        self.writes += 1

    @staticmethod
    def _check_data(data: dict[str, str]) -> None:
        for name, text in data.items():
            if not re.fullmatch(r"[-._a-zA-Z0-9]+", name):
                raise UndocumentedError(f"{name} cannot be a key of a Secret")
            b64decode(text, validate=True)


class GitHub(Described):
    """GitHub REST API 2022-11-28 (docs.github.com/en/rest/actions/secrets, and "Encrypting secrets
    for the REST API"). The secret is opened with the private key, as GitHub does.
    """

    OWNERS: ClassVar[str] = (
        r"/(?P<owner>repos/example/backups/actions|orgs/example/actions"
        r"|repos/example/backups/environments/live site)/secrets"
    ).replace(" ", "%20")

    def __init__(self) -> None:
        super().__init__()
        from nacl.public import PrivateKey

        self._key = PrivateKey.generate()
        self.secrets: dict[str, dict[str, Any]] = {}
        self.scopes: str | None = None
        self.selected = list(range(1000, 1130))

    def _guard(self, heard: Heard, allowed: bool = True) -> Said | None:
        if heard.headers.get("accept") != "application/vnd.github+json":
            raise UndocumentedError("Accept is not the recommended one")
        if heard.headers.get("x-github-api-version") != "2022-11-28":
            raise UndocumentedError("no API version")
        if not heard.headers.get("user-agent"):
            return Said(403, {"message": "Request forbidden by administrative rules"})
        if heard.headers.get("authorization") != f"Bearer {self.token}":
            return Said(401, {"message": "Bad credentials"})
        return None if allowed else Said(403, {"message": "Resource not accessible"})

    @route("GET", OWNERS + "/public-key")
    def public_key(self, heard: Heard, owner: str) -> Said:
        key = b64encode(bytes(self._key.public_key)).decode()
        headers = {} if self.scopes is None else {"X-OAuth-Scopes": self.scopes}
        return self._guard(heard, self.may_read) or Said(
            200, {"key_id": "568250167242549743", "key": key}, headers
        )

    @route("GET", OWNERS + r"/(?P<name>(?!public-key)\w+)")
    def get(self, heard: Heard, owner: str, name: str) -> Said:
        if refused := self._guard(heard, self.may_read):
            return refused
        found = self.secrets.get(f"{owner}/{name}")
        return Said(200, {**found, "value": None}) if found else Said(404, {"message": "Not Found"})

    @route("GET", r"/orgs/example/actions/secrets/(?P<name>\w+)/repositories")
    def selected_repositories(self, heard: Heard, name: str) -> Said:
        if refused := self._guard(heard, self.may_read):
            return refused
        size, page = int(heard.query.get("per_page", 30)), int(heard.query.get("page", 1))
        if size > 100:
            raise UndocumentedError("per_page is at most 100")
        ids = self.selected[size * (page - 1) : size * page]
        listed = [{"id": number, "name": f"r{number}"} for number in ids]
        return Said(200, {"total_count": len(self.selected), "repositories": listed})

    @route("PUT", OWNERS + r"/(?P<name>\w+)")
    def put(self, heard: Heard, owner: str, name: str) -> Said:
        if refused := self._guard(heard, self.may_write):
            return refused
        required: dict[str, type] = {"encrypted_value": str, "key_id": str}
        optional: dict[str, type] = {}
        if owner.startswith("orgs/"):
            required["visibility"] = str
            optional["selected_repository_ids"] = list
        content = only(heard.json, required, optional)
        if content["key_id"] != "568250167242549743":
            return Said(422, {"message": "Bad request - key_id is not the one"})
        known = f"{owner}/{name}" in self.secrets
        kept = {key: content[key] for key in ("visibility", *optional) if key in content}
        self.secrets[f"{owner}/{name}"] = {"name": name, "value": self._open(content), **kept}
        self.writes += 1
        return Said(204 if known else 201)

    def _open(self, content: dict[str, str]) -> str:
        from nacl.exceptions import CryptoError
        from nacl.public import SealedBox

        try:
            return SealedBox(self._key).decrypt(b64decode(content["encrypted_value"])).decode()
        except CryptoError:
            raise UndocumentedError("encrypted_value is not sealed to the public key") from None


class GitLab(Described):
    """GitLab REST API v4 (docs.gitlab.com/api: project_level_variables, group_level_variables,
    personal_access_tokens).
    """

    OWNER: ClassVar[str] = "/api/v4/(?P<owner>projects/example%2Fbackups|groups/17)"

    def __init__(self) -> None:
        super().__init__()
        self.variables: dict[tuple[str, str], dict[str, Any]] = {}
        self.scopes: list[str] | None = ["api"]

    def hold(self, value: str | None, scope: str = "*", **flags: Any) -> None:
        """Make the variable BACKUP_S3, protected and raw unless told otherwise."""
        usual = {"variable_type": "env_var", "protected": True, "masked": False, "raw": True}
        self.variables["BACKUP_S3", scope] = {
            "key": "BACKUP_S3", "value": value, "environment_scope": scope, "hidden": False,
            "description": "read by the nightly job", **usual, **flags,
        }  # fmt: skip

    def _guard(self, heard: Heard, allowed: bool = True) -> Said | None:
        if heard.headers.get("private-token") != self.token:
            return Said(401, {"message": "401 Unauthorized"})
        return None if allowed else Said(403, {"message": "403 Forbidden"})

    @route("GET", "/api/v4/personal_access_tokens/self")
    def own_token(self, heard: Heard) -> Said:
        if self.scopes is None:
            return Said(404, {"message": "404 Not Found"})
        return self._guard(heard) or Said(200, {"id": 4, "active": True, "scopes": self.scopes})

    @route("GET", OWNER + "/variables")
    def list_variables(self, heard: Heard, owner: str) -> Said:
        listed = list(self.variables.values())[: int(heard.query["per_page"])]
        return self._guard(heard, self.may_read) or Said(200, listed)

    @route("GET", OWNER + r"/variables/(?P<key>\w+)")
    def get(self, heard: Heard, owner: str, key: str) -> Said:
        if heard.query.keys() - {"filter[environment_scope]"}:
            raise UndocumentedError("unknown query")
        found = self.variables.get((key, heard.query.get("filter[environment_scope]", "*")))
        missing = Said(404, {"message": "404 Variable Not Found"})
        return self._guard(heard, self.may_read) or (Said(200, found) if found else missing)

    @route("PUT", OWNER + r"/variables/(?P<key>\w+)")
    def update(self, heard: Heard, owner: str, key: str) -> Said:
        if refused := self._guard(heard, self.may_write):
            return refused
        flags = {"masked": bool, "protected": bool, "raw": bool, "variable_type": str}
        more = {"description": str, "environment_scope": str, "filter": dict}
        content = only(heard.json, {"value": str}, {**flags, **more})
        scope = only(content.pop("filter", {}), {}, {"environment_scope": str})
        found = self.variables.get((key, scope.get("environment_scope", "*")))
        if not found:
            return Said(404, {"message": "404 Variable Not Found"})
        return self._store({**found, **content}, 200)

    @route("POST", OWNER + "/variables")
    def create(self, heard: Heard, owner: str) -> Said:
        if refused := self._guard(heard, self.may_write):
            return refused
        flags = {"masked": bool, "protected": bool, "raw": bool, "variable_type": str}
        more = {"description": str, "environment_scope": str, "masked_and_hidden": bool}
        content = only(heard.json, {"key": str, "value": str}, {**flags, **more})
        return self._store({"hidden": False, "environment_scope": "*", **content}, 201)

    def _store(self, variable: dict[str, Any], status: int) -> Said:
        value = variable["value"]
        if variable.get("masked") and (len(value) < 8 or re.search(r"\s", value)):
            return Said(400, {"message": {"value": ["is invalid"]}})
        self.variables[variable["key"], variable["environment_scope"]] = variable
        self.writes += 1
        return Said(status, variable)


class CircleCI(Described):
    """CircleCI API v2 (circleci.com/docs/api/v2: Project "envvar", Context "environment-variable").
    Values come back masked, with their last four characters.
    """

    PROJECT: ClassVar[str] = "/api/v2/project/gh/example/backups"
    CONTEXT: ClassVar[str] = "/api/v2/context/6f2e2f0c-0000-4000-8000-000000000001"

    def __init__(self) -> None:
        super().__init__()
        self.variables: dict[str, str] = {}

    def _guard(self, heard: Heard, allowed: bool = True) -> Said | None:
        if heard.headers.get("circle-token") != self.token:
            return Said(401, {"message": "Invalid token provided."})
        return None if allowed else Said(403, {"message": "Permission denied"})

    @route("GET", f"{PROJECT}|{CONTEXT}")
    def get_owner(self, heard: Heard) -> Said:
        return self._guard(heard, self.may_read) or Said(200, {"name": "backups"})

    @route("POST", f"{PROJECT}/envvar")
    def create(self, heard: Heard) -> Said:
        if refused := self._guard(heard, self.may_write):
            return refused
        content = only(heard.json, {"name": str, "value": str})
        self.variables[content["name"]] = content["value"]
        self.writes += 1
        return Said(201, {"name": content["name"], "value": f"xxxx{content['value'][-4:]}"})

    @route("PUT", CONTEXT + r"/environment-variable/(?P<name>\w+)")
    def upsert(self, heard: Heard, name: str) -> Said:
        if refused := self._guard(heard, self.may_write):
            return refused
        self.variables[name] = only(heard.json, {"value": str})["value"]
        self.writes += 1
        return Said(200, {"variable": name, "context_id": "6f2e2f0c"})


class Google(Described):
    """Secret Manager v1 (cloud.google.com/secret-manager/docs/reference/rest), OAuth 2.0 for
    servers (developers.google.com/identity/protocols/oauth2/service-account), and the metadata
    server (cloud.google.com/compute/docs/metadata).
    """

    SECRET: ClassVar[str] = (
        "/v1/projects/example-backups(/locations/europe-west3)?/secrets/backup-s3"
    )

    def __init__(self) -> None:
        super().__init__()
        from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

        self._key = generate_private_key(public_exponent=65537, key_size=2048)
        self.exists = True
        self.versions: list[bytes | None] = []  # None: disabled
        self.accepts_key = True

    @property
    def key_file(self) -> str:
        """The service account's key as the console hands it out."""
        from cryptography.hazmat.primitives.serialization import (
            Encoding,
            NoEncryption,
            PrivateFormat,
        )

        pem = self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return json.dumps(
            {
                "type": "service_account",
                "client_email": "rekeyd@example-backups.iam.gserviceaccount.com",
                "private_key_id": "0a1b2c",
                "private_key": pem.decode(),
                "token_uri": f"{self.address}/token",
            }
        )

    @route("POST", "/token")
    def exchange(self, heard: Heard) -> Said:
        form = only(heard.form, {"grant_type": str, "assertion": str})
        if form["grant_type"] != "urn:ietf:params:oauth:grant-type:jwt-bearer":
            return Said(400, {"error": "unsupported_grant_type"})
        if not (self._signed(form["assertion"]) and self.accepts_key):
            return Said(400, {"error": "invalid_grant"})
        return Said(200, {"access_token": self.token, "expires_in": 3599, "token_type": "Bearer"})

    @route("GET", "/computeMetadata/v1/instance/service-accounts/default/token")
    def metadata(self, heard: Heard) -> Said:
        if heard.headers.get("metadata-flavor") != "Google":
            return Said(403)
        content = {"access_token": self.token, "expires_in": 3599, "token_type": "Bearer"}
        return Said(200, content, {"Metadata-Flavor": "Google"})

    @route("POST", f"{SECRET}:testIamPermissions")
    def test_permissions(self, heard: Heard) -> Said:
        asked = only(heard.json, {"permissions": list})["permissions"]
        granted = {"secretmanager.versions.access"} if self.may_read else set()
        granted |= {"secretmanager.versions.add"} if self.may_write else set()
        listed = [permission for permission in asked if permission in granted and self.exists]
        return self._guard(heard) or Said(200, {"permissions": listed} if listed else {})

    @route("GET", f"{SECRET}/versions/latest:access")
    def access(self, heard: Heard) -> Said:
        if refused := self._guard(heard, self.may_read):
            return refused
        if not self.versions:
            return Said(404, {"error": {"code": 404, "status": "NOT_FOUND"}})
        newest = self.versions[-1]
        if newest is None:
            return Said(400, {"error": {"code": 400, "status": "FAILED_PRECONDITION"}})
        return Said(200, {"name": "…/versions/3", "payload": {"data": b64encode(newest).decode()}})

    @route("POST", f"{SECRET}:addVersion")
    def add(self, heard: Heard) -> Said:
        if refused := self._guard(heard, self.may_write):
            return refused
        if not self.exists:
            return Said(404, {"error": {"code": 404, "status": "NOT_FOUND"}})
        payload = only(heard.json, {"payload": dict})["payload"]
        data = only(payload, {"data": str}, {"dataCrc32c": str})["data"]
        self.versions.append(b64decode(data, validate=True))
        self.writes += 1
        return Said(200, {"name": f"…/versions/{len(self.versions)}", "state": "ENABLED"})

    def _guard(self, heard: Heard, allowed: bool = True) -> Said | None:
        if heard.headers.get("authorization") != f"Bearer {self.token}":
            return Said(401, {"error": {"code": 401, "status": "UNAUTHENTICATED"}})
        denied = Said(403, {"error": {"code": 403, "status": "PERMISSION_DENIED"}})
        return None if allowed else denied

    def _signed(self, assertion: str) -> bool:
        """Check the assertion's signature, and that it says what the documentation asks for."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
        from cryptography.hazmat.primitives.hashes import SHA256

        header, claims, signature = assertion.split(".")
        try:
            self._key.public_key().verify(
                _padded(signature), f"{header}.{claims}".encode(), PKCS1v15(), SHA256()
            )
        except InvalidSignature:
            return False
        if json.loads(_padded(header)) != {"alg": "RS256", "typ": "JWT", "kid": "0a1b2c"}:
            raise UndocumentedError("the assertion's header is not the documented one")
        fields = {"iss": str, "scope": str, "aud": str, "iat": int, "exp": int}
        said = only(json.loads(_padded(claims)), fields, {"sub": str})
        if said["aud"] != f"{self.address}/token" or not said["iss"].startswith("rekeyd@"):
            raise UndocumentedError("the assertion is for somebody else")
        if not (0 < said["exp"] - said["iat"] <= 3600 and abs(said["iat"] - time()) < 60):
            raise UndocumentedError("the assertion's times are out of range")
        return True


class Azure(Described):
    """Key Vault 7.4 (learn.microsoft.com/rest/api/keyvault/secrets), the client credentials flow
    (…/entra/identity-platform/v2-oauth2-client-creds-grant-flow), and managed identities
    (…/managed-identities-azure-resources/how-to-use-vm-token).
    """

    def __init__(self) -> None:
        super().__init__()
        self.versions: list[dict[str, Any]] = []
        self.deleted = False
        self.client_secret = "the-right-one"

    def _guard(self, heard: Heard, allowed: bool = True) -> Said | None:
        if heard.query != {"api-version": "7.4"}:
            raise UndocumentedError(f"query {heard.query}")
        if heard.headers.get("authorization") != f"Bearer {self.token}":
            return Said(401, {"error": {"code": "Unauthorized"}})
        return None if allowed else Said(403, {"error": {"code": "Forbidden"}})

    @route("GET", "/secrets/backup-s3")
    def get(self, heard: Heard) -> Said:
        missing = Said(404, {"error": {"code": "SecretNotFound"}})
        found = Said(200, self.versions[-1]) if self.versions and not self.deleted else missing
        return self._guard(heard, self.may_read) or found

    @route("PUT", "/secrets/backup-s3")
    def set(self, heard: Heard) -> Said:
        if refused := self._guard(heard, self.may_write):
            return refused
        if self.deleted:
            return Said(409, {"error": {"code": "Conflict"}})
        optional = {"contentType": str, "tags": dict, "attributes": dict}
        content = only(heard.json, {"value": str}, optional)
        self.versions.append({**content, "id": f"{self.address}/secrets/backup-s3/03bc"})
        self.writes += 1
        return Said(200, self.versions[-1])

    @route("POST", "/contoso.example/oauth2/v2.0/token")
    def sign_in(self, heard: Heard) -> Said:
        fields = dict.fromkeys(("client_id", "scope", "client_secret", "grant_type"), str)
        form = only(heard.form, fields)
        if (form["grant_type"], form["scope"]) != (
            "client_credentials", "https://vault.azure.net/.default"
        ):  # fmt: skip
            raise UndocumentedError("not the client credentials flow")
        if form["client_secret"] != self.client_secret:
            return Said(401, {"error": "invalid_client"})
        return Said(200, {"token_type": "Bearer", "expires_in": 3599, "access_token": self.token})

    @route("GET", "/metadata/identity/oauth2/token")
    def metadata(self, heard: Heard) -> Said:
        if heard.headers.get("metadata") != "true":
            return Said(400, {"error": "invalid_request"})
        asked = {"api-version": "2018-02-01", "resource": "https://vault.azure.net"}
        if heard.query != {**asked, **{k: v for k, v in heard.query.items() if k == "client_id"}}:
            raise UndocumentedError(f"query {heard.query}")
        return Said(200, {"access_token": self.token, "expires_in": "3599"})


class Receiver(Described):
    """A receiver of Standard Webhooks (github.com/standard-webhooks, spec/standard-webhooks.md)
    that checks signature and age as the specification asks, and remembers what it accepted.
    """

    TOLERANCE: ClassVar[int] = 300

    def __init__(self) -> None:
        super().__init__()
        self.secret = f"whsec_{b64encode(bytes(range(32))).decode()}"
        self.accepted: list[dict[str, Any]] = []
        self._news = threading.Condition()

    def receives(self, count: int, within: float = 20.0) -> None:
        """Wait until so many events were accepted."""
        with self._news:
            assert self._news.wait_for(lambda: len(self.accepted) >= count, within)

    @route("POST", "/hooks/backup/")
    def receive(self, heard: Heard) -> Said:
        names = ("webhook-id", "webhook-timestamp", "webhook-signature")
        if not all(heard.headers.get(name) for name in names):
            raise UndocumentedError("one of the three headers is missing")
        number, stamp, signatures = (heard.headers[name] for name in names)
        key = b64decode(self.secret.removeprefix("whsec_"))
        signed = f"{number}.{stamp}.".encode() + heard.body
        right = b64encode(new_hmac(key, signed, "sha256").digest()).decode()
        if not any(compare_digest(f"v1,{right}", one) for one in signatures.split(" ")):
            return Said(401)
        if abs(int(stamp) - time()) > self.TOLERANCE or not self.may_write:
            return Said(403)
        only(heard.json, {"type": str, "timestamp": str, "data": dict})
        with self._news:
            self.accepted.append(heard.json["data"])
            self._news.notify_all()
        self.writes += 1
        return Said(204)


def _padded(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))
