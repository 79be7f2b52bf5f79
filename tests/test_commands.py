"""What the commands do to IAM, the sinks and the state, by themselves and through a daemon."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import pytest

from processes import PROGRAM, running
from rekeyd.assemble import open_store
from rekeyd.commands import ago, event_line, say, table
from rekeyd.commands.rotation import Follower
from rekeyd.config import load
from rekeyd.ports import Event
from rekeyd.store import Store

PROVISIONED = {
    "group": "backup_group",
    "policy": {"name": "S3BackupPolicy", "bucket": "backup-bucket"},
    "verify": ["sts"],
}
KEPT = {"every": "30d", "overlap": "1h", "grace": "1h", "settle": "1s"}
"""The superseded pair stays for an hour, so that there is one to go back to."""


def steps(done):
    return [event["step"] for event in done.json["events"] if event["step"] != "record"]


# rotate


def test_a_second_rotation_replaces_the_pair_and_keeps_the_old_one_for_the_overlap(
    rekeyd, aws, config
):
    config(rotation=KEPT)
    rekeyd("rotate")
    before = config.held()

    done = rekeyd("rotate", "backup_user")

    assert done.code == 0
    assert config.held() != before
    assert aws.keys() == {before: "Active", config.held(): "Active"}


def test_a_rotation_that_needs_room_says_that_it_will_come(rekeyd, aws, config):
    config(rotation=KEPT)
    rekeyd("rotate")
    rekeyd("rotate")
    held = config.held()

    done = rekeyd("rotate")

    assert done.code == 75
    assert "will be made when IAM has room" in done.err
    assert config.held() == held
    assert "a rotation was asked for, and begins when IAM has room" in rekeyd("status").out


def test_due_does_nothing_before_the_time(rekeyd, config):
    rekeyd("rotate")
    held = config.held()

    done = rekeyd("rotate", "--due", "--json")

    assert (done.code, config.held()) == (0, held)
    assert steps(done) == []


def test_due_makes_the_first_pair(rekeyd, aws, config):
    done = rekeyd("rotate", "--due", "--json")

    assert done.code == 0
    assert steps(done) == ["mint", "verify", "deliver", "rotated"]
    assert aws.keys() == {config.held(): "Active"}


def test_a_leaked_pair_is_gone_when_revoke_now_returns(rekeyd, aws, config):
    config(rotation=KEPT)
    rekeyd("rotate")
    leaked = config.held()

    done = rekeyd("rotate", "--revoke-now", "backup_user", "--json")

    assert done.code == 0
    assert steps(done)[-2:] == ["deactivate", "delete"]
    assert aws.keys() == {config.held(): "Active"}
    assert leaked != config.held()


def test_due_and_revoke_now_exclude_each_other(rekeyd):
    done = rekeyd("rotate", "--due", "--revoke-now")

    assert done.code == 2
    assert "exclude each other" in done.err


def test_an_identity_that_is_not_there_is_wrong_usage(rekeyd):
    done = rekeyd("rotate", "nobody")

    assert done.code == 2
    assert "no identity 'nobody'" in done.err
    assert "backup_user" in done.err


def test_what_takes_too_long_is_left_to_the_next_run(rekeyd, aws, config, proxy):
    times = config.identity["rotation"] | {"settle": "1m"}  # then a refused pair is replaced
    config.through(proxy, rotation=times)
    proxy.fail("GetCallerIdentity", "InvalidClientTokenId", 403, unless_signed_by="operator")

    done = rekeyd("rotate", "--wait", "1")

    assert done.code == 75
    assert "it goes on when the daemon runs, or with the next `rekeyd rotate --due`" in done.err
    proxy.mend()
    assert rekeyd("rotate", "--due").code == 0
    assert aws.keys() == {config.held(): "Active"}


# beside another command


@pytest.fixture
def another(config):
    """Another command that is at work on the state until it is closed."""
    with closing(Store(config.folder / "state")) as store:
        assert store.act()
        yield store


@pytest.mark.parametrize(("outcome", "code"), [("done", 0), ("retry", None)])
def test_a_rotation_is_over_when_its_delivery_is_recorded(tmp_path, outcome, code):
    with closing(Store(tmp_path / "state")) as store:
        follower = Follower(store, "backup_user", "rotate", since=0)
        for told in (("request", "rotate", "done"), ("deliver", "record", outcome)):
            follower.weigh(Event(datetime.now(UTC), "backup_user", *told))

    assert follower.code == code


def test_a_hold_is_told_each_time_and_at_once(rekeyd, config):
    config(sinks=[{"type": "credential_process", "path": str(config.folder / "no" / "pair")}])
    for arguments in (["rotate"], ["rotate"], ["rotate", "--due"], ["rotate", "--due"]):
        done = rekeyd(*arguments, "--wait", "9")

        assert done.code == 3, "not only when it is tried again, in 15 s"
        assert "on hold: sink credential_process" in done.err
        assert "→ mend the sink" in done.err


@pytest.mark.parametrize("option", ["--due", "--json"])
def test_rotate_waits_for_another_command_and_then_does_the_work(rekeyd, config, another, option):
    threading.Timer(1.0, another.close).start()

    done = rekeyd("rotate", option)

    assert done.code == 0
    assert config.held()


def test_due_says_what_was_in_the_way_all_the_time(rekeyd, config, another):
    done = rekeyd("rotate", "--due", "--wait", "1")

    assert done.code == 75
    assert f"another command works on {config.folder}/state (process {os.getpid()}" in done.err
    assert not config.sink.exists()


def test_due_leaves_it_to_a_daemon_that_comes_after_the_other_command(rekeyd, config, another):
    def starts():
        another.close()
        daemon.append(Store(config.folder / "state"))
        assert daemon[0].serve()

    daemon = []
    threading.Timer(0.5, starts).start()

    done = rekeyd("rotate", "--due")

    daemon[0].close()
    assert done.code == 0
    assert "a daemon runs on this state" in done.err


# through a running daemon


def test_rotate_asks_the_daemon_and_follows_it_live(rekeyd, aws, config, daemon):
    daemon.expect("rotated")
    before = config.held()

    done = rekeyd("rotate", "--json")

    assert done.code == 0
    assert "deliver" in steps(done)
    assert config.held() != before
    daemon.expect("request", kind="rotate")
    daemon.expect("record", rule="deliver")


def test_due_leaves_a_running_daemon_alone(rekeyd, daemon):
    daemon.expect("rotated")

    done = rekeyd("rotate", "--due", "--json")

    assert done.code == 0
    assert steps(done) == []
    [outcome] = done.json["outcome"]
    assert "a daemon runs on this state" in outcome["note"]
    assert "a daemon runs on this state" in rekeyd("rotate", "--due").err


def test_rollback_through_the_daemon(rekeyd, aws, config):
    config(rotation=KEPT)
    with running(config.path) as daemon:
        daemon.expect("rotated")
        first = config.held()
        rekeyd("rotate")

        done = rekeyd("rollback", "backup_user")

        assert (done.code, config.held()) == (0, first)
        assert daemon.stop() == 0


# rollback and adopt


def test_rollback_makes_the_superseded_pair_current_again(rekeyd, aws, config):
    config(rotation=KEPT)
    rekeyd("rotate")
    first = config.held()
    rekeyd("rotate")

    done = rekeyd("rollback", "backup_user", "--json")

    assert done.code == 0
    assert config.held() == first
    assert aws.keys()[first] == "Active"


def test_rollback_without_a_superseded_pair_changes_nothing(rekeyd, aws, config):
    rekeyd("rotate")
    held = config.held()

    done = rekeyd("rollback", "backup_user")

    assert done.code == 1
    assert "there is no superseded pair to go back to" in done.err
    assert "`rekeyd rotate` makes a fresh pair instead" in done.err
    assert aws.keys() == {held: "Active"}


def test_an_adopted_key_is_retired_like_our_own(rekeyd, aws, config):
    foreign = aws.iam.create_access_key(UserName="backup_user")["AccessKey"]["AccessKeyId"]
    rekeyd("rotate")

    assert rekeyd("adopt", "backup_user", foreign).code == 0
    with running(config.path) as daemon:
        daemon.expect("delete", identity="backup_user")
        assert daemon.stop() == 0
    assert aws.keys() == {config.held(): "Active"}


def test_a_key_of_nobody_is_not_adopted(rekeyd):
    rekeyd("rotate")

    done = rekeyd("adopt", "backup_user", "AKIAIOSFODNN7EXAMPLE")

    assert done.code == 1
    assert "…MPLE is neither a key of this user nor in a sink" in done.err


def test_a_user_made_anew_is_adopted_by_its_id(rekeyd, aws, config):
    rekeyd("rotate")
    aws.iam.delete_access_key(UserName="backup_user", AccessKeyId=config.held())
    aws.iam.delete_user(UserName="backup_user")
    new = aws.iam.create_user(UserName="backup_user")["User"]["UserId"]

    held = rekeyd("rotate")
    assert held.code == 3
    assert f"rekeyd adopt IDENTITY {new}" in held.err

    assert rekeyd("adopt", "backup_user", new).code == 0
    assert rekeyd("rotate", "--due").code == 0
    assert aws.keys() == {config.held(): "Active"}


# plan, status and history


def test_plan_names_each_step_and_its_rule_up_to_the_first_effect_and_changes_nothing(rekeyd, aws):
    done = rekeyd("plan", "--json")

    assert done.code == 0
    assert [(p["identity"], p["rule"], p["step"]) for p in done.json["plan"]] == [
        ("backup_user", "guard", "record"),
        ("backup_user", "mint", "mint"),
    ]
    assert aws.keys() == {}
    assert "guard" in rekeyd("plan").out


def test_plan_of_a_hold_says_what_to_do(rekeyd, aws):
    aws.iam.delete_user(UserName="backup_user")

    done = rekeyd("plan")

    assert done.code == 3
    assert "create it (`rekeyd provision` makes those that have a `group` and a" in done.out
    assert "or correct `user` in the configuration" in done.out


def test_plan_shows_the_others_when_one_account_is_out_of_reach(rekeyd, config):
    away = config.identity | {
        "user": "away",
        "aws": {"region": "us-east-1", "endpoint_url": "http://127.0.0.1:9"},
        "sinks": [{"type": "credential_process", "path": str(config.folder / "away")}],
    }
    config(top={"identities": [away, config.identity]})

    done = rekeyd("plan")

    assert done.code == 75
    assert re.search("^away +look +could not ask who it signs as", done.out, re.MULTILINE)
    assert re.search("^backup_user +mint +make a new pair", done.out, re.MULTILINE)
    assert "away: check the network" in done.out
    assert [one["step"] for one in rekeyd("plan", "--json").json["plan"]] == [
        *("retry", "record", "mint")
    ]


def test_status_tells_of_an_identity_that_nobody_looked_at(rekeyd):
    assert "never looked at" in rekeyd("status").out
    [told] = rekeyd("status", "--json").json["identities"]
    assert (told["identity"], told["stage"]) == ("backup_user", "never looked at")
    assert told["at"] is told["rule"] is None
    assert "nothing was done yet" in rekeyd("history").out


@pytest.mark.parametrize(("seconds", "again"), [(-9, "now"), (9.5, "in 9 s")])
def test_status_tells_when_a_failed_step_is_tried_again(rekeyd, config, seconds, again):
    rekeyd("rotate")
    with closing(open_store(load(config.path))) as store:
        retry = datetime.now(UTC) + timedelta(seconds=seconds)
        known = store.published()["backup_user"]
        store.publish(replace(known, failing="IAM is away", retry_at=retry))

    assert f"backup_user: IAM is away (tried again {again})" in rekeyd("status").out


def test_status_and_history_tell_of_a_rotation(rekeyd, config):
    config(rotation=KEPT)
    rekeyd("rotate")
    rekeyd("rotate")
    rekeyd("rotate", "--due")

    status, history = rekeyd("status"), rekeyd("history", "backup_user", "-n", "200")

    assert status.code == 0
    assert f"…{config.held()[-4:]}" in status.out
    assert "1 of 1" in status.out
    assert "superseded key …" in status.out
    assert "prove that …" in history.out
    assert f"{datetime.now().astimezone():%B %Y}" in history.out
    assert config.held() not in status.out + history.out


def test_history_of_somebody_else_is_wrong_usage(rekeyd):
    assert rekeyd("history", "nobody").code == 2


# check


def test_check_tries_everything_and_makes_nothing(rekeyd, aws, config):
    done = rekeyd("check")

    assert done.code == 0
    assert done.out.count("✓") == 10
    assert "✗" not in done.out
    assert aws.keys() == {}
    assert not config.sink.exists()


def test_check_offline_asks_nobody(rekeyd, config):
    config(top={"aws": {"region": "us-east-1", "endpoint_url": "http://127.0.0.1:9"}})

    done = rekeyd("check", "--offline", "--json")

    assert done.code == 0
    assert [c["check"] for c in done.json["checks"]] == ["state and seal key"]


def test_check_tells_each_thing_that_is_wrong(rekeyd, aws, config):
    aws.iam.delete_user(UserName="backup_user")
    config(sinks=[{"type": "env_file", "path": "/nowhere/at/all/env", "dialect": "docker"}])

    done = rekeyd("check", "--json")

    failed = {c["check"]: c["problem"] for c in done.json["checks"] if not c["ok"]}
    assert done.code == 1
    assert "IAM knows no such user" in failed["user backup_user"]
    assert any("/nowhere/at/all" in problem for problem in failed.values())


@pytest.mark.parametrize(
    ("provisioned", "remedy"),
    [
        (PROVISIONED, "create it with `rekeyd provision`"),
        ({}, "make the user where it is provisioned, or correct `user` in the configuration"),
    ],
)
def test_check_says_who_makes_a_user_that_is_missing(rekeyd, aws, config, provisioned, remedy):
    aws.iam.delete_user(UserName="backup_user")
    config(**provisioned)

    assert f"→ {remedy}\n" in rekeyd("check").out


def test_check_tells_of_a_user_that_was_made_again(rekeyd, aws, config):
    rekeyd("rotate")
    aws.iam.delete_access_key(UserName="backup_user", AccessKeyId=config.held())
    aws.iam.delete_user(UserName="backup_user")
    new = aws.iam.create_user(UserName="backup_user")["User"]["UserId"]

    done = rekeyd("check")

    assert done.code == 1
    assert "✗ user backup_user: the user was deleted and made again" in done.out
    assert f"→ if that was meant, `rekeyd adopt IDENTITY {new}` hands over" in done.out


TLS = {"cert_file": "/nowhere/tls.pem", "key_file": "/nowhere/tls.key"}
PASSWORDS = {"prometheus": "$2b$04$" + "a" * 53}


@pytest.mark.parametrize(
    ("listen", "problem"),
    [({"tls_server_config": TLS}, "/nowhere/tls.pem"), ({"basic_auth_users": PASSWORDS}, "bcrypt")],
)
def test_check_tries_what_the_listener_needs(rekeyd, config, monkeypatch, listen, problem):
    monkeypatch.setitem(sys.modules, "bcrypt", None)
    config(top={"listen": {"address": "127.0.0.1:9797", **listen}})

    for done in rekeyd("check", "--offline"), rekeyd("check"):
        assert done.code == 78
        [line] = [line for line in done.out.splitlines() if "✗" in line]
        assert line.startswith("✗ what the listener needs: ")
        assert problem in line


def test_check_finds_a_state_that_cannot_be_made(rekeyd, config):
    config(top={"state": "/proc/rekeyd"})

    done = rekeyd("check")

    assert done.code == 78
    assert "/proc/rekeyd" in done.out + done.err
    assert "No such file or directory" in done.out + done.err


def test_check_says_plainly_what_a_store_lacks(rekeyd, proxy, config):
    proxy.fail("GetAccessKeyLastUsed", "NotImplemented", 501)
    config.through(proxy)

    done = rekeyd("check")

    assert done.code == 0
    assert "✓ what IAM can tell: not all" in done.out
    assert "! this store does not say when a key was last used" in done.out
    [told] = [c for c in rekeyd("check", "--json").json["checks"] if c["notes"]]
    assert told["check"] == "what IAM can tell"


def test_check_says_plainly_what_only_a_delivery_can_show(rekeyd, config):
    config(sinks=[{"type": "exec", "name": "script", "command": ["/bin/true"]}])

    done = rekeyd("check")

    assert done.code == 0
    assert "✓ sink script: not all\n" in done.out
    assert "! sink script: without a `check` command only a delivery shows" in done.out


def test_check_says_of_which_identities_a_note_is_where_there_are_several(rekeyd, config, proxy):
    proxy.fail("GetAccessKeyLastUsed", "NotImplemented", 501)
    config.through(proxy)
    other = config.identity | {
        "name": "other",
        "aws": {"region": "us-east-1", "profile": "none"},
        "sinks": [{"type": "exec", "name": "script", "command": ["/bin/true"]}],
    }
    again = config.identity | {
        "name": "again",
        "aws": {"endpoint_url_s3": "http://127.0.0.1:9"},
        "sinks": [{"type": "credential_process", "path": str(config.folder / "again")}],
    }
    config(top={"identities": [config.identity, again, other]})

    done = rekeyd("check")

    assert "! backup_user, again: this store does not say when a key was last used" in done.out
    assert "! other: sink script: without a `check` command only a delivery shows" in done.out


def test_check_before_the_first_start_makes_neither_a_state_nor_a_seal_key(rekeyd, config):
    del config.plain["seal"]
    config()

    done = rekeyd("check")

    assert done.code == 0, done.out
    assert not (config.folder / "state").exists()


def test_check_tries_sinks_side_by_side(rekeyd, config):
    """Each sink waits for the other one's trial to begin."""

    def sink(name, other):
        script = f"touch {config.folder / name}; until test -e {config.folder / other}; do :; done"
        check = ["/bin/sh", "-c", script]
        return {"type": "exec", "name": name, "command": ["/bin/true", name], "check": check}

    config(sinks=[sink("one", "two"), sink("two", "one")])

    assert rekeyd("check").code == 0


