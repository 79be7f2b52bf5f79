"""The settings, their meaning and their limits: the source of the reference and the JSON Schema."""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from ipaddress import ip_address
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    Strict,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core.core_schema import CoreSchema, no_info_after_validator_function

from rekeyd.model import Timing
from rekeyd.notify.base import ChannelSettings
from rekeyd.sinks.base import STRICT, SinkSettings
from rekeyd.times import Crontab, Duration, duration_text

NO_STS = "none"
"""What `endpoint_url_sts` says where there is no STS."""


@dataclass(frozen=True)
class Form:
    """What a text must look like as a whole, in words, and an example."""

    pattern: str
    wanted: str
    example: str

    def check(self, text: str) -> str:
        if re.fullmatch(self.pattern, text, re.ASCII):
            return text
        raise ValueError(f"is not {self.wanted}; write for example {self.example}")

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {**handler(schema), "pattern": f"^({self.pattern})$", "examples": [self.example]}


_IAM_NAME = r"[\w+=,.@-]"
_ACCOUNT = r"(\d{12})?"
_POSTGRESQL = "postgresql://"
_HTTP = r"https?://[^\s/@?#]+(/[^\s?#]*)?"

UserName = Annotated[
    str,
    Form(
        _IAM_NAME + "{1,64}",
        "an IAM user name of letters, digits and +=,.@_-, 64 at most",
        "backup_user",
    ),
]
Name = Annotated[
    str,
    Form(
        _IAM_NAME + "{1,64}", "a name of letters, digits and +=,.@_-, 64 at most", "backup-archive"
    ),
]
GroupName = Annotated[
    str,
    Form(
        _IAM_NAME + "{1,128}",
        "an IAM name of letters, digits and +=,.@_-, 128 at most",
        "backup_group",
    ),
]
PolicyName = Annotated[
    str,
    Form(
        _IAM_NAME + "{1,128}",
        "an IAM name of letters, digits and +=,.@_-, 128 at most",
        "S3BackupPolicy",
    ),
]
# Signs that mean something in the Resource of a policy are left out: * ? $
IamPath = Annotated[
    str,
    Form(
        r"/([!-#%-)+->@-~]{1,510}/)?",
        "an IAM path between slashes, 512 characters at most",
        "/backup/",
    ),
]
Bucket = Annotated[
    str,
    Form(
        r"[A-Za-z0-9._-]{3,255}",
        "the name of a bucket alone, 3 to 255 letters, digits and ._-",
        "backup-bucket",
    ),
]
Prefix = Annotated[
    str,
    Form(
        r"(?!/)[^\x00-\x1f\x7f*?$]{1,900}(?<!/)",
        "the folder in the bucket without slashes around it and without * ? $, 900 characters at"
        " most",
        "hosts/db1",
    ),
]
PolicyArn = Annotated[
    str,
    Form(
        rf"arn:[a-z0-9-]+:iam::({_ACCOUNT}|aws):policy/[!-)+->@-~]+",
        "the ARN of a policy",
        "arn:aws:iam::012345670123:policy/BackupBoundary",
    ),
]
RoleArn = Annotated[
    str,
    Form(
        rf"arn:[a-z0-9-]+:iam::{_ACCOUNT}:role/[\w+=,.@/-]+",
        "the ARN of a role",
        "arn:aws:iam::012345670123:role/Rotator",
    ),
]
Region = Annotated[str, Form(r"[a-z0-9-]{2,32}", "the name of a region", "us-east-1")]
Profile = Annotated[
    str, Form(r"[^\s\]\[]{1,128}", "the name of a profile of the AWS CLI", "backup-admin")
]
ExternalId = Annotated[
    str,
    Form(
        r"[\w+=,.@:/-]{2,1224}",
        "the external id that the role wants, 2 to 1224 letters, digits and +=,.@:/-",
        "backup-7f3a",
    ),
]
Endpoint = Annotated[
    str, Form(_HTTP, "an http or https address without a password", "https://s3.example.com")
]
StsEndpoint = Annotated[
    str,
    Form(
        rf"{NO_STS}|{_HTTP}",
        "an http or https address without a password, or none",
        "https://sts.example.com",
    ),
]
File = Annotated[
    str, Form(r"/[^\x00]*[^\x00/]", "the absolute path of a file", "/etc/rekeyd/tls.pem")
]
State = Annotated[
    str,
    Form(
        rf"/[^\x00]*|{_POSTGRESQL}([^\s/@:?#]+@)?[^\s/@?#]*/[^\s/?#]+(\?(?!\S*password=)\S+)?",
        "the absolute path of a folder, or a postgresql:// address that names a database and holds"
        " no password (it belongs in the file that `passfile` names)",
        "/var/lib/rekeyd",
    ),
]
Seal = Annotated[
    str,
    Form(
        r"file:/[^\x00]*[^\x00/]|credential:[\w.-]{1,255}|kms:[\w:/-]{1,2048}",
        "file:PATH (absolute), credential:NAME or kms:KEY_ID",
        "file:/etc/rekeyd/seal.key",
    ),
]
BcryptHash = Annotated[
    str,
    Form(
        r"\$2[aby]\$\d\d\$[./A-Za-z0-9]{53}",
        "a bcrypt hash",
        "what follows the colon in the output of `htpasswd -nBC 10 NAME`",
    ),
]


