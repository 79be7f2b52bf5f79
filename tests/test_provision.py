"""Provisioning against moto's IAM. Boundaries, delays and denials, which moto lacks, are added."""

import itertools
import json
from types import SimpleNamespace

import boto3
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from moto import mock_aws

from rekeyd.errors import Gone, Refused, Transient, Unanswered
from rekeyd.policy import Provisioning, backup_document, provisioner_document
from rekeyd.provision import UNKNOWN, Caller, Provisioner

SESSION = boto3.Session("testing", "testing", region_name="us-east-1")
"""One for all: a session reads the service descriptions once, in a third of a second."""

USER, GROUP, POLICY = "backup_user", "backup_group", "S3BackupPolicy"
SIGNER = Caller("arn:aws:iam::123456789012:user/admin")
POLICY_ARN = f"arn:aws:iam::123456789012:policy/{POLICY}"
BOUNDARY = "arn:aws:iam::123456789012:policy/edge"
OURS = [{"Key": "managed-by", "Value": "rekeyd"}]
WANTED = backup_document("aws", "backup-bucket")
OTHER = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": ["s3:ListBucket"], "Resource": "arn:aws:s3:::b"}],
}


def spec(**changes):
    return Provisioning(user=USER, group=GROUP, policy=POLICY, **({"document": WANTED} | changes))


class Cloud:
    """moto's IAM, with permissions boundaries, and calls that fail as a test says."""

    def __init__(self):
        self.iam, self.sts = SESSION.client("iam"), SESSION.client("sts")
        self.calls, self.waits, self.boundaries = [], [], {}
        events = self.iam.meta.events
        events.register("provide-client-params.iam.*", self._note)
        events.register("after-call.iam.GetUser", self._show_boundary)
        events.register("before-call.iam.PutUserPermissionsBoundary", lambda **_: answer({}))

    def _note(self, params, model, **_):
        self.calls.append(model.name)
        if "PermissionsBoundary" in params:
            self.boundaries[params["UserName"]] = params["PermissionsBoundary"]

    def _show_boundary(self, parsed, **_):
        user = parsed.get("User", {})
        if user.get("UserName") in self.boundaries:
            arn = self.boundaries[user["UserName"]]
            user["PermissionsBoundary"] = {"PermissionsBoundaryArn": arn}

    def fail(self, operation, code, status=400, times=None, text=""):
        """Let the next `times` calls of an operation fail; all of them if left out."""
        left = itertools.count() if times is None else iter(range(times))

        def failing(**_):
            if next(left, None) is None:
                return None
            return answer({"Error": {"Code": code, "Message": text}}, status)

        self.iam.meta.events.register_first(f"before-call.iam.{operation}", failing)

    def provisioner(self, wanted=None, signer=SIGNER, take_over=False):
        return Provisioner(
            self.iam, signer, wanted or spec(), take_over=take_over, sleep=self.waits.append
        )

    def plan(self, wanted=None, **more):
        return self.provisioner(wanted, **more).plan()

    def provision(self, wanted=None, **more):
        provisioner = self.provisioner(wanted, **more)
        return list(provisioner.apply(provisioner.plan().changes))

    def rights(self):
        """What the user can do in the end: documents of the group's and its own policies."""
        groups = self.iam.list_groups_for_user(UserName=USER)["Groups"]
        attached = self.iam.list_attached_user_policies(UserName=USER)["AttachedPolicies"]
        inline = self.iam.list_user_policies(UserName=USER)["PolicyNames"]
        for group in groups:
            name = {"GroupName": group["GroupName"]}
            attached += self.iam.list_attached_group_policies(**name)["AttachedPolicies"]
            inline += self.iam.list_group_policies(**name)["PolicyNames"]
        return [self.document(policy["PolicyArn"]) for policy in attached] + inline

    def document(self, arn):
        version = self.iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
        found = self.iam.get_policy_version(PolicyArn=arn, VersionId=version)
        return found["PolicyVersion"]["Document"]

    def make_policy(self, name="Elsewhere", document=OTHER, **more):
        text = json.dumps(document)
        return self.iam.create_policy(PolicyName=name, PolicyDocument=text, **more)["Policy"]["Arn"]


def answer(parsed, status=200):
    parsed["ResponseMetadata"] = {"HTTPStatusCode": status, "HTTPHeaders": {}}
    return SimpleNamespace(status_code=status, headers={}, content=b""), parsed