def test_check_finds_both_slots_taken(rekeyd, aws):
    aws.iam.create_access_key(UserName="backup_user")
    aws.iam.create_access_key(UserName="backup_user")

    done = rekeyd("check")

    assert done.code == 1
    assert "both of the user's key slots" in done.out


@pytest.mark.parametrize("command", ["check", "plan", "status", "history"])
def test_who_looks_before_the_first_start_makes_no_state(rekeyd, config, command):
    assert rekeyd(command).code == 0

    assert not (config.folder / "state").exists()


def test_check_tries_the_state_before_aws(rekeyd, config):
    config(top={"seal": "file:/nowhere/seal.key"})

    done = rekeyd("check", "--json")

    assert done.code == 78
    assert [c["ok"] for c in done.json["checks"]] == [True, False]


# provision and policy


def test_provision_makes_what_is_missing_and_then_nothing_more(rekeyd, aws, config):
    aws.iam.delete_user(UserName="backup_user")
    config(**PROVISIONED)

    foreseen = rekeyd("provision", "--dry-run", "--json")
    assert foreseen.code == 2
    assert foreseen.json["provisioned"][0]["made"] == 0
    first = rekeyd("provision")
    assert first.code == 0
    assert f"{len(foreseen.json['provisioned'][0]['changes'])} changes made" in first.out

    second = rekeyd("provision", "--dry-run")
    assert (second.code, second.out) == (0, "backup_user: nothing to change\n")
    groups = aws.iam.list_groups_for_user(UserName="backup_user")["Groups"]
    assert [group["GroupName"] for group in groups] == ["backup_group"]


