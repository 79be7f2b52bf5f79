"""`provision` and `policy`: what IAM must know before anything can be rotated."""

import json
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import click

from rekeyd import policy as documents
from rekeyd.assemble import shared_account
from rekeyd.commands import print_json
from rekeyd.config import IdentitySettings, Settings
from rekeyd.errors import Misconfigured, RekeydError
from rekeyd.exits import CHANGES, DONE

if TYPE_CHECKING:
    from rekeyd.provision import Change

COLOURS = {"create": "green", "change": "yellow", "remove": "red"}


def provision(settings: Settings, dry_run: bool, take_over: bool, as_json: bool) -> int:
    """Bring every identity with a group and a policy to what the configuration says."""
    from rekeyd.provision import UNKNOWN, Caller, Provisioner  # noqa: PLC0415 (imports boto3's part)

    told, changed = [], 0
    accounts: dict[str, Any] = {}
    foreseen: set[tuple[Any, Change]] = set()
    for identity in settings.identities:
        if not identity.provisioned_here:
            missing = [
                f"no `{name}`" for name in ("group", "policy") if not getattr(identity, name)
            ]
            _say(as_json, f"{identity.name}: has {' and '.join(missing)}: provisioned elsewhere")
            continue
        account = shared_account(accounts, identity.aws, lambda *_: None)
        with closing(account.client("iam")) as iam:
            arn = account.caller()
            signer = Caller(arn) if arn else UNKNOWN
            spec = _spec(settings, identity, signer.partition)
            provisioner = Provisioner(iam, signer, spec, take_over=take_over)
            plan = provisioner.plan()
            for notice in plan.notices:
                _say(as_json, click.style(f"{identity.name}: note: {notice}", fg="yellow"))
            # What identities share, as a group, is made with the first of them.
            changes = [c for c in plan.changes if (account, c) not in foreseen]
            if dry_run:
                foreseen.update((account, change) for change in changes)
            for change in changes:
                _say(as_json, click.style(change.text, fg=COLOURS[change.action]))
            if not changes:
                _say(as_json, f"{identity.name}: nothing to change")
            changed += len(changes)
            done = 0 if dry_run else sum(1 for _ in provisioner.apply(changes))
            if done:
                _say(as_json, f"{identity.name}: {done} changes made")
        told.append(
            {
                "identity": identity.name,
                "changes": [change.data() for change in changes],
                "notices": list(plan.notices),
                "made": done,
            }
        )
    if as_json:
        print_json({"dry_run": dry_run, "provisioned": told})
    return CHANGES if dry_run and changed else DONE


def policy(settings: Settings, party: str) -> int:
    """Print the least policy of a party."""
    partition = _partition(settings)
    specs = [_spec(settings, i, partition) for i in settings.identities if i.provisioned_here]
    match party:
        case "rotator":
            users = [documents.User(i.user, i.path) for i in settings.identities]
            grants = [
                g for i in settings.identities for s in i.sinks for g in s.permissions(partition)
            ]
            shown = documents.rotator_document(partition, users, grants)
        case "provisioner":
            shown = documents.provisioner_document(partition, specs)
        case _:
            shown = _backup(settings, partition)
    click.echo(json.dumps(shown, indent=2))
    return DONE


def _backup(settings: Settings, partition: str) -> Any:
    found = [_document(i, partition) for i in settings.identities if i.policy]
    if not found:
        raise Misconfigured(
            "no identity has a `policy`, so its rights are decided elsewhere",
            "give the identity a `policy` with its bucket",
        )
    statements = [statement for document in found for statement in document["Statement"]]
    return {
        **found[0],
        "Statement": [s for n, s in enumerate(statements) if s not in statements[:n]],
    }


def _spec(settings: Settings, identity: IdentitySettings, partition: str) -> documents.Provisioning:
    assert identity.group and identity.policy  # noqa: S101, PT018 (callers choose those)
    shared = [
        other
        for other in settings.identities
        if (other.group, other.aws) == (identity.group, identity.aws)
    ]
    return documents.Provisioning(
        user=identity.user,
        group=identity.group,
        policy=identity.policy.name,
        document=_document(identity, partition),
        path=identity.path,
        boundary=identity.policy.boundary,
        peers=frozenset(other.user for other in shared) - {identity.user},
    )


def _document(identity: IdentitySettings, partition: str) -> Any:
    wanted = identity.policy
    assert wanted  # noqa: S101 (callers choose identities with a policy)
    return documents.backup_document(partition, wanted.bucket, wanted.prefix, wanted.preset)


def _partition(settings: Settings) -> str:
    """Tell the partition from the region; ask nobody, so that a policy can be printed anywhere."""
    region = settings.aws.region or next((i.aws.region for i in settings.identities), None)
    if not region:
        with suppress(RekeydError):
            region = shared_account({}, settings.aws, lambda *_: None).region
    return documents.partition(region or "us-east-1")


def _say(as_json: bool, text: str) -> None:
    if not as_json:
        click.echo(text)
