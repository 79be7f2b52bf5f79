"""Worlds over HTTP, for the real process: each user of this AWS is a `World` of its own.

IAM, STS and S3 answer as their fronts show things, faults strike calls on the wire, and the checker
looks at every effect. The sinks are objects in S3. Time is real, in whole seconds as HTTP tells it.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from re import Match
from re import compile as pattern
from urllib.parse import parse_qs

from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from processes import Proxy
from rekeyd.errors import Gone, Propagating, Refused, RekeydError
from rekeyd.secret import AccessPair, Secret
from rekeyd.sinks._value import USUAL_NAMES as NAMES
from rekeyd.store import Store
from world.faults import Crash, Fault
from world.ports import WorldConsumer, WorldIam, WorldSink
from world.truth import START
from world.world import World

SINKS, PROBES = "sinks", "probes"
"""The buckets: what rekeyd delivers to, with an object a user, and what the users write to."""

HANG = 11.0
"""Seconds, longer than rekeyd waits for an answer."""

AUTHORIZATION = pattern(
    r"Credential=(?P<key>\w+)/\d+/(?P<region>[\w-]+)/(?P<service>\w+)/aws4_request, *"
    r"SignedHeaders=(?P<headers>[\w;-]+), *Signature=(?P<signature>\w+)"
)
UNKNOWN = {"sts": "InvalidClientTokenId", "s3": "InvalidAccessKeyId"}
SAID = {
    Fault.THROTTLED: (400, "Throttling"),
    Fault.SERVICE_FAILURE: (500, "ServiceFailure"),
    Fault.SERVICE_FAILURE_COMMITTED: (500, "ServiceFailure"),
    Fault.UNMODIFIABLE: (409, "EntityTemporarilyUnmodifiable"),
    Fault.CONCURRENT: (409, "ConcurrentModification"),
    Fault.DENIED: (403, "AccessDenied"),
}
"""How faults that have an answer are told (IAM, "Common errors")."""

Reply = tuple[int, str]


class Break(Exception):  # noqa: N818 (it is what happens to a connection)
    """The connection breaks instead of an answer: at once, later, or after half of one."""

    def __init__(self, after: float = 0.0, half_of: str = "") -> None:
        super().__init__()
        self.after = after
        self.half_of = half_of


class ServedWorld:
    """One user: its World, at the real pace, with the custody that the real process has."""

    def __init__(self, user: str, world: World, store: Store) -> None:
        self.world = world
        self.world.faults = self._fault
        self.world.salt = user
        self.iam = WorldIam(self.world)
        self.sink = WorldSink(self.world, user)
        self.probe = ""
        self._consumer = WorldConsumer(self.world)
        self.user, self._store = user, store
        self._began = time.monotonic()
        self._coming: tuple[str, Fault, int] | None = None
        self._struck: Fault | None = None
        self.met = 0

    def arm(self, call: str, fault: Fault, times: int) -> None:
        """Have the next calls of a kind go wrong."""
        self._coming = call, fault, times

    def _fault(self, _number: int, name: str) -> Fault | None:
        self._struck = None
        if self._coming and self._coming[0] == name:
            _, self._struck, times = self._coming
            self._coming = (name, self._struck, times - 1) if times > 1 else None
            self.met += 1
        return None if self._struck is Fault.SLOW else self._struck  # it hangs: see answer

    def catch_up(self) -> None:
        """Bring the World to the present: its clock, and what custody says by now."""
        world = self.world
        now = START + timedelta(seconds=int(time.monotonic() - self._began))
        custody = self._store.load(self.user)
        world.truth = world.truth._replace(now=now)
        if custody != world.truth.custody:
            world.checker.saving(custody)
            world.truth = world.truth._replace(custody=custody)

    @property
    def date(self) -> str:
        return format_datetime(self.world.truth.now, usegmt=True)

    def sign(self, pair: AccessPair, service: str) -> None:
        """Let the front of one service judge a signature."""
        delay = getattr(self.world.delays, service)
        act: Callable[[], None] = lambda: self._consumer.sign(pair, delay)  # noqa: E731
        self.world.call("consumer.probe", act, pair.key_id)

    def answer(self, service: str, act: Callable[[], str]) -> Reply:
        """Do what a call asks for, and say how it went, as the fault that struck it says."""
        self._struck = None
        try:
            content = act()
        except Crash:
            self.world.restart()
            raise
        except RekeydError as error:
            return self._wrong(service, error)
        if self._struck is Fault.SLOW:
            raise Break(after=HANG)
        return 200, content

    def _wrong(self, service: str, error: RekeydError) -> Reply:
        match self._struck:
            case Fault.LOST_BEFORE | Fault.LOST_COMMITTED:
                raise Break
            case Fault.TRUNCATED | Fault.UNREADABLE:
                raise Break(half_of="<CreateAccessKeyResponse><CreateAccessKeyResult>")
            case Fault.UNKNOWN_KEY:
                return 403, UNKNOWN[service]
            case None:
                return _truly(service, error)
            case Fault.CRASH_COMMITTED:
                raise Crash  # the call was refused, and its caller is killed all the same
            case fault:
                return SAID[fault]


def _truly(service: str, error: RekeydError) -> Reply:
    """Tell an error that is no fault: it is how the World is."""
    if isinstance(error, Propagating):
        return 403, UNKNOWN[service]
    if isinstance(error, Gone):
        return 404, "NoSuchEntity"
    if isinstance(error, Refused) and error.reason == "limit":
        return 409, "LimitExceeded"
    if isinstance(error, Refused) and error.reason == "condition":
        return 412, "PreconditionFailed"
    return 403, "SignatureDoesNotMatch"


class ServedWorlds(Proxy):
    """All of them behind one address. `killed` is called where a fault kills the process."""

    def __init__(self, worlds: Mapping[str, World], state: Path) -> None:
        """Serve them, each under the name of its user, which is also that of its one sink."""
        self._store = Store(state)
        self.worlds = {user: ServedWorld(user, one, self._store) for user, one in worlds.items()}
        self.killed: Callable[[], None] = lambda: None
        self._mutex = threading.Lock()
        super().__init__(port=0)

    def stop(self) -> None:
        super().stop()
        self._store.close()

    @contextmanager
    def still(self) -> Iterator[Mapping[str, ServedWorld]]:
        """Have all worlds in the present, and nothing happen in them meanwhile."""
        with self._mutex:
            for world in self.worlds.values():
                world.catch_up()
            yield self.worlds

    def answer(self, handler: BaseHTTPRequestHandler, body: bytes, port: int) -> None:
        if len(body) < int(handler.headers.get("Content-Length", 0)):
            return  # it was killed while it asked
        signed = AUTHORIZATION.search(handler.headers["Authorization"])
        assert signed
        try:
            with self._mutex:
                world = self._meant(handler.path, body, signed["key"])
                world.catch_up()
                reply = world.answer(signed["service"], lambda: _act(world, handler, body, signed))
                date = world.date
        except Crash:
            handler.close_connection = True
            if not world.world.checker.found:
                self.killed()
        except Break as broken:
            handler.close_connection = True
            time.sleep(broken.after)
            if broken.half_of:
                _say(handler, 200, broken.half_of, world.date, len(broken.half_of) * 2)
        else:
            status, content = reply
            if status != 200:
                content = _error(signed["service"], content)
            _say(handler, status, content, date, len(content))

    def _meant(self, path: str, body: bytes, signer: str) -> ServedWorld:
        """Find the user that a call is about: named, by its object, its key, or as who signs."""
        form = parse_qs(body.decode("latin-1"))
        named = form.get("UserName", [path.rpartition("/")[2]])[0]
        if named in self.worlds:
            return self.worlds[named]
        key = form.get("AccessKeyId", [signer])[0]
        for world in self.worlds.values():
            if key in world.world.truth.keys:
                return world
        return next(iter(self.worlds.values()))


def _act(
    served: ServedWorld, handler: BaseHTTPRequestHandler, body: bytes, signed: Match[str]
) -> str:
    if signed["service"] == "iam":
        form = parse_qs(body.decode("latin-1"))
        return _iam(served.iam, {name: values[0] for name, values in form.items()})
    if handler.path.startswith(f"/{SINKS}/"):
        return _sink(served.sink, handler, body)
    who = "rekeyd"
    if key := served.world.truth.keys.get(signed["key"]):
        who = served.user
        good = _signature(key.secret, handler, body, signed) == signed["signature"]
        secret = Secret(key.secret if good else "another")
        served.sign(AccessPair(key.id, secret), signed["service"])
    if signed["service"] == "sts":
        return _answer("GetCallerIdentity", f"<Arn>arn:aws:iam::123456789012:user/{who}</Arn>")
    if handler.command == "PUT":
        served.probe = body.decode()
    return served.probe if handler.command == "GET" else ""


def _signature(
    secret: str, handler: BaseHTTPRequestHandler, body: bytes, signed: Match[str]
) -> str:
    """Sign a request again, with the secret that its key really has."""
    kind = S3SigV4Auth if signed["service"] == "s3" else SigV4Auth
    signer = kind(Credentials(signed["key"], secret), signed["service"], signed["region"])
    names = signed["headers"].split(";")
    request = AWSRequest(
        method=handler.command,
        url=f"http://{handler.headers['Host']}{handler.path}",
        headers={name: handler.headers[name] for name in names},
        data=body,
    )
    request.context["timestamp"] = handler.headers["X-Amz-Date"]
    text = signer.string_to_sign(request, signer.canonical_request(request))
    return str(signer.signature(text, request))


def _sink(sink: WorldSink, handler: BaseHTTPRequestHandler, body: bytes) -> str:
    """Read or write the object that is a sink; a condition that never holds is a check."""
    if handler.command == "GET":
        pair = sink.read()
        return json.dumps(NAMES.fill(pair)) if pair else "{}"
    if handler.headers["If-Match"]:
        sink.check()
        raise Refused("the condition does not hold", reason="condition")
    pair = NAMES.pick(json.loads(body))
    assert pair
    sink.put(pair)
    return ""


def _iam(iam: WorldIam, form: Mapping[str, str]) -> str:
    user, key = form.get("UserName", ""), form.get("AccessKeyId", "")
    content = ""
    match form["Action"]:
        case "GetUser":
            content = _user(user, iam.user_id())
        case "ListAccessKeys":
            keys = "".join(
                f"<member>{_key(user, key.id, key.active, key.created)}</member>"
                for key in iam.list_keys().keys
            )
            content = f"<AccessKeyMetadata>{keys}</AccessKeyMetadata>"
        case "GetAccessKeyLastUsed":
            used = iam.last_used(key)
            date = f"<LastUsedDate>{_iso(used)}</LastUsedDate>" if used else ""
            content = f"<AccessKeyLastUsed>{date}</AccessKeyLastUsed>"
        case "CreateAccessKey":
            new = iam.create_key()
            secret = f"<SecretAccessKey>{new.pair.secret.reveal()}</SecretAccessKey>"
            made = _key(user, new.pair.key_id, True, new.created)
            content = f"<AccessKey>{made}{secret}</AccessKey>"
        case "UpdateAccessKey":
            iam.set_active(key, form["Status"] == "Active")
        case "DeleteAccessKey":
            iam.delete_key(key)
    return _answer(form["Action"], content)


def _user(name: str, user_id: str | None) -> str:
    if user_id is None:
        raise Gone("no such user")
    return f"<User><UserName>{name}</UserName><UserId>{user_id}</UserId></User>"


def _key(user: str, key_id: str, active: bool, created: datetime | None) -> str:
    assert created
    return (
        f"<UserName>{user}</UserName><AccessKeyId>{key_id}</AccessKeyId>"
        f"<Status>{'Active' if active else 'Inactive'}</Status>"
        f"<CreateDate>{_iso(created)}</CreateDate>"
    )


def _iso(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"


def _answer(action: str, result: str) -> str:
    return f"<{action}Response><{action}Result>{result}</{action}Result></{action}Response>"


def _error(service: str, code: str) -> str:
    error = f"<Error><Code>{code}</Code><Message>as the World has it</Message></Error>"
    return error if service == "s3" else f"<ErrorResponse>{error}</ErrorResponse>"


def _say(
    handler: BaseHTTPRequestHandler, status: int, content: str, date: str, length: int
) -> None:
    """Send an answer that says to be so long."""
    handler.send_response_only(status)
    handler.send_header("Date", date)
    handler.send_header("Content-Length", str(length))
    handler.end_headers()
    handler.wfile.write(content.encode())