@pytest.fixture
def cloud():
    with mock_aws():
        yield Cloud()


def texts(changes):
    return [change.text.splitlines()[0] for change in changes]


# What is made


def test_everything_is_made_from_nothing_and_a_second_run_changes_nothing(cloud):
    done = cloud.provision()
    assert texts(done) == [
        "+ create user backup_user, path /, tags managed-by=rekeyd",
        "+ create policy S3BackupPolicy, path /, tags managed-by=rekeyd",
        "+ create group backup_group, path /",
        "+ attach policy S3BackupPolicy to group backup_group",
        "+ add user backup_user to group backup_group",
    ]
    assert cloud.rights() == [WANTED]
    assert cloud.plan().changes == ()
    assert cloud.plan().notices == ()


def test_a_plan_changes_nothing(cloud):
    cloud.plan()
    assert not [call for call in cloud.calls if not call.startswith(("Get", "List"))]


def test_the_plan_shows_the_whole_document_that_will_be_granted(cloud):
    create = next(c for c in cloud.plan().changes if "create policy" in c.what)
    assert any("arn:aws:s3:::backup-bucket/*" in line for line in create.diff)
    assert all(line.startswith(("+", "---", "@@")) for line in create.diff)
    assert create.data()["action"] == "create"
    assert json.loads(json.dumps(create.data()))["diff"] == list(create.diff)


def test_path_tags_and_boundary_are_made_as_asked(cloud):
    wanted = spec(path="/backup/", tags={"team": "storage"}, boundary=BOUNDARY)
    cloud.provision(wanted)
    user = cloud.iam.get_user(UserName=USER)["User"]
    assert user["Arn"] == "arn:aws:iam::123456789012:user/backup/backup_user"
    assert {tag["Key"]: tag["Value"] for tag in user["Tags"]} == {
        "team": "storage",
        "managed-by": "rekeyd",
    }
    assert cloud.boundaries == {USER: BOUNDARY}
    assert cloud.plan(wanted).changes == ()


def test_access_keys_are_never_touched(cloud):
    cloud.provision()
    cloud.provision(spec(document=OTHER))
    assert not [call for call in cloud.calls if "AccessKey" in call]


def test_the_account_and_partition_are_those_of_the_signer(cloud):
    signer = Caller(cloud.sts.get_caller_identity()["Arn"])
    assert (signer.partition, signer.account, signer.root) == ("aws", "123456789012", False)
    assert Caller("arn:aws-cn:iam::123456789012:root").root
    assert Caller("arn:aws-us-gov:iam::1:user/a").partition == "aws-us-gov"


# Drift


def change_document(cloud):
    cloud.iam.create_policy_version(
        PolicyArn=POLICY_ARN, PolicyDocument=json.dumps(OTHER), SetAsDefault=True
    )


def fill_versions(cloud):
    while len(cloud.iam.list_policy_versions(PolicyArn=POLICY_ARN)["Versions"]) < 5:
        change_document(cloud)


def add_inline_to_user(cloud):
    cloud.iam.put_user_policy(UserName=USER, PolicyName="more", PolicyDocument=json.dumps(OTHER))


def add_inline_to_group(cloud):
    cloud.iam.put_group_policy(GroupName=GROUP, PolicyName="more", PolicyDocument=json.dumps(OTHER))


def attach_to_user(cloud):
    cloud.iam.attach_user_policy(UserName=USER, PolicyArn=cloud.make_policy("OnUser"))


def attach_to_group(cloud):
    cloud.iam.attach_group_policy(GroupName=GROUP, PolicyArn=cloud.make_policy("OnGroup"))


def attach_ours_to_user(cloud):
    cloud.iam.attach_user_policy(UserName=USER, PolicyArn=POLICY_ARN)


def join_another_group(cloud):
    cloud.iam.create_group(GroupName="admins")
    cloud.iam.add_user_to_group(GroupName="admins", UserName=USER)


def leave_the_group(cloud):
    cloud.iam.remove_user_from_group(GroupName=GROUP, UserName=USER)


def detach_ours(cloud):
    cloud.iam.detach_group_policy(GroupName=GROUP, PolicyArn=POLICY_ARN)


