"""AWS as the core needs it: IAM for one user, the pair as its consumer uses it, and clients.

One session serves every identity of one account setting: with its first client a session costs
0.2 s and 10 MiB, a client made, used and closed 3 ms. Sessions are botocore's, the engine of boto3:
the daemon needs nothing of what boto3 puts on top, which costs 60 ms and 3 MiB.
"""

import time
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property, partial
from secrets import token_hex
from typing import Any, Protocol

from botocore.config import Config
from botocore.credentials import (
    Credentials,
    DeferredRefreshableCredentials,
    ReadOnlyCredentials,
)
from botocore.exceptions import ClientError, NoCredentialsError

from rekeyd.botoerrors import CREDENTIALS, MISSING, body, setting_up, signing_in, translated
from rekeyd.botomodels import new_session
from rekeyd.errors import (
    Gone,
    Misconfigured,
    Propagating,
    Refused,
    RekeydError,
    Transient,
    Unanswered,
)
from rekeyd.model import Key
from rekeyd.ports import Listing, NewKey
from rekeyd.secret import AccessPair, Secret, short

LIMITS: dict[str, Any] = {"connect_timeout": 5, "read_timeout": 10}
"""Seconds: no call blocks a worker for longer, retries apart."""

PATIENT = Config(**LIMITS, retries={"mode": "standard", "total_max_attempts": 3})
ONCE = Config(**LIMITS, retries={"mode": "standard", "total_max_attempts": 1})
"""For CreateAccessKey: botocore would send it again after a lost answer and leave a key behind."""

ROOT_CHECK = 3600.0
"""Seconds for which the caller's identity is remembered."""

NO_STS_HERE = (
    "this store has no STS: pairs are proved by S3 alone, and nobody tells whether rekeyd itself"
    " signs as its administrator"
)
NO_USER_IDS = (
    "this store gives users no ids: one that is deleted and made again is taken for the same"
)
NO_DATES = (
    "this store does not say when a key was made: of its own keys rekeyd knows it, and it asks a"
    " person about a key that an interrupted mint may have left"
)
NO_LAST_USE = (
    "this store does not say when a key was last used: a superseded key is retired after `overlap`"
    " whoever still uses it, so let `overlap` outlast the longest backup"
)
NO_LIMIT = (
    "this store lets a user have more than two keys: rekeyd keeps to two, and makes none while"
    " others fill both places"
)

CHANGING = ("CreateAccessKey", "UpdateAccessKey", "DeleteAccessKey")
"""The calls to IAM after which it is not as it was."""

NOBODYS_KEY = "AKIA0000000000000000"
"""An id that no key can have, since ids are base32: to try a call that then does nothing."""

RequestWatcher = Callable[[str, str, str, float], None]
"""Is told each call's service, operation, code (`OK`, or what went wrong) and seconds."""


class AccountSettings(Protocol):
    """What names an AWS account and the way into it."""

    @property
    def region(self) -> str | None: ...
    @property
    def profile(self) -> str | None: ...
    @property
    def role_arn(self) -> str | None: ...
    @property
    def external_id(self) -> str | None: ...
    @property
    def endpoint_url(self) -> str | None: ...
    @property
    def has_no_sts(self) -> bool: ...


