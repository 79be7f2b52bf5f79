"""Brings one identity's user, group, membership and policy to what the configuration says.

`Provisioner.plan` compares and names the changes, `Provisioner.apply` makes them one by one.
Nothing is kept between runs: an interrupted one is finished by the next. Access keys are never
touched, and nothing is deleted but rights that the managed user or group should not have.

Rights shall end where the configuration ends them, so what people attached by hand is drift. What
could be somebody else's is refused instead: a user or policy without rekeyd's tag, and a group
(IAM cannot tag those) that is not seen to serve this user alone. Of a store that keeps no tags
nothing that exists is changed.
"""

import difflib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeVar

from botocore import xform_name

from rekeyd.botoerrors import translated
from rekeyd.errors import Gone, Refused
from rekeyd.policy import Provisioning, User, canonical, group_arn, policy_arn, user_arn

T = TypeVar("T")

MARK = {"managed-by": "rekeyd"}
"""The tag that tells users and policies of ours."""

VERSIONS = 5
"""How many versions of a managed policy IAM keeps (AWS, "IAM and STS quotas")."""

PATIENCE = 30.0
"""Seconds for which IAM may go on not to know what it was just told ("eventual consistency")."""

PARTY = "provisioner"

SIGNS = {"create": "+", "change": "~", "remove": "-"}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who signs the requests: the account and partition in which everything is made."""

    arn: str

    @property
    def partition(self) -> str:
        return self.arn.split(":")[1]

    @property
    def account(self) -> str:
        return self.arn.split(":")[4]

    @property
    def root(self) -> bool:
        return self.arn.endswith(":root")


UNKNOWN = Caller("arn:aws:iam:::user/")
"""Who signs where there is no STS to ask: stores without accounts leave them out of their ARNs."""


@dataclass(frozen=True, slots=True)
class Change:
    """One call to IAM that is still to be made, and how people and programs read it."""

    action: Literal["create", "change", "remove"]
    what: str
    effect: Callable[[], None] = field(repr=False, compare=False)
    diff: tuple[str, ...] = ()
    """Lines of a unified diff of JSON, from what IAM has to what the configuration says."""

    @property
    def text(self) -> str:
        return "\n".join([f"{SIGNS[self.action]} {self.what}", *(f"    {x}" for x in self.diff)])

    def data(self) -> dict[str, Any]:
        """Return it as `--json` prints it."""
        return {"action": self.action, "what": self.what, "diff": list(self.diff)}


@dataclass(frozen=True, slots=True)
class Plan:
    """What differs, in the order in which it is to be changed, and what a person should know."""

    changes: tuple[Change, ...]
    notices: tuple[str, ...]


class Provisioner:
    """Compares one identity with IAM, and changes what differs.

    `take_over` makes a user, group and policy of these names ours, whoever made them. All methods
    raise `rekeyd.errors` as `translated` does.
    """

    def __init__(
        self,
        iam: Any,
        signer: Caller,
        spec: Provisioning,
        *,
        take_over: bool = False,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        place = signer.partition, signer.account
        self._iam = iam
        self._signer = signer
        self._spec = spec
        self._take_over = take_over
        self._sleep = sleep
        self._user = _Thing(f"user {spec.user}", user_arn(*place, User(spec.user, spec.path)))
        self._group = _Thing(f"group {spec.group}", group_arn(*place, spec))
        self._policy = _Thing(f"policy {spec.policy}", policy_arn(*place, spec))
        self._tags = {**spec.tags, **MARK}

    def plan(self) -> Plan:
        """Look at IAM and return what would have to change; changes nothing.

        What is missing is made before anything superfluous is removed, so backups go on meanwhile.
        Raises `Refused` with the reason `not_ours` for what may be somebody else's.
        """
        user, policy, group = self._look_at_user(), self._look_at_policy(), self._look_at_group()
        if user:
            self._claim_user(user)
        if policy:
            self._claim_policy(policy)
        if group:
            self._claim_group(group)
        changes = [
            *(self._user_changes(user) if user else self._new_user()),
            *(self._policy_changes(policy) if policy else self._new_policy()),
            *(self._new_group() if not group else ()),
            *self._links(user, group),
            *self._extra_rights(user, group),
        ]
        untagged = [thing for thing, found in self._tagged(user, policy) if found.tags is None]
        if changes and untagged and not self._take_over:
            raise self._not_ours(untagged[0], "is in a store that keeps no tags")
        return Plan(tuple(changes), tuple(self._notices(user, policy, group)))

    def apply(self, changes: Iterable[Change]) -> Iterator[Change]:
        """Make the changes in order, and yield each when it is done.

        Consume it whole. Stopped or failed half way, a new `plan` has what is left.
        """
        for change in changes:
            change.effect()
            yield change

    # What differs

    def _new_user(self) -> list[Change]:
        bounded = f", within {self._spec.boundary}" if self._spec.boundary else ""
        what = f"create {self._user}, path {self._spec.path}, tags {_said(self._tags)}{bounded}"
        return [Change("create", what, self._create_user)]

    def _user_changes(self, user: "_User") -> list[Change]:
        changes = self._tag_changes(self._user, user.tags, self._tag_user)
        if self._spec.boundary not in {None, user.boundary}:
            was = user.boundary or "none"
            what = f"{self._user}: permissions boundary {self._spec.boundary} (was {was})"
            changes.append(Change("change", what, self._set_boundary))
        return changes

    def _new_policy(self) -> list[Change]:
        what = f"create {self._policy}, path {self._spec.path}, tags {_said(self._tags)}"
        return [Change("create", what, self._create_policy, _diff(None, self._spec.document))]

    def _policy_changes(self, policy: "_Policy") -> list[Change]:
        changes = self._tag_changes(self._policy, policy.tags, self._tag_policy)
        difference = _diff(policy.document, self._spec.document)
        if not difference:
            return changes
        if len(policy.versions) >= VERSIONS:
            oldest = next(version for version in policy.versions if version != policy.default)
            what = f"version {oldest} of {self._policy}, the oldest: IAM keeps {VERSIONS}"
            changes.append(Change("remove", what, partial(self._delete_version, oldest)))
        what = f"{self._policy}: document differs"
        return [*changes, Change("change", what, self._new_version, difference)]

    def _new_group(self) -> list[Change]:
        what = f"create {self._group}, path {self._spec.path}"
        return [Change("create", what, self._create_group)]

    def _links(self, user: "_User | None", group: "_Group | None") -> list[Change]:
        changes = []
        if not group or self._policy.arn not in group.rights.attached:
            what = f"attach {self._policy} to {self._group}"
            changes.append(Change("create", what, self._attach))
        if not user or self._spec.group not in user.groups:
            what = f"add {self._user} to {self._group}"
            changes.append(Change("create", what, self._join))
        return changes

    def _extra_rights(self, user: "_User | None", group: "_Group | None") -> list[Change]:
        changes: list[Change] = []
        if user:
            changes += self._extras("User", self._user, user.rights, ())
            for name in user.groups:
                if name != self._spec.group:
                    what = f"{self._user} from group {name}"
                    changes.append(Change("remove", what, partial(self._leave, name)))
        if group:
            changes += self._extras("Group", self._group, group.rights, (self._policy.arn,))
        return changes

    def _extras(
        self, kind: str, thing: "_Thing", rights: "_Rights", wanted: tuple[str, ...]
    ) -> list[Change]:
        attached = [
            Change("remove", f"{arn} from {thing}", partial(self._detach, kind, thing, arn))
            for arn in rights.attached
            if arn not in wanted
        ]
        inline = [
            Change(
                "remove",
                f"inline policy {name} from {thing}",
                partial(self._delete_inline, kind, thing, name),
                _diff(document, None),
            )
            for name, document in rights.inline.items()
        ]
        return attached + inline

    def _tag_changes(
        self, thing: "_Thing", has: "_Tags", effect: Callable[[dict[str, str]], None]
    ) -> list[Change]:
        if has is None:
            return []
        lacking = {key: value for key, value in self._tags.items() if has.get(key) != value}
        if not lacking:
            return []
        return [Change("change", f"{thing}: tags {_said(lacking)}", partial(effect, lacking))]

    def _notices(
        self, user: "_User | None", policy: "_Policy | None", group: "_Group | None"
    ) -> Iterator[str]:
        if self._signer.root:
            yield (
                "signed as the account's root user: provisioning works, but a role with "
                "the policy of `rekeyd policy provisioner` can do less harm"
            )
        if user and user.console:
            yield (
                f"{self._user} has a password for the console, which no backup needs: "
                f"`aws iam delete-login-profile --user-name {self._spec.user}` takes it away"
            )
        if user and user.boundary and not self._spec.boundary:
            yield (
                f"{self._user} has the permissions boundary {user.boundary}, which the "
                "configuration does not name; it stays, since without it the user could do more"
            )
        others = sorted(group.members - self._ours) if group else []
        if others:
            yield f"{self._group} has more members, who may use the bucket too: {', '.join(others)}"
        places = [found.rights.attached for found in (user, group) if found]
        elsewhere = (policy.attachments if policy else 0) - sum(
            self._policy.arn in attached for attached in places
        )
        if elsewhere > 0:
            where = "place, which gets" if elsewhere == 1 else "places, which get"
            yield f"{self._policy} is attached in {elsewhere} other {where} its rights"

    # Whose it is

    @property
    def _ours(self) -> frozenset[str]:
        return self._spec.peers | {self._spec.user}

    def _claim_user(self, user: "_User") -> None:
        self._check_path(self._user, user.path)
        self._check_tag(self._user, user.tags)

    def _claim_policy(self, policy: "_Policy") -> None:
        self._check_tag(self._policy, policy.tags)

    def _claim_group(self, group: "_Group") -> None:
        """Accept a group that has our policy, which was claimed, or serves our users alone."""
        self._check_path(self._group, group.path)
        rights = group.rights
        empty = not (group.members or rights.attached or rights.inline)
        serves_us = bool(group.members) and group.members <= self._ours
        if self._policy.arn in rights.attached or empty or serves_us or self._take_over:
            return
        what = "other members" if group.members - self._ours else "other policies"
        raise self._not_ours(self._group, f"has {what}")

    def _tagged(
        self, user: "_User | None", policy: "_Policy | None"
    ) -> "Iterator[tuple[_Thing, _User | _Policy]]":
        """What of ours exists and can have a tag."""
        if user:
            yield self._user, user
        if policy:
            yield self._policy, policy

    def _check_tag(self, thing: "_Thing", tags: "_Tags") -> None:
        if tags is not None and not self._take_over and not MARK.items() <= tags.items():
            raise self._not_ours(thing, f"lacks the tag {_said(MARK)}")

    def _check_path(self, thing: "_Thing", path: str) -> None:
        if path != self._spec.path:
            raise Refused(
                f"{thing} exists with the path {path} instead of {self._spec.path}, "
                "so the policies of rekeyd would not match it; nothing was changed",
                f"set the path to {path} in the configuration, or choose another name",
                reason="not_ours",
            )

    def _not_ours(self, thing: "_Thing", why: str) -> Refused:
        return Refused(
            f"{thing} exists and {why}, so it may be somebody else's; nothing was changed",
            "choose another name, or run `rekeyd provision --take-over` to make it rekeyd's; "
            "without `group` and `policy` rekeyd leaves it alone and rotates the user's keys only",
            reason="not_ours",
        )

    # What IAM has

    def _look_at_user(self) -> "_User | None":
        return _unless_gone(self._read_user)

    def _look_at_policy(self) -> "_Policy | None":
        return _unless_gone(self._read_policy)

    def _look_at_group(self) -> "_Group | None":
        return _unless_gone(self._read_group)

    def _read_user(self) -> "_User":
        name = {"UserName": self._spec.user}
        found = self._read("GetUser", self._user, **name)["User"]
        groups = self._pages("ListGroupsForUser", self._user, "Groups", **name)
        return _User(
            path=found.get("Path", "/"),
            tags=self._read_tags(found, "ListUserTags", self._user, **name),
            boundary=found.get("PermissionsBoundary", {}).get("PermissionsBoundaryArn"),
            groups=tuple(group["GroupName"] for group in groups),
            console=self._has_password(name),
            rights=self._rights("User", self._user, name),
        )

    def _read_policy(self) -> "_Policy":
        arn = {"PolicyArn": self._policy.arn}
        found = self._read("GetPolicy", self._policy, **arn)["Policy"]
        default = found["DefaultVersionId"]
        versions = self._pages("ListPolicyVersions", self._policy, "Versions", **arn)
        document = self._read("GetPolicyVersion", self._policy, VersionId=default, **arn)
        return _Policy(
            tags=self._read_tags(found, "ListPolicyTags", self._policy, **arn),
            default=default,
            versions=tuple(sorted((v["VersionId"] for v in versions), key=_version_number)),
            document=document["PolicyVersion"]["Document"],
            attachments=found.get("AttachmentCount", 0),
        )

    def _read_group(self) -> "_Group":
        name = {"GroupName": self._spec.group}
        found = self._read("GetGroup", self._group, **name)["Group"]
        members = self._pages("GetGroup", self._group, "Users", **name)
        return _Group(
            path=found.get("Path", "/"),
            members=frozenset(member["UserName"] for member in members),
            rights=self._rights("Group", self._group, name),
        )

    def _has_password(self, name: dict[str, str]) -> bool:
        try:
            self._read("GetLoginProfile", self._user, **name)
        except Refused as refusal:
            if refusal.reason not in {"missing", "unsupported"}:
                raise
            return False
        return True

    def _read_tags(
        self, found: Mapping[str, Any], operation: str, thing: "_Thing", **given: Any
    ) -> "_Tags":
        """Return its tags, for which some stores want to be asked apart."""
        if "Tags" in found:
            return _tags(found)
        try:
            return _tags(self._read(operation, thing, **given))
        except Refused as refusal:
            if refusal.reason not in {"permission", "unsupported"}:
                raise
            return None if refusal.reason == "unsupported" else {}

    def _rights(self, kind: str, thing: "_Thing", name: dict[str, str]) -> "_Rights":
        attached = self._pages(f"ListAttached{kind}Policies", thing, "AttachedPolicies", **name)
        inline = self._pages(f"List{kind}Policies", thing, "PolicyNames", **name)
        return _Rights(
            attached=tuple(policy["PolicyArn"] for policy in attached),
            inline={
                policy: self._read(f"Get{kind}Policy", thing, PolicyName=policy, **name)[
                    "PolicyDocument"
                ]
                for policy in inline
            },
        )

    # Effects, one call each

    def _create_user(self) -> None:
        boundary = {"PermissionsBoundary": self._spec.boundary} if self._spec.boundary else {}
        given = {"UserName": self._spec.user, "Path": self._spec.path, **boundary}
        call = partial(self._call, "create", "CreateUser", self._user, Tags=self._tag_list, **given)

        def make() -> None:
            if "Tags" not in call()["User"]:
                self._tag_forgetful()

        if not self._made(partial(self._within_boundary, make)):
            self._claim_user(self._patiently(self._read_user))

    def _tag_forgetful(self) -> None:
        """Tag the new user of a store that forgot its tags, or keeps none at all."""
        try:
            self._patiently(partial(self._tag_user, self._tags))
        except Refused as refusal:
            if refusal.reason != "unsupported":
                raise

    def _create_policy(self) -> None:
        make = partial(
            self._call,
            "create",
            "CreatePolicy",
            self._policy,
            PolicyName=self._spec.policy,
            Path=self._spec.path,
            PolicyDocument=json.dumps(self._spec.document),
            Tags=self._tag_list,
        )
        if self._made(make):
            return
        try:
            self._claim_policy(self._patiently(self._read_policy))
        except Gone:
            raise Refused(
                f"a policy named {self._spec.policy} exists with another path than "
                f"{self._spec.path}, so it may be somebody else's; it was not changed",
                "choose another name, or the path that it has",
                reason="not_ours",
            ) from None

    def _create_group(self) -> None:
        given = {"GroupName": self._spec.group, "Path": self._spec.path}
        if not self._made(partial(self._call, "create", "CreateGroup", self._group, **given)):
            self._claim_group(self._patiently(self._read_group))

    def _set_boundary(self) -> None:
        given = {"UserName": self._spec.user, "PermissionsBoundary": self._spec.boundary}
        self._within_boundary(
            partial(self._call, "bound", "PutUserPermissionsBoundary", self._user, **given)
        )

    def _tag_user(self, tags: dict[str, str]) -> None:
        given = {"UserName": self._spec.user, "Tags": _tag_list(tags)}
        self._call("tag", "TagUser", self._user, **given)

    def _tag_policy(self, tags: dict[str, str]) -> None:
        given = {"PolicyArn": self._policy.arn, "Tags": _tag_list(tags)}
        self._call("tag", "TagPolicy", self._policy, **given)

    def _new_version(self) -> None:
        self._call(
            "change",
            "CreatePolicyVersion",
            self._policy,
            PolicyArn=self._policy.arn,
            PolicyDocument=json.dumps(self._spec.document),
            SetAsDefault=True,
        )

    def _attach(self) -> None:
        given = {"GroupName": self._spec.group, "PolicyArn": self._policy.arn}
        what = f"attach {self._policy} to"
        self._patiently(partial(self._call, what, "AttachGroupPolicy", self._group, **given))

    def _join(self) -> None:
        given = {"GroupName": self._spec.group, "UserName": self._spec.user}
        what = f"add {self._user} to"
        self._patiently(partial(self._call, what, "AddUserToGroup", self._group, **given))

    def _delete_version(self, version: str) -> None:
        given = {"PolicyArn": self._policy.arn, "VersionId": version}
        with suppress(Gone):
            self._call(f"delete {version} of", "DeletePolicyVersion", self._policy, **given)

    def _detach(self, kind: str, thing: "_Thing", arn: str) -> None:
        given = {f"{kind}Name": thing.name, "PolicyArn": arn}
        with suppress(Gone):
            self._call(f"detach {arn} from", f"Detach{kind}Policy", thing, **given)

    def _delete_inline(self, kind: str, thing: "_Thing", name: str) -> None:
        given = {f"{kind}Name": thing.name, "PolicyName": name}
        with suppress(Gone):
            self._call(f"delete inline policy {name} of", f"Delete{kind}Policy", thing, **given)

    def _leave(self, group: str) -> None:
        given = {"GroupName": group, "UserName": self._spec.user}
        other = _Thing(f"group {group}", f"group/{group}")
        try:
            self._call(f"take {self._user} out of", "RemoveUserFromGroup", other, **given)
        except Gone:
            return
        except Refused as refusal:
            if refusal.reason != "permission":
                raise
            raise Refused(
                str(refusal),
                "let whoever administers that group do it: `rekeyd policy provisioner` does not "
                "grant it, since IAM would then allow it for every user of the group",
            ) from None

    # Calls

    @property
    def _tag_list(self) -> list[dict[str, str]]:
        return _tag_list(self._tags)

    def _read(self, operation: str, thing: "_Thing", **given: Any) -> dict[str, Any]:
        return self._call("look at", operation, thing, **given)

    def _pages(self, operation: str, thing: "_Thing", key: str, **given: Any) -> list[Any]:
        paginator = self._iam.get_paginator(xform_name(operation))
        with self._translated("look at", operation, thing):
            return [item for page in paginator.paginate(**given) for item in page[key]]

    def _call(self, verb: str, operation: str, thing: "_Thing", **given: Any) -> dict[str, Any]:
        with self._translated(verb, operation, thing):
            answer: dict[str, Any] = getattr(self._iam, xform_name(operation))(**given)
            return answer

    def _translated(
        self, verb: str, operation: str, thing: "_Thing"
    ) -> AbstractContextManager[None]:
        return translated(f"{verb} {thing}", f"iam:{operation}", thing.arn, PARTY)

    def _made(self, make: Callable[[], object]) -> bool:
        """Make something; False when it exists by now, by another hand or by a repeated request."""
        try:
            make()
        except Refused as refusal:
            if refusal.reason != "exists":
                raise
            return False
        return True

    def _within_boundary(self, call: Callable[[], object]) -> None:
        try:
            call()
        except Gone:
            raise Refused(
                f"the permissions boundary {self._spec.boundary} does not exist, "
                f"so {self._user} was left as it is",
                "create that policy first, or correct `boundary` in the configuration",
                reason="missing",
            ) from None

    def _patiently(self, call: Callable[[], T]) -> T:
        """Call until IAM knows what was made a moment ago, for `PATIENCE` seconds at most."""
        wait, waited = 0.5, 0.0
        while True:
            try:
                return call()
            except Gone:
                if waited >= PATIENCE:
                    raise
            wait = min(wait, PATIENCE - waited)
            self._sleep(wait)
            waited += wait
            wait *= 2


@dataclass(frozen=True, slots=True)
class _Thing:
    """An object of IAM: as people read it, and its ARN."""

    label: str
    arn: str

    def __str__(self) -> str:
        return self.label

    @property
    def name(self) -> str:
        return self.label.partition(" ")[2]


_Tags = Mapping[str, str] | None
"""Tags by their names; None where the store keeps none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rights:
    attached: tuple[str, ...]
    inline: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _User:
    path: str
    tags: _Tags
    boundary: str | None
    groups: tuple[str, ...]
    console: bool
    rights: _Rights


@dataclass(frozen=True, slots=True, kw_only=True)
class _Group:
    path: str
    members: frozenset[str]
    rights: _Rights


@dataclass(frozen=True, slots=True, kw_only=True)
class _Policy:
    tags: _Tags
    default: str
    versions: tuple[str, ...]  # oldest first
    document: Any
    attachments: int


def _unless_gone(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except Gone:
        return None


def _tags(found: Mapping[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in found.get("Tags", [])}


def _tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def _said(tags: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in tags.items())


def _version_number(version: str) -> int:
    return int(version.removeprefix("v"))


def _diff(has: Any, wanted: Any) -> tuple[str, ...]:
    names = "IAM", "configuration"
    lines = difflib.unified_diff(_lines(has), _lines(wanted), *names, lineterm="")
    return tuple(lines)


def _lines(document: Any) -> list[str]:
    if document is None:
        return []
    text = json.dumps(canonical(document), indent=2, sort_keys=True)
    return text.splitlines()
