"""The documents are exact: a right that nobody asked for fails a test."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rekeyd.errors import Misconfigured
from rekeyd.policy import (
    PRESETS,
    Grant,
    Provisioning,
    User,
    backup_document,
    canonical,
    document,
    partition,
    provisioner_document,
    rotator_document,
)

SPEC = Provisioning(
    user="backup_user",
    group="backup_group",
    policy="S3BackupPolicy",
    path="/backup/",
    document=backup_document("aws", "backup-bucket"),
)


def allowed(doc):
    """Every action with the resource that it is allowed on, and its condition."""
    found = {}
    for statement in doc["Statement"]:
        assert statement["Effect"] == "Allow"
        resources = statement["Resource"]
        for resource in [resources] if isinstance(resources, str) else resources:
            for action in statement["Action"]:
                found[action, resource] = statement.get("Condition")
    return found


@pytest.mark.parametrize(
    ("region", "expected"),
    [
        ("us-east-1", "aws"),
        ("eu-central-1", "aws"),
        ("mx-central-1", "aws"),
        ("aws-global", "aws"),
        ("cn-northwest-1", "aws-cn"),
        ("us-gov-west-1", "aws-us-gov"),
        ("us-iso-east-1", "aws-iso"),
        ("us-isob-east-1", "aws-iso-b"),
        ("eu-isoe-west-1", "aws-iso-e"),
        ("us-isof-south-1", "aws-iso-f"),
        ("eusc-de-east-1", "aws-eusc"),
    ],
)
def test_a_region_tells_its_partition(region, expected):
    assert partition(region) == expected


def test_partitions_agree_with_botocore_for_every_region_it_knows():
    import botocore.session

    session = botocore.session.get_session()
    for name in session.get_available_partitions():
        for region in session.get_available_regions("s3", partition_name=name):
            assert partition(region) == name


def test_without_a_preset_the_backup_user_may_do_exactly_three_things():
    assert backup_document("aws", "backup-bucket") == {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Action": ["s3:DeleteObject", "s3:GetObject", "s3:PutObject"],
                "Resource": "arn:aws:s3:::backup-bucket/*",
            }
        ],
    }


@pytest.mark.parametrize("prefix", ["hosts/web", "/hosts/web/", "hosts/web/"])
def test_a_prefix_narrows_it_and_the_partition_is_the_regions(prefix):
    doc = backup_document("aws-cn", "b-1", prefix)
    assert doc["Statement"][0]["Resource"] == "arn:aws-cn:s3:::b-1/hosts/web/*"
    assert "arn:aws:" not in json.dumps(doc)


@pytest.mark.parametrize("prefix", [None, "", "/"])
def test_an_empty_prefix_is_none(prefix):
    assert backup_document("aws", "bucket", prefix) == backup_document("aws", "bucket")


@pytest.mark.parametrize("preset", PRESETS)
def test_no_preset_reaches_beyond_its_bucket_or_grants_a_wild_card(preset):
    for action, resource in allowed(backup_document("aws", "bucket", None, preset)):
        assert "*" not in action
        assert resource == "arn:aws:s3:::bucket" or resource.startswith("arn:aws:s3:::bucket/")
        assert action != "s3:DeleteObjectVersion"


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_with_a_prefix_lists_below_the_prefix_only(preset):
    rights = allowed(backup_document("aws", "bucket", "hosts", preset))
    operator = "StringLikeIfExists" if preset == "duplicity" else "StringLike"
    within = {operator: {"s3:prefix": "hosts/*"}}
    assert rights.pop(("s3:ListBucket", "arn:aws:s3:::bucket")) == within
    rights.pop(("s3:GetBucketLocation", "arn:aws:s3:::bucket"), None)
    assert all(resource.startswith("arn:aws:s3:::bucket/hosts/") for _, resource in rights)


@pytest.mark.parametrize("preset", [p for p in PRESETS if p != "append-only"])
def test_a_tools_preset_still_covers_put_get_and_delete(preset):
    everywhere = "arn:aws:s3:::bucket/*"
    rights = allowed(backup_document("aws", "bucket", None, preset))
    assert {(f"s3:{verb}Object", everywhere) for verb in ("Put", "Get", "Delete")} <= rights.keys()
    assert rights["s3:ListBucket", "arn:aws:s3:::bucket"] is None


@pytest.mark.parametrize(
    ("prefix", "top"), [(None, "arn:aws:s3:::bucket/"), ("hosts", "arn:aws:s3:::bucket/hosts/")]
)
def test_append_only_deletes_nothing_but_the_probes_of_rekeyd_and_the_locks_of_restic(prefix, top):
    rights = allowed(backup_document("aws", "bucket", prefix, "append-only"))
    assert {key for key in rights if "Delete" in key[0]} == {
        ("s3:DeleteObject", f"{top}.rekeyd/*"),
        ("s3:DeleteObject", f"{top}locks/*"),
    }


@pytest.mark.parametrize("preset", PRESETS)
def test_an_acl_may_be_private_and_nothing_else(preset):
    rights = allowed(backup_document("aws", "bucket", None, preset))
    conditions = [condition for (action, _), condition in rights.items() if "Acl" in action]
    private = {"StringEquals": {"s3:x-amz-acl": "private"}}
    assert conditions == ([private] if preset in ("rclone", "append-only") else [])


@pytest.mark.parametrize("prefix", ["a*", "a?b", "${aws:username}"])
def test_a_prefix_that_iam_would_read_as_a_wild_card_is_refused(prefix):
    with pytest.raises(Misconfigured, match="wild card"):
        backup_document("aws", "bucket", prefix)


@pytest.mark.parametrize("bucket", ["", "*", "b", "a/b", "arn:aws:s3:::b", "s3://b", "b" * 256])
def test_what_is_no_bucket_name_is_refused(bucket):
    with pytest.raises(Misconfigured, match="not the name of a bucket"):
        backup_document("aws", bucket)


def test_an_unknown_preset_is_refused_and_the_known_ones_are_named():
    with pytest.raises(Misconfigured, match="no policy preset 'borg'") as caught:
        backup_document("aws", "bucket", None, "borg")
    assert all(preset in caught.value.do for preset in PRESETS)


def test_the_rotator_handles_the_keys_of_exactly_its_users():
    doc = rotator_document("aws-us-gov", [User("a"), User("b", "/backup/")], account="123456789012")
    assert doc["Statement"] == [
        {
            "Effect": "Allow",
            "Action": [
                "iam:CreateAccessKey",
                "iam:DeleteAccessKey",
                "iam:GetAccessKeyLastUsed",
                "iam:GetUser",
                "iam:ListAccessKeys",
                "iam:UpdateAccessKey",
            ],
            "Resource": [
                "arn:aws-us-gov:iam::123456789012:user/a",
                "arn:aws-us-gov:iam::123456789012:user/backup/b",
            ],
        }
    ]


def test_an_unknown_account_is_left_open_but_the_user_is_not():
    (resource,) = {resource for _, resource in allowed(rotator_document("aws", [User("a")]))}
    assert resource == "arn:aws:iam::*:user/a"


def test_sinks_add_what_they_need_to_the_rotator():
    secret = "arn:aws:secretsmanager:us-east-1:*:secret:backup/s3-??????"
    grant = Grant(["secretsmanager:PutSecretValue"], secret)
    rights = allowed(rotator_document("aws", [User("a")], [grant, grant]))
    assert ("secretsmanager:PutSecretValue", secret) in rights
    assert len(rights) == 7


def test_the_provisioner_reaches_its_own_objects_and_no_access_key():
    rights = allowed(provisioner_document("aws", [SPEC], "123456789012"))
    base = "arn:aws:iam::123456789012:"
    assert {resource for _, resource in rights} == {
        f"{base}user/backup/backup_user",
        f"{base}group/backup/backup_group",
        f"{base}policy/backup/S3BackupPolicy",
    }
    assert not [action for action, _ in rights if "AccessKey" in action or "Role" in action]
    attach = rights["iam:AttachGroupPolicy", f"{base}group/backup/backup_group"]
    assert attach == {"ArnEquals": {"iam:PolicyARN": f"{base}policy/backup/S3BackupPolicy"}}
    assert rights["iam:CreateUser", f"{base}user/backup/backup_user"] is None


def test_with_a_boundary_the_provisioner_makes_users_within_it_only():
    boundary = "arn:aws:iam::123456789012:policy/edge"
    spec = Provisioning(user="u", group="g", policy="p", document={}, boundary=boundary)
    rights = allowed(provisioner_document("aws", [spec]))
    within = {"StringEquals": {"iam:PermissionsBoundary": boundary}}
    assert rights["iam:CreateUser", "arn:aws:iam::*:user/u"] == within
    assert rights["iam:PutUserPermissionsBoundary", "arn:aws:iam::*:user/u"] == within


def test_grants_that_differ_in_the_resource_only_are_one_statement():
    doc = document(
        [
            Grant(["b:Two", "a:One"], "x"),
            Grant(["a:One", "b:Two"], "y"),
            Grant(["a:One", "b:Two"], "y"),
            Grant(["a:One", "b:Two"], "z", {"Bool": {"c": "true"}}),
        ]
    )
    assert doc["Statement"] == [
        {"Effect": "Allow", "Action": ["a:One", "b:Two"], "Resource": ["x", "y"]},
        {
            "Effect": "Allow",
            "Action": ["a:One", "b:Two"],
            "Resource": "z",
            "Condition": {"Bool": {"c": "true"}},
        },
    ]


@given(st.data())
def test_order_and_lists_of_one_do_not_change_what_a_document_means(data):
    doc = backup_document("aws", "bucket", "p", "s3cmd")
    shuffled = json.loads(json.dumps(doc))
    shuffled["Statement"] = data.draw(st.permutations(shuffled["Statement"]))
    for statement in shuffled["Statement"]:
        statement["Action"] = data.draw(st.permutations(statement["Action"]))
        statement["Resource"] = [statement["Resource"]]
    assert canonical(shuffled) == canonical(doc)


def test_another_right_is_another_document():
    assert canonical(backup_document("aws", "b-1")) != canonical(backup_document("aws", "b-2"))