class Account:
    """Clients signed with the daemon's own credentials, as one `aws` setting says.

    The credentials are read from where they come from once, and anew after AWS refused them or they
    could not be had: a person may have renewed a file, or a service may be up by now.
    """

    def __init__(self, settings: AccountSettings, watch: RequestWatcher) -> None:
        self.settings = settings
        self._watch = watch
        self._own: Credentials | None = None
        self._caller: tuple[float, str] | None = None

    def client(self, service: str, region: str | None = None, config: Config = PATIENT) -> Any:
        """Make a client. Whoever asks for it closes it."""
        return self._made(service, self._answered, region_name=region, config=config)

    @property
    def region(self) -> str | None:
        """The region that calls go to, if one is set anywhere."""
        found: str | None = self._session.get_config_variable("region")
        return found

    def consumer_client(self, service: str, pair: AccessPair) -> Any:
        """Make a client that signs with the pair of a backup user instead."""
        return self._made(
            service,
            self._watch,
            config=ONCE,
            aws_access_key_id=pair.key_id,
            aws_secret_access_key=pair.secret.reveal(),
        )

    def _made(self, service: str, watch: RequestWatcher, **given: Any) -> Any:
        endpoint = self._endpoint(service)
        try:
            with setting_up(service):
                client = self._session.create_client(service, endpoint_url=endpoint, **given)
        except Misconfigured:
            self.__dict__.pop("_session", None)  # it remembers what is wrong in its files
            raise
        _read_codes(client)
        _watch(client, watch)
        return client

    def caller(self) -> str | None:
        """Return the ARN that the daemon signs as; None where there is no STS to ask."""
        if self.settings.has_no_sts:
            return None
        now = time.monotonic()
        if self._caller is None or now - self._caller[0] > ROOT_CHECK:
            self._caller = now, self._ask_sts()
        return self._caller[1]

    def _ask_sts(self) -> str:
        try:
            with closing(self.client("sts")) as sts, translated("ask who it signs as", "", "STS"):
                return str(sts.get_caller_identity()["Arn"])
        except (Refused, Unanswered) as error:
            if self._endpoint("sts") and getattr(error, "reason", "") not in {
                "clock",
                "credentials",
            }:
                error.do = f"for a store without STS: `aws.endpoint_url_sts: none`; {error.do}"
            raise

    def _answered(self, service: str, operation: str, code: str, seconds: float) -> None:
        self._watch(service, operation, code, seconds)
        if code in CREDENTIALS:
            self._forget()

    def _forget(self) -> None:
        self._own = self._caller = None

    def _endpoint(self, service: str) -> str | None:
        own: str | None = getattr(self.settings, f"endpoint_url_{service}", None)
        return own or self.settings.endpoint_url

    @cached_property
    def _session(self) -> Any:  # its stubs know services by literal name only
        with translated("set up its AWS session", "", "the profile"):
            session = new_session(self.settings.profile, self.settings.region)
        session.register_component("credential_provider", _Asking(self._frozen))
        return session

    def _frozen(self) -> ReadOnlyCredentials:
        """Return what to sign a request with."""
        try:
            with signing_in(self.settings.role_arn or ""):
                own = self._own = self._own or self._found()
                return own.get_frozen_credentials()
        except RekeydError:
            self._forget()
            raise

    def _found(self) -> Credentials:
        if not self.settings.role_arn:
            return self._source()
        return DeferredRefreshableCredentials(refresh_using=self._assume, method="assume-role")

    def _source(self) -> Credentials:
        """Read the credentials in a session of its own: a session remembers what its files said."""
        session = new_session(self.settings.profile, self.settings.region)
        session.register_component("data_loader", self._session.get_component("data_loader"))
        found = session.get_credentials()
        if found is None:
            raise NoCredentialsError
        return found

    def _assume(self) -> dict[str, str]:
        source = self._source().get_frozen_credentials()
        external_id = {"ExternalId": self.settings.external_id} if self.settings.external_id else {}
        with closing(
            self._made(
                "sts",
                self._watch,
                config=PATIENT,
                aws_access_key_id=source.access_key,
                aws_secret_access_key=source.secret_key,
                aws_session_token=source.token,
            )
        ) as sts:
            made = sts.assume_role(
                RoleArn=self.settings.role_arn, RoleSessionName="rekeyd", **external_id
            )["Credentials"]
        return {
            "access_key": made["AccessKeyId"],
            "secret_key": made["SecretAccessKey"],
            "token": made["SessionToken"],
            "expiry_time": made["Expiration"].isoformat(),
        }


class _Asking(Credentials):
    """Credentials that are asked for at each signature, so that no client holds on to any.

    To a session this is where they are found, too.
    """

    def __init__(self, ask: Callable[[], ReadOnlyCredentials]) -> None:
        super().__init__("", "", method="rekeyd")
        self._ask = ask

    def load_credentials(self) -> Credentials:
        return self

    def get_frozen_credentials(self) -> ReadOnlyCredentials:
        return self._ask()