class _Model(BaseModel):
    model_config = STRICT | ConfigDict(defer_build=True)


class LogSettings(_Model):
    """What the log says, and how."""

    format: Literal["auto", "console", "json"] = Field(
        "auto", description="`auto` is `console` on a terminal and `json` otherwise."
    )
    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The least important events that are written."
    )


class TlsSettings(_Model):
    """The certificate that `listen` shows, named as in Prometheus' web configuration file."""

    cert_file: File = Field(description="The certificate chain, PEM, the server's own first.")
    key_file: File = Field(description="The private key of that certificate, PEM.")


_ADDRESS = re.compile(r"(?:\[([^\]]*)\]|([^:\[\]]*)):(\d{1,5})", re.ASCII)


class Listen(_Model):
    """Where metrics, health and the status page are served."""

    address: Annotated[str, Field(examples=["127.0.0.1:9797", "[::1]:9797"])] = Field(
        "127.0.0.1:9797",
        description="Host and port, `host:port`; IPv6 in brackets. Port 0 takes a free one.",
    )
    tls_server_config: TlsSettings | None = Field(
        None, description="Serve HTTPS with this certificate. Left out: plain HTTP."
    )
    basic_auth_users: dict[str, BcryptHash] = Field(
        default_factory=dict,
        repr=False,
        description="User names and the bcrypt hashes of their passwords. Left out: no password.",
    )
    insecure: bool = Field(
        False,
        description="Allow plain HTTP without a password on an address that others can reach.",
    )

    @field_validator("address")
    @classmethod
    def _address(cls, address: str) -> str:
        host, _ = _host_port(address)
        if re.fullmatch(r"[^\s/@?#%]*", host):
            return address
        raise ValueError("has no usable host; write host:port, for example 127.0.0.1:9797")

    @model_validator(mode="after")
    def _not_open_to_everybody(self) -> "Listen":
        protected = self.tls_server_config or self.basic_auth_users or self.insecure
        if not protected and not _is_loopback(self.host):
            raise ValueError(
                f"would serve plain HTTP without a password on {self.address}, which others can"
                " reach; set tls_server_config or basic_auth_users in it, or insecure: true"
            )
        return self

    @property
    def host(self) -> str:
        """The host to bind, without brackets; all IPv4 addresses when none was written."""
        return _host_port(self.address)[0] or "0.0.0.0"  # noqa: S104

    @property
    def port(self) -> int:
        return _host_port(self.address)[1]


def _host_port(address: str) -> tuple[str, int]:
    found = _ADDRESS.fullmatch(address)
    if not found or int(found[3]) > 65535:
        raise ValueError("is not host:port; write for example 127.0.0.1:9797, [::1]:9797, or none")
    if found[1] is not None and not _is_ip6(found[1]):
        raise ValueError("has no IPv6 address in its brackets; write for example [::1]:9797")
    return found[1] or found[2] or "", int(found[3])


def _is_ip6(host: str) -> bool:
    try:
        return ip_address(host).version == 6
    except ValueError:
        return False


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


ShortListen = Annotated[str, Field(examples=["127.0.0.1:9797", "[::1]:9797", "none"])]


def _listen(value: Any) -> Any:
    """Read the short forms of `listen`: an address alone, and the word none."""
    if value == "none":
        return None
    if isinstance(value, str):
        return {"address": value}
    if isinstance(value, dict | Listen):
        return value
    raise ValueError(
        "is neither host:port nor a mapping; write for example 127.0.0.1:9797, or none"
    )


