"""The ports of the program, in memory, on one `World`. Each keeps the contract in rekeyd.ports."""

import base64
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from rekeyd.errors import Gone, Misconfigured, Propagating, Refused, Transient
from rekeyd.model import Custody, Key
from rekeyd.ports import Event, Listing, NewKey, Request
from rekeyd.secret import AccessPair, Secret, short
from world.truth import ABSENT, ACTIVE, INACTIVE, US, TrueSink

if TYPE_CHECKING:
    from world.world import World


class WorldIam:
    """IAM's control plane of the one user. A listing may show old truths, key by key."""

    def __init__(self, world: "World") -> None:
        self._world = world

    def caller_is_root(self) -> bool:
        return self._world.call("iam.caller_is_root", lambda: self._world.signs_as_root)

    def user_id(self) -> str | None:
        return self._world.call("iam.user_id", self._user_shown)

    def list_keys(self) -> Listing:
        return self._world.call("iam.list_keys", self._list)

    def last_used(self, key_id: str) -> datetime | None:
        return self._world.call("iam.last_used", lambda: self._last_used(key_id), key_id)

    def create_key(self) -> NewKey:
        return self._world.call("iam.create_key", self._create)

    def set_active(self, key_id: str, active: bool) -> datetime:
        what = f"{key_id} {'Active' if active else 'Inactive'}"
        return self._world.call("iam.set_active", lambda: self._set(key_id, active), what)

    def delete_key(self, key_id: str) -> datetime:
        return self._world.call("iam.delete_key", lambda: self._delete(key_id), key_id)

    def _user_shown(self) -> str | None:
        truth = self._world.truth
        shown: list[str | None] = []
        for at, user_id in reversed(truth.users):
            shown.append(user_id)
            if at <= truth.now - self._world.delays.list:
                break
        return self._world.choose(shown)

    def _list(self) -> Listing:
        world, truth = self._world, self._world.truth
        if truth.user_id is None:
            raise Gone("no such user")
        keys = []
        for key in truth.keys.values():
            if key.user_id != truth.user_id:
                continue
            options = key.shown(truth.now, world.delays.list)
            status = options[0] if len(options) == 1 else world.choose(options)
            if status != ABSENT:
                created = key.created if world.dated else None
                keys.append(Key(key.id, status == ACTIVE, created))
        world.listed, world.looked = frozenset(key.id for key in keys), truth.now
        return Listing(truth.now, tuple(keys))

    def _last_used(self, key_id: str) -> datetime | None:
        world, truth = self._world, self._world.truth
        key = truth.keys[key_id]
        if not key.exists:
            raise Gone("no such key")
        options = key.uses_shown(truth.now, world.lag)
        use = options[0] if len(options) == 1 else world.choose(options)
        known = truth.seen_used.get(key_id)
        if use and (known is None or use > known):
            world.truth = truth._replace(seen_used={**truth.seen_used, key_id: use})
        return use

    def _create(self) -> NewKey:
        world = self._world
        if world.truth.user_id is None:
            raise Gone("no such user")
        world.checker.creating()
        if len(world.truth.living) >= world.key_limit:
            raise Refused("LimitExceeded: two keys per user", reason="limit")
        key = world.make_key(US)
        world.truth = world.truth._replace(minted=key.id)
        return NewKey(AccessPair(key.id, Secret(key.secret)), key.created)

    def _set(self, key_id: str, active: bool) -> datetime:
        world = self._world
        key = world.truth.keys.get(key_id)
        if key is None or key not in world.truth.living:
            raise Gone("no such key")
        wanted = ACTIVE if active else INACTIVE
        if not active:
            world.checker.deactivating(key)
        if key.status != wanted:
            world.change_key(key_id, wanted, US)
        return world.truth.now

    def _delete(self, key_id: str) -> datetime:
        world = self._world
        key = world.truth.keys.get(key_id)
        if key is not None and key in world.truth.living:
            world.checker.deleting(key)
            world.change_key(key_id, ABSENT, US)
        return world.truth.now


class WorldConsumer:
    """The data plane: STS and S3, each with a front that learns of a key's life later."""

    def __init__(self, world: "World") -> None:
        self._world = world

    def probe(self, pair: AccessPair) -> None:
        delays = self._world.delays
        self._world.call(
            "consumer.probe", lambda: self.sign(pair, delays.sts, delays.s3), pair.key_id
        )

    def sign(self, pair: AccessPair, *fronts: timedelta) -> None:
        """Let fronts of these delays judge a signature, one after the other."""
        world, truth = self._world, self._world.truth
        key = truth.keys.get(pair.key_id)
        if key is None:
            raise Propagating("InvalidClientTokenId")
        for delay in fronts:
            options = key.shown(truth.now, delay)
            if key.user_id != truth.user_id and ABSENT not in options:
                options = (ABSENT, *options)
            shown = options[0] if len(options) == 1 else world.choose(options)
            if shown != ACTIVE:
                raise Propagating(f"{short(key.id)} is {shown} here")
        if pair.secret.reveal() != key.secret:
            raise Refused("SignatureDoesNotMatch")
        if world.denied:
            raise Refused("AccessDenied: s3:PutObject")
        world.use_key(key.id)