@pytest.fixture
def group_of_two(aws, config):
    """Two identities that share a group and its policy, and nothing of them in IAM."""
    aws.iam.delete_user(UserName="backup_user")
    other = {"user": "other_user", "sinks": [{"type": "exec", "command": ["/bin/true"]}]}
    config(top={"identities": [config.identity | PROVISIONED, PROVISIONED | other]})


def test_a_dry_run_makes_what_two_share_once_as_the_run_does(rekeyd, group_of_two):
    foreseen = rekeyd("provision", "--dry-run", "--json").json["provisioned"]
    made = rekeyd("provision", "--json").json["provisioned"]

    assert [one["changes"] for one in foreseen] == [one["changes"] for one in made]


def test_users_of_one_group_are_no_strangers_to_each_other(rekeyd, group_of_two):
    assert rekeyd("provision").code == 0
    again = rekeyd("provision", "--dry-run")

    assert again.out == "backup_user: nothing to change\nother_user: nothing to change\n"


def test_provision_takes_nothing_over_unasked(rekeyd, config):
    config(**PROVISIONED)

    refused = rekeyd("provision")

    assert refused.code == 3
    assert "take-over" in refused.err
    assert rekeyd("provision", "--take-over").code == 0


@pytest.mark.parametrize(
    ("named", "missing"),
    [({}, "no `group` and no `policy`"), ({"group": "backup_group"}, "no `policy`")],
)
def test_what_is_provisioned_elsewhere_is_left_out(rekeyd, config, named, missing):
    config(**named)

    done = rekeyd("provision")

    assert (done.code, done.out) == (0, f"backup_user: has {missing}: provisioned elsewhere\n")