class AwsSettings(_Model):
    """How AWS is reached, and as whom. What is left out follows boto3's own chain."""

    region: Region | None = Field(None, description="The region of STS, S3 and the AWS sinks.")
    profile: Profile | None = Field(
        None, description="A profile of the AWS configuration files, for the daemon's credentials."
    )
    role_arn: RoleArn | None = Field(
        None, description="A role to assume with those credentials, as in another account."
    )
    external_id: ExternalId | None = Field(
        None, description="The external id that the role asks for. Needs `role_arn`."
    )
    endpoint_url: Endpoint | None = Field(
        None, description="Where every service is found, for stores that speak AWS's protocols."
    )
    endpoint_url_iam: Endpoint | None = Field(None, description="Where IAM is found.")
    endpoint_url_sts: StsEndpoint | None = Field(
        None, description="Where STS is found; `none` for a store that has no STS."
    )
    endpoint_url_s3: Endpoint | None = Field(None, description="Where S3 is found.")

    @property
    def has_no_sts(self) -> bool:
        return self.endpoint_url_sts == NO_STS

    def overridden_by(self, other: "AwsSettings") -> "AwsSettings":
        """Return these settings with those that `other` gives put in their place."""
        given = {name: getattr(other, name) for name in other.model_fields_set}
        return self.model_copy(update=given)


Preset = Literal["restic", "rclone", "aws-cli", "s3cmd", "duplicity", "append-only"]


class PolicySettings(_Model):
    """What the backup user may do. Without it the policy is made elsewhere."""

    name: PolicyName = Field(description="The name of the policy.")
    bucket: Bucket = Field(description="The bucket that backups go to.")
    prefix: Prefix | None = Field(
        None, description="The folder in the bucket that the policy is limited to."
    )
    preset: Preset | None = Field(
        None,
        description="Allow what this tool needs. Left out: put, get and delete objects, no more.",
    )
    boundary: PolicyArn | None = Field(
        None, description="The ARN of a policy to set as the user's permissions boundary."
    )


@lru_cache
def _shortest_gap(cron: str) -> timedelta:
    return Crontab.parse(cron).smallest_gap()


def _crontab(text: str) -> str:
    Crontab.parse(text)
    return text


class RotationSettings(_Model):
    """When a key is replaced, and how slowly the old one is retired."""

    every: Duration = Field(
        timedelta(days=30), description="The time from one new key to the next."
    )
    cron: Annotated[str, AfterValidator(_crontab), Field(examples=["0 3 * * sun"])] | None = Field(
        None, description="A line as in crontab(5), in UTC, instead of `every`."
    )
    overlap: Duration = Field(
        timedelta(hours=24),
        description="How long both keys work after every sink has the new one."
        " Longer than the longest backup.",
    )
    grace: Duration = Field(
        timedelta(hours=24),
        description="How long the old key stays Inactive before it is deleted; until then it can"
        " be had back.",
    )
    settle: Duration = Field(
        timedelta(minutes=15), description="How long IAM may go on showing an old truth."
    )
    jitter: Duration = Field(
        timedelta(0),
        description="Delay each identity by a fixed share of this, so that not all rotate at once.",
    )

    @model_validator(mode="after")
    def _fits(self) -> "RotationSettings":
        if self.cron and "every" in self.model_fields_set:
            raise ValueError("has both every and cron; keep one of the two")
        name = "the shortest gap between two fires of cron" if self.cron else "every"
        limit = f"and {name} is {duration_text(self.period)}"
        parts = (self.overlap, self.grace, self.settle)
        retiring = sum(parts, timedelta(0))
        if retiring >= self.period:
            overlap, grace, settle, total = map(duration_text, (*parts, retiring))
            raise ValueError(
                f"takes overlap {overlap} + grace {grace} + settle {settle} = {total} to retire a"
                f" key, {limit}; make their sum less than that"
            )
        if self.jitter >= self.period:
            jitter = duration_text(self.jitter)
            raise ValueError(f"has a jitter of {jitter}, {limit}; make jitter less than that")
        return self

    @property
    def period(self) -> timedelta:
        """The shortest time from one rotation to the next."""
        return _shortest_gap(self.cron) if self.cron else self.every

    def due(self, birth: datetime, shift: timedelta) -> datetime:
        """Return when a key of that birth is due, `shift` later than the schedule says."""
        if self.cron:
            return Crontab.parse(self.cron).next_after(birth) + shift
        return birth + self.every + shift

    def share_of_jitter(self, name: str) -> timedelta:
        """Return the delay of an identity: between 0 and `jitter`, always the same for a name."""
        share = int.from_bytes(sha256(name.encode()).digest()[:4]) / 2**32
        return timedelta(seconds=int(self.jitter.total_seconds() * share))


Probe = Literal["sts", "s3"]


def _probes(known: dict[str, Any]) -> tuple[Probe, ...]:
    return ("sts", "s3") if known.get("policy") else ("sts",)