def lose_a_tag(cloud):
    cloud.iam.untag_user(UserName=USER, TagKeys=["team"])


def lose_the_policys_tag(cloud):
    cloud.iam.untag_policy(PolicyArn=POLICY_ARN, TagKeys=["team"])


def lose_the_boundary(cloud):
    cloud.boundaries.clear()


def change_the_boundary(cloud):
    cloud.boundaries[USER] = BOUNDARY + "2"


DRIFTS = [
    change_document,
    fill_versions,
    add_inline_to_user,
    add_inline_to_group,
    attach_to_user,
    attach_to_group,
    attach_ours_to_user,
    join_another_group,
    leave_the_group,
    lose_a_tag,
    lose_the_policys_tag,
    lose_the_boundary,
    change_the_boundary,
]
FULL = spec(tags={"team": "storage"}, boundary=BOUNDARY)


def converged(cloud):
    return (
        cloud.plan(FULL).changes == ()
        and cloud.rights() == [WANTED]
        and cloud.boundaries == {USER: BOUNDARY}
    )


@pytest.mark.parametrize("drift", [*DRIFTS, detach_ours])
def test_each_drift_is_seen_and_mended(cloud, drift):
    cloud.provision(FULL)
    drift(cloud)
    assert cloud.plan(FULL).changes
    cloud.provision(FULL)
    assert converged(cloud)


@settings(
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    drifts=st.lists(st.sampled_from(DRIFTS), unique=True),
    stops=st.lists(st.integers(0, 12), max_size=3),
)
def test_from_any_drift_and_however_often_interrupted_the_end_is_the_same(drifts, stops):
    with mock_aws():
        cloud = Cloud()
        cloud.provision(FULL)
        for drift in sorted(drifts, key=DRIFTS.index):
            drift(cloud)
        for stop in stops:
            provisioner = cloud.provisioner(FULL)
            list(itertools.islice(provisioner.apply(provisioner.plan().changes), stop))
        cloud.provision(FULL)
        assert converged(cloud)


@pytest.mark.parametrize("stop", range(6))
def test_an_interrupted_first_run_is_finished_by_the_next(cloud, stop):
    provisioner = cloud.provisioner(FULL)
    list(itertools.islice(provisioner.apply(provisioner.plan().changes), stop))
    assert len(cloud.plan(FULL).changes) == 5 - stop
    cloud.provision(FULL)
    assert converged(cloud)


def test_a_document_changed_by_hand_is_shown_as_a_diff(cloud):
    cloud.provision()
    change_document(cloud)
    (change,) = cloud.plan().changes
    assert change.text.startswith("~ policy S3BackupPolicy: document differs\n    --- IAM")
    assert any(line.startswith("-") and "s3:ListBucket" in line for line in change.diff)
    assert any(line.startswith("+") and "s3:PutObject" in line for line in change.diff)


def test_a_document_that_means_the_same_is_no_drift(cloud):
    cloud.provision()
    statement = dict(WANTED["Statement"][0])
    statement |= {"Action": statement["Action"][::-1], "Resource": [statement["Resource"]]}
    same = json.dumps({"Statement": [statement], "Version": "2012-10-17"})
    cloud.iam.create_policy_version(PolicyArn=POLICY_ARN, PolicyDocument=same, SetAsDefault=True)
    assert cloud.plan().changes == ()


def test_at_five_versions_the_oldest_that_is_not_in_force_makes_room(cloud):
    cloud.provision()
    fill_versions(cloud)
    cloud.iam.set_default_policy_version(PolicyArn=POLICY_ARN, VersionId="v2")
    cloud.iam.delete_policy_version(PolicyArn=POLICY_ARN, VersionId="v1")
    change_document(cloud)
    cloud.iam.set_default_policy_version(PolicyArn=POLICY_ARN, VersionId="v2")
    remove, change = cloud.plan().changes
    assert remove.text == "- version v3 of policy S3BackupPolicy, the oldest: IAM keeps 5"
    assert "document differs" in change.what
    cloud.provision()
    assert cloud.document(POLICY_ARN) == WANTED


def test_an_inline_policy_is_shown_before_it_is_lost(cloud):
    cloud.provision()
    add_inline_to_user(cloud)
    (change,) = cloud.plan().changes
    assert change.what == "inline policy more from user backup_user"
    assert any(line.startswith("-") and "s3:ListBucket" in line for line in change.diff)