class AwsIam:
    """IAM for one user: the `Iam` port.

    `may_act` is called between the signing and the sending of every request that changes something,
    each retry included, and raises when it must not be sent any more. So a request that was signed
    in time and is sent late is refused by AWS itself, for the age of its signature.
    """

    def __init__(
        self, account: Account, user: str, may_act: Callable[[], None] = lambda: None
    ) -> None:
        self._account = account
        self._user = user
        self._may_act = may_act
        self._resource = f"user {user}"

    @cached_property
    def _client(self) -> Any:
        return self._guarded()

    def _guarded(self, config: Config = PATIENT) -> Any:
        client = self._account.client("iam", config=config)
        for operation in CHANGING:
            client.meta.events.register(f"before-send.iam.{operation}", self._before_send)
        return client

    def _before_send(self, **_: Any) -> None:
        self._may_act()

    def caller_is_root(self) -> bool:
        return (self._account.caller() or "").endswith(":root")

    def user_id(self) -> str | None:
        try:
            return str(self._entry().get("UserId", self._user))
        except Gone:
            return None

    def list_keys(self) -> Listing:
        keys: list[Key] = []
        now = datetime.max.replace(tzinfo=UTC)
        with translated("list the user's keys", "iam:ListAccessKeys", self._resource):
            for page in self._client.get_paginator("list_access_keys").paginate(
                UserName=self._user
            ):
                now = min(now, _server_time(page))
                keys += [
                    Key(entry["AccessKeyId"], entry["Status"] == "Active", entry.get("CreateDate"))
                    for entry in page["AccessKeyMetadata"]
                ]
        return Listing(now, tuple(keys))

    def last_used(self, key_id: str) -> datetime | None:
        try:
            return self._last_use(key_id)
        except Refused as refusal:
            if refusal.reason != "unsupported":
                raise
            return None

    def gaps(self) -> list[str]:
        """Say what this store lacks of AWS's IAM, and what follows from it. Nothing for AWS.

        What keys tell can be seen once there is one.
        """
        keys = self.list_keys().keys
        lacking = {
            NO_STS_HERE: self._account.caller() is None,
            NO_USER_IDS: "UserId" not in self._entry(),
            NO_DATES: any(key.created is None for key in keys),
            NO_LAST_USE: not self._tells_last_use(keys[0].id if keys else NOBODYS_KEY),
            NO_LIMIT: len(keys) > 2,
        }
        return [gap for gap, lacks in lacking.items() if lacks]

    def try_retiring(self) -> None:
        """Try the rights to deactivate and to delete a key, on one that cannot exist.

        AWS judges whether a caller may do something before it looks for what is named (IAM User
        Guide, "Policy evaluation logic"). Raises `Refused` for a right that is missing.
        """
        with suppress(Gone):
            self.set_active(NOBODYS_KEY, active=False)
        self.delete_key(NOBODYS_KEY)

    def _entry(self) -> dict[str, Any]:
        with translated("read the user", "iam:GetUser", self._resource):
            found: dict[str, Any] = self._client.get_user(UserName=self._user)["User"]
            return found

    def _last_use(self, key_id: str) -> datetime | None:
        resource = f"key {short(key_id)} of {self._resource}"
        with translated("ask when a key was used", "iam:GetAccessKeyLastUsed", resource):
            answer = self._client.get_access_key_last_used(AccessKeyId=key_id)
            used: datetime | None = answer["AccessKeyLastUsed"].get("LastUsedDate")
            return used

    def _tells_last_use(self, key_id: str) -> bool:
        try:
            self._last_use(key_id)
        except Refused as refusal:
            return refusal.reason != "unsupported"
        return True

    def create_key(self) -> NewKey:
        with (
            closing(self._guarded(ONCE)) as once,
            translated("make a key", "iam:CreateAccessKey", self._resource),
        ):
            answer = once.create_access_key(UserName=self._user)
        try:
            made = answer["AccessKey"]
            pair = AccessPair(made["AccessKeyId"], Secret(made["SecretAccessKey"]))
            return NewKey(pair, made.get("CreateDate") or _server_time(answer))
        except (KeyError, Refused):
            raise Unanswered("could not make a key: IAM's answer was incomplete") from None

    def set_active(self, key_id: str, active: bool) -> datetime:
        what = f"{'activate' if active else 'deactivate'} key {short(key_id)}"
        with translated(what, "iam:UpdateAccessKey", self._resource):
            answer = self._client.update_access_key(
                UserName=self._user,
                AccessKeyId=key_id,
                Status="Active" if active else "Inactive",
            )
            return _server_time(answer)

    def delete_key(self, key_id: str) -> datetime:
        try:
            with translated(f"delete key {short(key_id)}", "iam:DeleteAccessKey", self._resource):
                answer = self._client.delete_access_key(UserName=self._user, AccessKeyId=key_id)
                return _server_time(answer)
        except Gone:
            return self.list_keys().now


