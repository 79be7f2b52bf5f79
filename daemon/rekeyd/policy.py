"""The policy documents of the three parties: backup user, rotator and provisioner. Least privilege.

Pure: values in, documents out. Which resource an action is judged on is taken from AWS's Service
Authorization Reference; GetCallerIdentity needs no permission.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rekeyd.errors import Misconfigured

Document = dict[str, Any]
"""A policy document as `json.dumps` takes it."""

VERSION = "2012-10-17"

PARTITIONS = {
    "cn-": "aws-cn",
    "eusc-": "aws-eusc",
    "us-gov-": "aws-us-gov",
    "us-iso-": "aws-iso",
    "us-isob-": "aws-iso-b",
    "eu-isoe-": "aws-iso-e",
    "us-isof-": "aws-iso-f",
}
"""The partition of each prefix of a region's name (botocore, partitions.json). Else it is `aws`."""

PROBES = ".rekeyd/"
"""Where rekeyd's own probe objects lie: below the bucket, or below the prefix if there is one."""

BUCKET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")
"""As wide as the oldest buckets in us-east-1; nothing in it can widen an ARN."""

WILD = frozenset("*?$")
"""What IAM reads as a wild card or a variable in a resource."""


@dataclass(frozen=True, slots=True)
class Grant:
    """Some actions that somebody may do on one resource, perhaps under a condition."""

    actions: Sequence[str]
    resource: str
    condition: Mapping[str, Mapping[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class Preset:
    """What a backup tool needs on its objects, and on the bucket itself: `tests/e2e` finds out."""

    objects: tuple[str, ...]
    bucket: tuple[str, ...] = ()
    deletable: tuple[str, ...] = ()
    """Folders at the top of the bucket or prefix in which it deletes, if nowhere else."""
    private: bool = False
    """Whether it says with each object that it is private, which S3 judges as PutObjectAcl."""
    heads_bucket: bool = False
    """Whether each run asks HeadBucket, which names no prefix and is judged as ListBucket."""


SINGLE_COPIES = ("s3:DeleteObject", "s3:GetObject", "s3:PutObject")
SENT_IN_PARTS = (*SINGLE_COPIES, "s3:AbortMultipartUpload")
PRIVATE = {"StringEquals": {"s3:x-amz-acl": "private"}}

PRESETS: Mapping[str, Preset] = {
    # restic asks for the bucket's region unless told, and never sends a pack in parts
    "restic": Preset(SINGLE_COPIES, ("s3:GetBucketLocation", "s3:ListBucket")),
    # these send large files in parts, and clear away the parts when they fail
    "rclone": Preset(SENT_IN_PARTS, ("s3:ListBucket",), private=True),  # private: up to 1.60
    "aws-cli": Preset(SENT_IN_PARTS, ("s3:ListBucket",)),
    "duplicity": Preset(SENT_IN_PARTS, ("s3:ListBucket",), heads_bucket=True),
    # s3cmd leaves its parts to a lifecycle rule of the bucket
    "s3cmd": Preset(SINGLE_COPIES, ("s3:ListBucket",)),
    # Deletes nothing but rekeyd's probes and restic's locks, without which restic waits for a
    # quarter of an hour. PutObject still overwrites: switch on the bucket's versioning (better,
    # Object Lock), since s3:DeleteObjectVersion is granted to nobody here.
    "append-only": Preset(
        ("s3:GetObject", "s3:PutObject"),
        ("s3:GetBucketLocation", "s3:ListBucket"),
        deletable=(PROBES, "locks/"),
        private=True,
    ),
}
"""What each preset grants. Without one: the three actions of single copies, and nothing else."""


@dataclass(frozen=True, slots=True)
class User:
    """An IAM user by name and path. The path is part of its ARN."""

    name: str
    path: str = "/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Provisioning:
    """What `rekeyd provision` makes for one identity, all of it below one `path`."""

    user: str
    group: str
    policy: str
    document: Mapping[str, Any]
    path: str = "/"
    boundary: str | None = None
    """ARN of the permissions boundary. None: rekeyd sets none, and leaves one that is set."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Tags of user and policy, besides the one that marks them as rekeyd's."""
    peers: frozenset[str] = frozenset()
    """Other users of the configuration that share the group."""


def partition(region: str) -> str:
    """Return the partition of a region, the second field of each of its ARNs."""
    return next((name for start, name in PARTITIONS.items() if region.startswith(start)), "aws")


def user_arn(partition: str, account: str, user: User) -> str:
    return f"arn:{partition}:iam::{account}:user{user.path}{user.name}"


def group_arn(partition: str, account: str, spec: Provisioning) -> str:
    return f"arn:{partition}:iam::{account}:group{spec.path}{spec.group}"


def policy_arn(partition: str, account: str, spec: Provisioning) -> str:
    return f"arn:{partition}:iam::{account}:policy{spec.path}{spec.policy}"


def backup_document(
    partition: str, bucket: str, prefix: str | None = None, preset: str | None = None
) -> Document:
    """Return what the backup user may do: Put, Get and Delete of objects in its bucket or prefix.

    A preset adds what its tool needs. A bucket is listed below the prefix only, so HeadBucket,
    which carries no prefix, is then refused. To a tool that cannot do without, it is allowed, and
    with it to list the names in the whole bucket, which S3 does not tell apart. Raises
    `Misconfigured` for a bucket, prefix or preset that cannot stand in a policy.
    """
    below = _below(prefix)
    if not BUCKET_NAME.fullmatch(bucket):
        raise Misconfigured(
            f"{bucket!r} is not the name of a bucket, so no policy can be scoped to it",
            "give the bare name: letters, digits, dots and hyphens, no ARN and no s3://",
        )
    if preset is not None and preset not in PRESETS:
        raise Misconfigured(
            f"there is no policy preset {preset!r}", f"presets there are: {', '.join(PRESETS)}"
        )
    wanted = PRESETS[preset] if preset else Preset(SINGLE_COPIES)
    arn = f"arn:{partition}:s3:::{bucket}"
    grants = [Grant(wanted.objects, f"{arn}/{below}*")]
    if wanted.private:
        grants.append(Grant(["s3:PutObjectAcl"], f"{arn}/{below}*", PRIVATE))
    grants += [Grant(["s3:DeleteObject"], f"{arn}/{below}{it}*") for it in wanted.deletable]
    listing = _listing(below, wanted)
    grants += [
        Grant([action], arn, listing if action == "s3:ListBucket" else None)
        for action in wanted.bucket
    ]
    return document(grants)


def rotator_document(
    partition: str, users: Iterable[User], sinks: Iterable[Grant] = (), account: str = "*"
) -> Document:
    """Return what the daemon may do: handle the keys of exactly these users, and fill its sinks.

    `account` may stay unknown. All the actions, GetAccessKeyLastUsed too, are judged on the user
    (IAM User Guide, "Permissions required to manage access keys").
    """
    actions = (
        "iam:CreateAccessKey",
        "iam:DeleteAccessKey",
        "iam:GetAccessKeyLastUsed",
        "iam:GetUser",
        "iam:ListAccessKeys",
        "iam:UpdateAccessKey",
    )
    keys = [Grant(actions, user_arn(partition, account, user)) for user in users]
    return document([*keys, *sinks])


def provisioner_document(
    partition: str, specs: Iterable[Provisioning], account: str = "*"
) -> Document:
    """Return what `rekeyd provision` may do: make, compare and mend exactly these objects.

    It reaches no access key. Taking a user out of a group is judged on that group alone, so it
    would have to be allowed for every user: it is left to whoever administers the groups.
    """
    return document(grant for spec in specs for grant in _provisioning(partition, account, spec))


def document(grants: Iterable[Grant]) -> Document:
    """Return the policy document of some grants; those that differ in the resource only are one."""
    merged: list[tuple[Grant, list[str]]] = []
    for grant in grants:
        same = (
            resources
            for first, resources in merged
            if sorted(first.actions) == sorted(grant.actions) and first.condition == grant.condition
        )
        resources = next(same, None)
        if resources is None:
            merged.append((grant, [grant.resource]))
        elif grant.resource not in resources:
            resources.append(grant.resource)
    return {"Version": VERSION, "Statement": [_statement(g, found) for g, found in merged]}


def canonical(value: Any) -> Any:
    """Return a document in a form in which equal rights compare equal.

    The order of statements, actions and resources means nothing to IAM, nor does it matter whether
    a single one stands in a list.
    """
    if isinstance(value, Mapping):
        return {key: canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = sorted((canonical(item) for item in value), key=repr)
        return items[0] if len(items) == 1 else items
    return value


def _below(prefix: str | None) -> str:
    bare = (prefix or "").strip("/")
    if WILD & set(bare):
        raise Misconfigured(
            f"the prefix {bare!r} holds *, ? or $, which IAM would read as a wild card",
            "choose a prefix without them",
        )
    return f"{bare}/" if bare else ""


def _listing(below: str, wanted: Preset) -> Mapping[str, Mapping[str, Any]] | None:
    operator = "StringLikeIfExists" if wanted.heads_bucket else "StringLike"
    return {operator: {"s3:prefix": f"{below}*"}} if below else None


def _provisioning(partition: str, account: str, spec: Provisioning) -> list[Grant]:
    user = user_arn(partition, account, User(spec.user, spec.path))
    group = group_arn(partition, account, spec)
    policy = policy_arn(partition, account, spec)
    bounded = ["iam:CreateUser", *(["iam:PutUserPermissionsBoundary"] if spec.boundary else [])]
    within = {"StringEquals": {"iam:PermissionsBoundary": spec.boundary}} if spec.boundary else None
    return [
        Grant(bounded, user, within),
        Grant(
            (
                "iam:DeleteUserPolicy",
                "iam:DetachUserPolicy",
                "iam:GetLoginProfile",
                "iam:GetUser",
                "iam:GetUserPolicy",
                "iam:ListAttachedUserPolicies",
                "iam:ListGroupsForUser",
                "iam:ListUserPolicies",
                "iam:TagUser",
            ),
            user,
        ),
        Grant(
            (
                "iam:AddUserToGroup",
                "iam:CreateGroup",
                "iam:DeleteGroupPolicy",
                "iam:DetachGroupPolicy",
                "iam:GetGroup",
                "iam:GetGroupPolicy",
                "iam:ListAttachedGroupPolicies",
                "iam:ListGroupPolicies",
            ),
            group,
        ),
        Grant(["iam:AttachGroupPolicy"], group, {"ArnEquals": {"iam:PolicyARN": policy}}),
        Grant(
            (
                "iam:CreatePolicy",
                "iam:CreatePolicyVersion",
                "iam:DeletePolicyVersion",
                "iam:GetPolicy",
                "iam:GetPolicyVersion",
                "iam:ListPolicyVersions",
                "iam:TagPolicy",
            ),
            policy,
        ),
    ]


def _statement(grant: Grant, resources: list[str]) -> Document:
    statement: Document = {
        "Effect": "Allow",
        "Action": sorted(grant.actions),
        "Resource": resources[0] if len(resources) == 1 else resources,
    }
    if grant.condition:
        statement["Condition"] = {key: dict(test) for key, test in grant.condition.items()}
    return statement