@pytest.mark.parametrize("party", ["rotator", "provisioner", "backup"])
def test_the_policy_of_each_party_is_printed(rekeyd, config, party):
    config(**PROVISIONED)

    document = json.loads(rekeyd("policy", party).out)

    actions = {a for s in document["Statement"] for a in s["Action"]}
    assert {
        "rotator": "iam:CreateAccessKey",
        "provisioner": "iam:CreatePolicy",
        "backup": "s3:PutObject",
    }[party] in actions


def test_a_policy_needs_no_region_and_no_network(rekeyd, config):
    config(**PROVISIONED, top={"aws": {}})

    assert '"Allow"' in rekeyd("policy").out


def test_the_backup_policy_of_nobody_is_a_mistake(rekeyd):
    done = rekeyd("policy", "backup")

    assert done.code == 78
    assert "give the identity a `policy` with its bucket" in done.err


# what goes wrong in a command


def test_json_tells_every_mistake_of_a_configuration(rekeyd, config):
    config(top={"sate": "/var/lib/rekeyd", "log": {"level": "loud"}})

    done = rekeyd("status", "--json")

    assert done.json["exit"] == done.code == 78
    level, sate = done.json["mistakes"]
    assert level.startswith(f"{config.path}:") and "there is no such choice loud" in level
    assert "sate: there is no such setting" in sate
    assert done.json["error"].splitlines() == done.json["mistakes"]
    assert done.err == f"{level}\n{sate}\n  → {done.json['do']}\n"