class IdentitySettings(_Model):
    """One IAM user that rekeyd looks after."""

    user: UserName = Field(description="The name of the IAM user.")
    name: Name = Field(
        default_factory=lambda known: known.get("user", ""),
        description="How logs, metrics and commands call it. Left out: its `user`.",
    )
    group: GroupName | None = Field(
        None, description="The IAM group that `provision` makes and puts the user into."
    )
    path: IamPath = Field("/", description="The IAM path of the user, its group and its policy.")
    policy: PolicySettings | None = Field(
        None, description="What the user may do. Left out: provisioned elsewhere."
    )
    rotation: RotationSettings = Field(
        default_factory=RotationSettings, description="When its key is replaced."
    )
    verify: Annotated[tuple[Probe, ...], Strict(strict=False)] = Field(
        default_factory=_probes,
        min_length=1,
        description="How a new pair is proved: `sts` asks who it is; `s3` puts, gets and deletes a"
        " small object in `policy.bucket`. Left out: both with a policy, else `sts`; `s3` where"
        " there is no STS.",
    )
    sinks: Annotated[tuple[SinkSettings, ...], Strict(strict=False)] = Field(
        min_length=1, repr=False, description="The places where consumers read the pair."
    )
    aws: AwsSettings = Field(
        default_factory=AwsSettings,
        description="What differs from the top-level `aws` for this identity.",
    )

    @field_validator("verify")
    @classmethod
    def _has_a_bucket(cls, verify: tuple[Probe, ...], info: ValidationInfo) -> tuple[Probe, ...]:
        if len(set(verify)) < len(verify):
            raise ValueError("names the same probe twice; write [sts, s3], [sts] or [s3]")
        if "s3" in verify and "policy" in info.data and info.data["policy"] is None:
            raise ValueError(
                "has s3, and there is no policy.bucket to probe; add one, or write [sts]"
            )
        return verify

    @property
    def provisioned_here(self) -> bool:
        """Whether `rekeyd provision` makes its user."""
        return bool(self.group and self.policy)

    @property
    def without_default_sts(self) -> "IdentitySettings":
        """Return these settings as they are where no STS can be asked."""
        if "verify" in self.model_fields_set:
            return self
        return self.model_copy(update={"verify": ("s3",)})

    @property
    def timing(self) -> Timing:
        """Its rotation times, as the rules take them."""
        rotation, shift = self.rotation, self.rotation.share_of_jitter(self.name)
        return Timing(
            due=lambda birth: rotation.due(birth, shift),
            overlap=rotation.overlap,
            grace=rotation.grace,
            settle=rotation.settle,
        )


class Settings(_Model):
    """Everything at once: `rekeyd.config.load` reads it from a file."""

    state: State = Field(
        "/var/lib/rekeyd",
        repr=False,
        description="Where custody is kept: a folder (SQLite inside), or the `postgresql://`"
        " address of a database that replicas share. That needs `rekeyd[postgres]`.",
    )
    seal: Seal | None = Field(
        None,
        validate_default=True,
        description="What encrypts secrets at rest: `file:PATH` (32 bytes, raw or base64),"
        " `credential:NAME` (systemd) or `kms:KEY_ID`. Left out: `seal.key` in the state folder."
        " With a database it must be said, the same for every replica.",
    )
    listen: Annotated[
        Listen | None, BeforeValidator(_listen, json_schema_input_type=ShortListen | Listen)
    ] = Field(
        default_factory=Listen,
        json_schema_extra={"default": "127.0.0.1:9797"},
        description="Metrics, health and status page: `host:port`, a mapping, or `none`.",
    )
    log: LogSettings = Field(default_factory=LogSettings, description="The log.")
    aws: AwsSettings = Field(
        default_factory=AwsSettings, description="How AWS is reached, and as whom."
    )
    notify: Annotated[tuple[ChannelSettings, ...], Strict(strict=False)] = Field(
        (),
        repr=False,
        description="Who is told of holds at once, and of failures that last for 15 minutes."
        " Left out: nobody.",
    )
    identities: Annotated[tuple[IdentitySettings, ...], Strict(strict=False)] = Field(
        min_length=1, description="The IAM users that rekeyd looks after."
    )

    @property
    def state_is_shared(self) -> bool:
        """Whether the state is a database, on which several replicas may work."""
        return self.state.startswith(_POSTGRESQL)

    @field_validator("seal")
    @classmethod
    def _seal_of_replicas(cls, seal: str | None, info: ValidationInfo) -> str | None:
        if seal is None and info.data.get("state", "").startswith(_POSTGRESQL):
            raise ValueError(
                "has no seal, and a database keeps no seal key; write for example"
                " `seal: file:/etc/rekeyd/seal.key`, the same key for every replica"
            )
        return seal

    @field_validator("identities")
    @classmethod
    def _inherit_aws(
        cls, identities: tuple[IdentitySettings, ...], info: ValidationInfo
    ) -> tuple[IdentitySettings, ...]:
        top = info.data.get("aws", AwsSettings())
        merged = (i.model_copy(update={"aws": top.overridden_by(i.aws)}) for i in identities)
        return tuple(one.without_default_sts if one.aws.has_no_sts else one for one in merged)