class WorldSink:
    """A sink in memory. `read` is never called on a write-only one: that is its contract."""

    def __init__(self, world: "World", name: str) -> None:
        self._world = world
        self.name = self.mark = name
        self.readable = world.truth.sinks[name].readable

    @property
    def _now(self) -> TrueSink:
        return self._world.truth.sinks[self.name]

    def check(self) -> None:
        self._world.call("sink.check", lambda: self._fail("read_only"), self.name)

    def read(self) -> AccessPair | None:
        assert self.readable, "a write-only sink was read"
        if not self._now.noticed:
            self._world.change_sink(self.name, noticed=True)
        return self._world.call("sink.read", self._read, self.name)

    def put(self, pair: AccessPair) -> None:
        what = f"{self.name} gets {pair.key_id}"
        self._world.call("sink.put", lambda: self._put(pair), what)

    def _read(self) -> AccessPair | None:
        self._fail()
        return self._now.pair

    def _put(self, pair: AccessPair) -> None:
        self._fail("read_only", "full")
        if self._now.trouble == "forgetful":
            return
        self._world.checker.putting(self.name, pair)
        held = self._now.held
        old = self._now.pair
        if old and old.key_id != pair.key_id and self._now.noticed:
            held = {**held, old.key_id: self._world.truth.now}
        self._world.change_sink(self.name, pair=pair, by=US, noticed=True, held=held)

    def _fail(self, *also: str) -> None:
        trouble = self._now.trouble
        if trouble == "denied" or (trouble in also and trouble == "read_only"):
            raise Refused(f"{self.name} is {trouble}")
        if trouble == "down" or trouble in also:
            raise Transient(f"{self.name} is {trouble}")


class WorldStore:
    """Custody on a disk that can be full, or answer wrongly; what is on it outlives a crash.

    Its one daemon is alone, so it always has the right to act: no call and nothing to go wrong.
    """

    def __init__(self, world: "World") -> None:
        self._world = world

    def claim(self, identity: str) -> None:
        pass

    def renew(self, identity: str) -> None:
        pass

    def release(self, identity: str) -> None:
        pass

    def ask(self, identity: str, request: Request) -> int:
        return self._world.call("store.ask", lambda: self._world.request(request))

    def load(self, identity: str) -> Custody:
        return self._world.call("store.load", lambda: self._world.truth.custody)

    def save(self, identity: str, custody: Custody) -> None:
        self._world.call("store.save", lambda: self._save(custody))

    def log(self, event: Event) -> None:
        self._world.call("store.log", lambda: self._world.checker.writing(repr(event)))

    def requests(self, identity: str) -> Sequence[tuple[int, Request]]:
        return self._world.call("store.requests", lambda: self._world.truth.requests)

    def settle(self, identity: str, numbers: Sequence[int], custody: Custody | None) -> None:
        self._world.call("store.settle", lambda: self._settle(numbers, custody))

    def _save(self, custody: Custody) -> None:
        world = self._world
        world.checker.saving(custody)
        world.truth = world.truth._replace(custody=custody)

    def _settle(self, numbers: Sequence[int], custody: Custody | None) -> None:
        world = self._world
        left = tuple(entry for entry in world.truth.requests if entry[0] not in numbers)
        settled = next(request for n, request in world.truth.requests if n in numbers)
        if settled.kind == "revoke":
            leaked = {key.id for key in world.truth.living} | world.truth.revoked
            world.truth = world.truth._replace(revoked=frozenset(leaked))
        world.truth = world.truth._replace(requests=left)
        if custody is not None:
            self._save(custody)


class WorldSealer:
    """Hides a secret well enough for a test, bound to identity and key id like the real one."""

    def __init__(self, world: "World") -> None:
        self._world = world

    def seal(self, identity: str, pair: AccessPair) -> str:
        return self._world.call("sealer.seal", lambda: self._seal(identity, pair))

    def unseal(self, identity: str, key_id: str, sealed: str) -> Secret:
        return self._world.call("sealer.unseal", lambda: self._unseal(identity, key_id, sealed))

    def _seal(self, identity: str, pair: AccessPair) -> str:
        bound = f"{identity}|{pair.key_id}|{pair.secret.reveal()}"
        return base64.b64encode(bound.encode()).decode()

    def _unseal(self, identity: str, key_id: str, sealed: str) -> Secret:
        bound_identity, bound_key, secret = base64.b64decode(sealed).decode().split("|")
        if (bound_identity, bound_key) != (identity, key_id):
            raise Misconfigured("the seal is bound to another identity or key")
        return Secret(secret)
