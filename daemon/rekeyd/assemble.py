"""From settings to the objects that work: the one place that knows every adapter."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from rekeyd.config import IdentitySettings, Settings
from rekeyd.errors import Misconfigured
from rekeyd.ports import Identity, R, Sealer, T
from rekeyd.seal import CHECK, make_key, open_sealer
from rekeyd.sinks import opened
from rekeyd.sinks.base import SinkContext
from rekeyd.state import State
from rekeyd.store import Store

if TYPE_CHECKING:
    from rekeyd.aws import Account, RequestWatcher
    from rekeyd.notify.notifier import Notifier
    from rekeyd.postgres import PostgresStore

SEALED_CHECK = "seal check"

AT_ONCE = 32
"""Most sinks, or identities, that one process turns to at once."""


def side_by_side(function: Callable[[T], R], items: Iterable[T]) -> Iterable[R]:
    """Run for every item at once, so that one slow sink or account does not delay the others."""
    todo = list(items)
    if len(todo) < 2:
        return [function(item) for item in todo]
    with ThreadPoolExecutor(min(len(todo), AT_ONCE)) as pool:
        return list(pool.map(function, todo))


class Workshop:
    """Builds identities from one configuration. boto3 is imported when the first one is built."""

    def __init__(
        self,
        settings: Settings,
        store: State,
        sealer: Sealer,
        watch: "RequestWatcher",
    ) -> None:
        self.settings = settings
        self._store = store
        self._sealer = sealer
        self._watch = watch
        self._accounts: dict[str, Account] = {}

    def build(self, identity: IdentitySettings) -> Identity:
        from rekeyd.aws import AwsConsumer, AwsIam, probe_key  # noqa: PLC0415 (0.3 s and 26 MiB)

        account = self.account(identity)
        policy = identity.policy
        context = SinkContext(identity=identity.name, aws_client=account.client)
        return Identity(
            name=identity.name,
            timing=identity.timing,
            iam=AwsIam(account, identity.user, partial(self._store.renew, identity.name)),
            consumer=AwsConsumer(
                account,
                identity.user,
                policy.bucket if policy else None,
                probe_key(identity.name, policy.prefix if policy else None),
                list(identity.verify),
            ),
            sinks=tuple(opened(sink, context) for sink in identity.sinks),
            store=self._store,
            sealer=self._sealer,
            each=side_by_side,
        )

    def account(self, identity: IdentitySettings) -> "Account":
        """Return the account of an identity; identities with the same settings share one."""
        return shared_account(self._accounts, identity.aws, self._watch)


def shared_account(
    accounts: "dict[str, Account]", settings: Any, watch: "RequestWatcher"
) -> "Account":
    from rekeyd.aws import Account  # noqa: PLC0415

    key = repr(settings)
    if key not in accounts:
        accounts[key] = Account(settings, watch)
    return accounts[key]


def notifier(settings: Settings) -> "Notifier | None":
    """Make what tells people of trouble, or nothing when nobody wants to be told."""
    if not settings.notify:
        return None
    from rekeyd.notify.notifier import Notifier  # noqa: PLC0415 (for those who want to be told)

    return Notifier([channel.open() for channel in settings.notify])


def open_store(settings: Settings) -> State:
    """Open the state that the settings name, and make what is missing."""
    if not settings.state_is_shared:
        return Store(Path(settings.state))
    store = _shared_store(settings)
    store.make()
    return store


@contextmanager
def state_to_look_at(settings: Settings) -> Iterator[State]:
    """Open the state for those who look. Where none was made yet it is an empty one for a while.

    So root, who looks before the daemon's first start, leaves nothing that the daemon cannot use.
    """
    if settings.state_is_shared:
        with closing(_shared_store(settings)) as shared:
            made = shared.made
    else:
        made = not _could_be_made(Path(settings.state))
    if made:
        with closing(open_store(settings)) as store:
            yield store
    else:
        with TemporaryDirectory(prefix="rekeyd-") as folder, closing(Store(Path(folder))) as empty:
            yield empty


def _shared_store(settings: Settings) -> "PostgresStore":
    try:
        from rekeyd.postgres import PostgresStore  # noqa: PLC0415 (for those who have replicas)
    except ImportError:
        raise Misconfigured(
            "`state` names a database server, and what rekeyd needs to reach it is not installed",
            "pip install 'rekeyd[postgres]'",
        ) from None
    return PostgresStore(settings.state)


def _could_be_made(folder: Path) -> bool:
    try:
        (folder / "rekeyd.sqlite").stat()
    except FileNotFoundError:
        nearest = next(path for path in (folder, *folder.parents) if path.exists())
        return os.access(nearest, os.W_OK | os.X_OK)
    except OSError:
        return False
    return False


def fit_sealer(settings: Settings, store: State, kms: Callable[[], Any]) -> tuple[Sealer, bool]:
    """Open the seal key and make sure that it is the one this state was made with.

    Returns the sealer, and whether it is a key that rekeyd keeps beside what it seals.
    """
    beside = settings.seal is None
    seal = settings.seal or f"file:{store.place}/seal.key"
    known = store.meta(SEALED_CHECK)
    if beside and known is None:
        make_key(Path(store.place) / "seal.key")
    sealer = open_sealer(seal, kms, used=known is not None)
    if not seal.startswith("kms:"):
        if known is None:
            known = store.first_meta(SEALED_CHECK, sealer.seal("rekeyd", CHECK))
        sealer.unseal("rekeyd", CHECK.key_id, known)
    return sealer, beside