def test_what_is_missing_is_made_before_anything_is_removed(cloud):
    cloud.provision()
    detach_ours(cloud)
    attach_to_group(cloud)
    actions = [change.action for change in cloud.plan().changes]
    assert actions == ["create", "remove"]


# Notices


def test_root_credentials_are_warned_of(cloud):
    (notice,) = cloud.plan(signer=Caller("arn:aws:iam::123456789012:root")).notices
    assert "root" in notice


def test_a_console_password_is_reported_and_left(cloud):
    cloud.provision()
    cloud.iam.create_login_profile(UserName=USER, Password="correct-Horse-9")
    plan = cloud.plan()
    assert plan.changes == ()
    assert "password for the console" in plan.notices[0]


def test_a_boundary_that_nobody_configured_stays(cloud):
    cloud.provision()
    cloud.boundaries[USER] = BOUNDARY
    plan = cloud.plan()
    assert plan.changes == ()
    assert BOUNDARY in plan.notices[0]


def test_other_members_and_other_uses_of_the_policy_are_reported_and_left(cloud):
    cloud.provision()
    cloud.iam.create_user(UserName="alice")
    cloud.iam.add_user_to_group(GroupName=GROUP, UserName="alice")
    cloud.iam.attach_user_policy(UserName="alice", PolicyArn=POLICY_ARN)
    plan = cloud.plan()
    assert plan.changes == ()
    assert "more members, who may use the bucket too: alice" in plan.notices[0]
    assert "attached in 1 other place, which gets its rights" in plan.notices[1]


def test_two_users_of_the_configuration_may_share_a_group(cloud):
    cloud.provision(spec(peers=frozenset({"second"})))
    second = Provisioning(
        user="second", group=GROUP, policy=POLICY, document=WANTED, peers=frozenset({USER})
    )
    assert texts(cloud.provision(second))[1:] == ["+ add user second to group backup_group"]
    assert cloud.plan(second).notices == ()


# Stores that are not AWS


class Store(Cloud):
    """An IAM that shows no tags, paths or numbers, and knows no passwords for a console."""

    def __init__(self, keeps_tags):
        super().__init__()
        self.iam.meta.events.register("after-call.iam.*", self._strip)
        self.fail("GetLoginProfile", "NotImplemented", 501)
        if not keeps_tags:
            for operation in ("ListUserTags", "ListPolicyTags", "TagUser", "TagPolicy"):
                self.fail(operation, "NotImplemented", 501)

    def _strip(self, parsed, **_):
        for name in ("User", "Group", "Policy"):
            for lacking in ("Tags", "Path", "AttachmentCount"):
                parsed.get(name, {}).pop(lacking, None)


@pytest.mark.parametrize("keeps_tags", [True, False])
def test_a_store_that_tells_little_is_provisioned_too(cloud, keeps_tags):
    store = Store(keeps_tags)
    store.provision()
    assert store.rights() == [WANTED]
    assert store.plan().changes == ()


def test_tags_that_a_store_forgets_while_it_makes_a_user_are_set_again(cloud):
    store = Store(keeps_tags=True)
    store.provision()
    assert "TagUser" in store.calls


def test_tags_that_aws_remembers_are_set_once(cloud):
    cloud.provision()
    assert "TagUser" not in cloud.calls


def test_where_there_are_no_tags_nothing_is_changed_unasked(cloud):
    store = Store(keeps_tags=False)
    store.provision()
    with pytest.raises(Refused, match="keeps no tags") as refused:
        store.provision(spec(document=OTHER))
    assert refused.value.reason == "not_ours"
    assert store.rights() == [WANTED]

    store.provision(spec(document=OTHER), take_over=True)
    assert store.rights() == [OTHER]


def test_a_tag_that_may_not_be_asked_for_is_none(cloud):
    cloud.iam.create_user(UserName=USER)
    cloud.fail("ListUserTags", "AccessDenied", 403)
    with pytest.raises(Refused, match="lacks the tag"):
        cloud.plan()


def test_a_call_that_a_store_does_not_know_is_named(cloud):
    cloud.iam.create_user(UserName=USER, Tags=OURS)
    cloud.fail("ListGroupsForUser", "NotImplemented", 501)
    with pytest.raises(Refused, match="does not know the call iam:ListGroupsForUser"):
        cloud.plan()