def test_json_tells_what_ended_a_command(rekeyd, config, monkeypatch):
    def ended(*command):
        done = rekeyd(*command, "--json")
        assert done.json.keys() == {"error", "mistakes", "do", "exit"}
        assert (done.json["exit"], done.json["mistakes"]) == (done.code, [])
        assert done.json["error"] in done.err
        assert done.json["do"] in done.err
        return done.code

    rekeyd("rotate")
    assert ended("history", "nobody") == 2
    config(**PROVISIONED)
    assert ended("provision") == 3
    config.plain["aws"]["endpoint_url"] = "http://127.0.0.1:9"
    config(**PROVISIONED)
    assert ended("provision") == 75
    (config.folder / "seal.key").write_bytes(os.urandom(32))
    assert ended("plan") == 78
    monkeypatch.setattr("rekeyd.commands.looking.status", lambda *_: 1 / 0)
    assert ended("status") == 1


def test_a_fault_of_our_own_is_one_line(rekeyd, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("with a secret in it")

    monkeypatch.setattr("rekeyd.commands.looking.status", broken)

    done = rekeyd("status")

    assert done.code == 1
    assert "an unexpected ZeroDivisionError at test_commands:" in done.err
    assert "secret" not in done.err


def test_control_c_leaves_without_a_traceback(rekeyd, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("rekeyd.commands.looking.status", interrupted)
    done = rekeyd("status")

    assert (done.code, done.err.strip()) == (130, "")


def test_a_reader_that_went_away_ends_it_quietly(config):
    command = [sys.executable, "-m", "rekeyd", "-c", str(config.path), "policy"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        process.wait(20)

        assert process.stderr.read() == b""
        assert process.returncode in {1, -signal.SIGPIPE}


def test_what_a_terminal_cannot_show_is_replaced(config):
    config(top={"seal": "file:/nowhere/seal.key"})
    command = [*PROGRAM, "-c", str(config.path)]
    latin = {"env": os.environ | {"PYTHONIOENCODING": "latin-1"}, "capture_output": True}

    shown = subprocess.run([*command, "check"], **latin, check=False)
    refused = subprocess.run([*command, "rotate"], **latin, check=False)

    assert (shown.returncode, refused.returncode) == (78, 78)
    assert b"? configuration: 1 identity\n" in shown.stdout
    assert b"\n  ? " in refused.stderr


def test_json_is_utf_8_wherever_it_is_printed(rekeyd, config):
    rekeyd("rotate")
    command = [*PROGRAM, "-c", str(config.path), "status", "--json"]
    latin = os.environ | {"PYTHONIOENCODING": "latin-1"}

    shown = subprocess.run(command, env=latin, capture_output=True, check=True)

    [key] = json.loads(shown.stdout.decode("utf-8"))["identities"][0]["keys"]
    assert key["key"] == f"…{config.held()[-4:]}"


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_disk_that_is_full_is_said_where_the_output_goes_there(config, form):
    command = [*PROGRAM, "-c", str(config.path), "status", *form]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)

    said = "rekeyd: what it prints cannot be written: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, said)


# how things are said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-30, "30 s ago"),
        (-600, "10 min ago"),
        (3 * 3600, "in 3 h"),
        (30 * 86400, "in 30 d"),
    ],
)
def test_instants_are_told_as_people_would(seconds, said):
    now = datetime(2026, 11, 1, tzinfo=UTC)

    assert ago(now + timedelta(seconds=seconds), now) == said
    assert ago(None) == "-"