class AwsConsumer:
    """The pair as the backup program uses it: the `Consumer` port."""

    def __init__(
        self, account: Account, user: str, bucket: str | None, probe_key: str, services: list[str]
    ) -> None:
        self._account = account
        self._user = user
        self._bucket = bucket
        self._probe_key = probe_key
        self._services = services

    def probe(self, pair: AccessPair) -> None:
        if "sts" in self._services:
            self._sign_in(pair)
        if "s3" in self._services:
            self._put_get_delete(pair)

    def _sign_in(self, pair: AccessPair) -> None:
        with closing(self._account.consumer_client("sts", pair)) as sts:
            arn = _as_consumer(pair, "sign in", "", "STS", sts.get_caller_identity)["Arn"]
        if ":user/" in arn and not arn.endswith(f"/{self._user}"):
            raise Refused(
                f"{short(pair.key_id)} belongs to another user than {self._user}",
                "see who changed the sinks or the user",
                reason="wrong_user",
            )

    def _put_get_delete(self, pair: AccessPair) -> None:
        where = {"Bucket": self._bucket, "Key": self._probe_key}
        resource = f"{self._bucket}/{self._probe_key}"
        written = token_hex(16).encode()
        with closing(self._account.consumer_client("s3", pair)) as s3:
            put = _as_consumer(
                pair, "put", "s3:PutObject", resource, s3.put_object, Body=written, **where
            )
            del put
            get = partial(_content, s3, len(written) + 1)
            read = _as_consumer(pair, "get", "s3:GetObject", resource, get, **where)
            _as_consumer(pair, "delete", "s3:DeleteObject", resource, s3.delete_object, **where)
        if read != written:
            raise Transient(f"{resource} was not read as it was written a moment ago")


def _content(s3: Any, most: int, **where: Any) -> bytes:
    return body(s3.get_object(**where), most)


def _as_consumer(
    pair: AccessPair, what: str, action: str, resource: str, call: Callable[..., Any], **given: Any
) -> Any:
    """Call as the backup user: a key that AWS does not know is new, not wrong."""
    with translated(f"{what} as the backup user", action, resource, party="backup"):
        try:
            return call(**given)
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code == "NoSuchBucket":
                raise _no_bucket(resource) from None
            if code in MISSING:
                raise Transient(f"{resource} is not there, and was put a moment ago") from None
            if code not in CREDENTIALS:
                raise
    raise Propagating(f"AWS does not accept {short(pair.key_id)} ({code})")


def _no_bucket(resource: str) -> Gone:
    return Gone(
        f"there is no bucket {resource.partition('/')[0]}, so backups have no place to go",
        "make it, or correct `policy.bucket`",
        reason="missing",
    )


def probe_key(identity: str, prefix: str | None) -> str:
    """Return the name of the small object that proves a pair; at most one is ever left behind."""
    return f"{prefix.strip('/') + '/' if prefix else ''}.rekeyd/probe-{identity}"


def _server_time(answer: dict[str, Any]) -> datetime:
    """Return the Date of an answer: the only clock that may justify a destructive step."""
    stamp = answer["ResponseMetadata"]["HTTPHeaders"].get("date", "")
    try:
        return parsedate_to_datetime(stamp).astimezone(UTC)
    except (ValueError, OverflowError):
        raise Refused(
            "the IAM service tells no time (no Date header), so no age can be trusted",
            "this store cannot be rotated safely by rekeyd",
            reason="unsupported",
        ) from None


def _read_codes(client: Any) -> None:
    """Have botocore find the code of an error that a store gives IAM and STS in the form of S3."""

    def after(http_response: Any, parsed: dict[str, Any], **_: Any) -> None:
        if http_response.status_code >= 300 and "Error" not in parsed and "Code" in parsed:
            parsed["Error"] = {name: parsed.get(name, "") for name in ("Code", "Message")}

    client.meta.events.register("after-call", after)


def _watch(client: Any, watch: RequestWatcher) -> None:
    """Tell `watch` of every call, by botocore's own events."""

    def before(context: dict[str, Any], **_: Any) -> None:
        context["rekeyd_began"] = time.monotonic()

    def after(context: dict[str, Any], **event: Any) -> None:
        operation = event["model"].name if "model" in event else event["event_name"].split(".")[-1]
        code = "OK"
        if "exception" in event:
            code = type(event["exception"]).__name__
        elif "Error" in event["parsed"]:
            code = str(event["parsed"]["Error"].get("Code", event["http_response"].status_code))
        began = context.get("rekeyd_began", time.monotonic())
        watch(client.meta.service_model.service_name, operation, code, time.monotonic() - began)

    client.meta.events.register("before-call", before)
    client.meta.events.register("after-call", after)
    client.meta.events.register("after-call-error", after)