def test_where_nobody_tells_who_signs_arns_have_no_account():
    assert (UNKNOWN.partition, UNKNOWN.account, UNKNOWN.root) == ("aws", "", False)


# Somebody else's


def test_a_user_of_somebody_else_is_refused_by_name(cloud):
    cloud.iam.create_user(UserName=USER)
    with pytest.raises(Refused, match="user backup_user exists and lacks the tag") as caught:
        cloud.plan()
    assert caught.value.reason == "not_ours"
    assert "--take-over" in caught.value.do


def test_a_policy_of_somebody_else_is_refused(cloud):
    cloud.make_policy(POLICY)
    with pytest.raises(Refused, match="policy S3BackupPolicy exists and lacks the tag"):
        cloud.plan()


def test_a_group_with_other_members_is_refused(cloud):
    cloud.iam.create_group(GroupName=GROUP)
    cloud.iam.create_user(UserName="alice")
    cloud.iam.add_user_to_group(GroupName=GROUP, UserName="alice")
    with pytest.raises(Refused, match="group backup_group exists and has other members"):
        cloud.plan()


def test_a_group_with_other_policies_and_nobody_of_ours_is_refused(cloud):
    cloud.iam.create_group(GroupName=GROUP)
    add_inline_to_group(cloud)
    with pytest.raises(Refused, match="group backup_group exists and has other policies"):
        cloud.plan()


def test_an_empty_group_is_used(cloud):
    cloud.iam.create_group(GroupName=GROUP)
    cloud.provision()
    assert cloud.rights() == [WANTED]


def test_taking_over_tags_all_of_it_and_ends_the_other_rights(cloud):
    cloud.iam.create_user(UserName=USER)
    cloud.make_policy(POLICY)
    cloud.iam.create_group(GroupName=GROUP)
    add_inline_to_group(cloud)
    attach_to_user(cloud)
    done = texts(cloud.provision(take_over=True))
    assert "~ user backup_user: tags managed-by=rekeyd" in done
    assert "~ policy S3BackupPolicy: tags managed-by=rekeyd" in done
    assert cloud.rights() == [WANTED]
    assert cloud.plan().changes == ()


@pytest.mark.parametrize("take_over", [False, True])
@pytest.mark.parametrize("kind", ["user", "group"])
def test_another_path_is_refused_because_the_policies_would_not_match(cloud, kind, take_over):
    if kind == "user":
        cloud.iam.create_user(UserName=USER, Path="/x/", Tags=OURS)
    else:
        cloud.iam.create_group(GroupName=GROUP, Path="/x/")
    with pytest.raises(Refused, match="exists with the path /x/ instead of /"):
        cloud.plan(take_over=take_over)


# Races and delays


def test_what_appears_between_plan_and_apply_is_looked_at_again(cloud):
    provisioner = cloud.provisioner()
    changes = provisioner.plan().changes
    cloud.provision()
    for change in changes[:3]:
        list(provisioner.apply([change]))
    assert cloud.plan().changes == ()


def test_a_stranger_that_appears_between_plan_and_apply_is_refused(cloud):
    provisioner = cloud.provisioner()
    changes = provisioner.plan().changes
    cloud.iam.create_user(UserName=USER)
    with pytest.raises(Refused, match="lacks the tag"):
        list(provisioner.apply(changes))


def test_a_policy_of_that_name_with_another_path_is_refused(cloud):
    cloud.fail("CreatePolicy", "EntityAlreadyExists", 409)
    with pytest.raises(Refused, match="exists with another path than /"):
        cloud.provision()


def test_new_objects_are_waited_for_until_iam_knows_them(cloud):
    cloud.fail("AttachGroupPolicy", "NoSuchEntity", 404, times=2)
    cloud.fail("AddUserToGroup", "NoSuchEntity", 404, times=1)
    cloud.provision()
    assert cloud.waits == [0.5, 1.0, 0.5]
    assert cloud.rights() == [WANTED]


def test_waiting_ends_after_half_a_minute(cloud):
    cloud.fail("AddUserToGroup", "NoSuchEntity", 404)
    with pytest.raises(Gone):
        cloud.provision()
    assert sum(cloud.waits) == 30