def test_an_event_of_an_unknown_outcome_is_shown_too():
    event = Event(datetime.now(UTC), "backup_user", "request", "rotate", "asked", "by hand")

    assert "· rotate" in event_line(event)


LONG = "one two three four five six seven eight nine ten"


@pytest.fixture
def terminal(monkeypatch, capsys):
    """Return what makes standard output a terminal of 40 columns, or none."""
    monkeypatch.setenv("COLUMNS", "40")
    return lambda there=True: monkeypatch.setattr("sys.stdout.isatty", lambda: there)


def test_a_text_keeps_to_its_place_on_a_terminal(terminal, capsys):
    terminal()
    said = table(("WHO", "WHAT"), [("somebody", LONG), ("nobody", "")])
    assert click.unstyle(said).splitlines() == [
        "WHO       WHAT",
        "somebody  one two three four five six",
        "          seven eight nine ten",
        "nobody",
    ]

    say(f"{LONG}\nanother", f"{LONG} eleven", lead="  ✗ ")
    assert capsys.readouterr().out.splitlines() == [
        "  ✗ one two three four five six seven",
        "    eight nine ten",
        "    another",
        "    → one two three four five six seven",
        "      eight nine ten eleven",
    ]


def test_a_text_is_left_alone_where_no_terminal_shows_it_or_it_has_no_room(terminal):
    terminal()
    lead = "somebody with a long name: "
    assert table(("", ""), [(lead, LONG)]).endswith(f"{lead}  {LONG}")

    terminal(there=False)
    assert table(("", ""), [("", LONG)]).endswith(f"  {LONG}")