def test_what_is_gone_already_need_not_be_removed(cloud):
    cloud.provision()
    fill_versions(cloud)
    for drift in (add_inline_to_user, attach_to_user, join_another_group):
        drift(cloud)
    for operation in (
        "DeleteUserPolicy",
        "DetachUserPolicy",
        "RemoveUserFromGroup",
        "DeletePolicyVersion",
    ):
        cloud.fail(operation, "NoSuchEntity", 404)
    cloud.fail("CreatePolicyVersion", "LimitExceeded", 409, text="Cannot exceed quota: 5")
    provisioner = cloud.provisioner()
    removals = [c for c in provisioner.plan().changes if c.action == "remove"]
    assert len(list(provisioner.apply(removals))) == 4
    with pytest.raises(Refused, match="a limit of the AWS account") as caught:
        cloud.provision()
    assert caught.value.reason == "limit"


# Refusals and failures


OPERATIONS = {
    "iam:GetUser": "look at user",
    "iam:GetPolicy": "look at policy",
    "iam:GetGroup": "look at group",
    "iam:ListGroupsForUser": "look at user",
    "iam:CreateUser": "create user",
    "iam:CreatePolicy": "create policy",
    "iam:CreateGroup": "create group",
    "iam:AttachGroupPolicy": "attach policy S3BackupPolicy to group",
    "iam:AddUserToGroup": "add user backup_user to group",
}


@pytest.mark.parametrize("action", OPERATIONS)
def test_each_denial_names_action_resource_and_where_the_policy_is_printed(cloud, action):
    if action == "iam:ListGroupsForUser":
        cloud.provision()
    cloud.fail(action.removeprefix("iam:"), "AccessDenied", 403, text="no identity-based policy.")
    with pytest.raises(
        Refused, match=f"could not {OPERATIONS[action]}.* lack {action} on arn:aws:"
    ):
        cloud.provision()


def test_every_call_is_in_the_provisioners_own_policy(cloud):
    cloud.provision(FULL)
    for drift in DRIFTS:
        drift(cloud)
    cloud.calls.clear()
    cloud.provision(FULL)
    cloud.iam.meta.events.unregister("provide-client-params.iam.*", cloud._note)
    statements = provisioner_document("aws", [FULL])["Statement"]
    granted = {action for statement in statements for action in statement["Action"]}
    used = {f"iam:{call}" for call in cloud.calls} - {"iam:RemoveUserFromGroup"}
    assert used <= granted
    created = {"iam:CreateUser", "iam:CreatePolicy", "iam:CreateGroup", "iam:AttachGroupPolicy"}
    assert granted - used == created


def test_a_denied_group_is_left_to_its_administrator(cloud):
    cloud.provision()
    join_another_group(cloud)
    cloud.fail("RemoveUserFromGroup", "AccessDenied", 403)
    with pytest.raises(Refused, match="out of group admins") as caught:
        cloud.provision()
    assert "administers that group" in caught.value.do


def test_bad_credentials_are_not_mistaken_for_a_denied_group(cloud):
    cloud.provision()
    join_another_group(cloud)
    cloud.fail("RemoveUserFromGroup", "ExpiredToken", 403)
    with pytest.raises(Refused) as caught:
        cloud.provision()
    assert caught.value.reason == "credentials"


def test_a_boundary_that_does_not_exist_is_named(cloud):
    cloud.fail("CreateUser", "NoSuchEntity", 404)
    with pytest.raises(Refused, match=f"boundary {BOUNDARY} does not exist"):
        cloud.provision(FULL)
    assert cloud.waits == []


def test_a_malformed_document_is_refused_in_iams_words(cloud):
    cloud.fail("CreatePolicy", "MalformedPolicyDocument", 400, text="Syntax errors in policy.")
    with pytest.raises(Refused, match="Syntax errors in policy"):
        cloud.provision()


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("ConcurrentModification", 409, Transient),
        ("EntityTemporarilyUnmodifiable", 409, Transient),
        ("ServiceFailure", 500, Unanswered),
    ],
)
def test_trouble_that_passes_is_transient_and_the_next_run_finishes(cloud, code, status, kind):
    cloud.fail("AttachGroupPolicy", code, status, times=1)
    with pytest.raises(kind):
        cloud.provision()
    cloud.provision()
    assert cloud.rights() == [WANTED]
