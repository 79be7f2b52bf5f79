"""Bad input and bad days: each gives one clear message, loses no pair, and passes by itself.

The numbers are exit codes: 3 for what a person must mend, 75 for what passes, 78 for configuration.
"""

import json
import os
import shutil
import signal
import socket
import sqlite3
import time

import pytest

from processes import OPERATOR_ACTIONS, Daemon, running
from rekeyd.assemble import Workshop, fit_sealer, open_store
from rekeyd.config import load
from rekeyd.metrics import Metrics
from rekeyd.ports import Request
from rekeyd.reconcile import Reconciler
from rekeyd.record import Recorder

KEPT = {"every": "30d", "overlap": "1h", "grace": "1h", "settle": "1s"}
ROOT = """<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
<GetCallerIdentityResult><Arn>arn:aws:iam::123456789012:root</Arn><UserId>1</UserId>
<Account>123456789012</Account></GetCallerIdentityResult></GetCallerIdentityResponse>"""


def refused_start(path):
    """Start a daemon that cannot run; return its exit code and what it said."""
    daemon = Daemon(path)
    code = daemon.ended()
    assert "backups go on with the pairs they have" in daemon.log
    assert "  → " in daemon.log
    return code, daemon.log


# Configuration


MISTAKES = {
    "an unknown setting": ("retain: 3", ["retain", "there is no such setting"]),
    "a wrong type": ("log: {level: 7}", ["log.level"]),
    "a duplicate key": ("state: /a\nstate: /b", ["state"]),
    "no identity": ("identities: []", ["identities"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_configuration_touches_nothing(rekeyd, config, mistake):
    text, expected = MISTAKES[mistake]
    plain = config.path.read_text()
    key = text.split(":")[0]
    kept = [] if key in {"log", "state", "identities"} else plain.splitlines()
    config.path.write_text("\n".join([*kept, text]) + "\n")

    for command in (["run"], ["check", "--offline"], ["rotate"], ["plan"]):
        done = rekeyd(*command)

        assert done.code == 78
        assert all(word in done.err for word in expected)
        assert f"{config.path}:" in done.err
    assert not (config.folder / "state").exists()


def test_an_account_id_is_not_read_as_a_number(rekeyd, config):
    config(top={"aws": {"role_arn": 12345670123, "external_id": 12345670123}})

    done = rekeyd("run")

    assert done.code == 78
    assert "put it in quotes" in done.err


def test_retiring_that_outlasts_the_interval_is_refused(rekeyd, config):
    config(rotation=KEPT | {"every": "90m"})

    done = rekeyd("run")

    assert done.code == 78
    assert "overlap 1h + grace 1h + settle 1s" in done.err


def test_two_sinks_on_one_file_are_refused(rekeyd, config):
    sink = config.identity["sinks"][0]
    config(sinks=[sink, {"type": "credential_process", "path": sink["path"]}])

    done = rekeyd("run")

    assert done.code == 78
    assert "has the same file as identities[0].sinks[0]" in done.err


def test_a_configuration_that_is_not_there_is_said_so(rekeyd, config):
    config.path.unlink()

    done = rekeyd("status")

    assert done.code == 78
    assert "the configuration cannot be read: No such file or directory" in done.err
    assert "→ name another file with --config" in done.err


# The seal key and the state


def missing(key):
    key.unlink()
    return "does not exist"


def unreadable(key):
    key.unlink()
    key.mkdir()  # root reads every file
    return "cannot be read: Is a directory"


def open_to_others(key):
    key.chmod(0o644)
    return "is open to others (mode 0644)"


def too_short(key):
    key.write_bytes(b"short")
    return "is not 32 bytes"


def of_another_state(key):
    key.write_bytes(os.urandom(32))
    return "does not open what the state holds"


SPOILT = [missing, unreadable, open_to_others, too_short, of_another_state]


@pytest.mark.parametrize("spoil", SPOILT)
def test_a_seal_key_that_cannot_be_used_stops_the_start(rekeyd, aws, config, spoil):
    rekeyd("rotate")
    problem = spoil(config.folder / "seal.key")

    code, said = refused_start(config.path)

    assert code == 78
    assert problem in said
    assert "→" in said
    assert rekeyd("rotate").code == 78
    assert aws.keys() == {config.held(): "Active"}


@pytest.mark.parametrize("spoil", [missing, too_short, of_another_state])
@pytest.mark.parametrize("beside", [True, False])
def test_nobody_is_told_to_make_another_seal_key_for_a_state_that_has_pairs(
    rekeyd, config, spoil, beside
):
    key = config.folder / "seal.key"
    if beside:
        key.unlink()
        del config.plain["seal"]
        key = config().parent / "state" / "seal.key"
    rekeyd("rotate")
    spoil(key)

    for command in ("plan", "check"):
        told = rekeyd(command)
        assert told.code == 78
        assert "put back the key that this state was made with" in told.out + told.err
        assert "makes one" not in told.out + told.err


def test_a_state_that_is_deleted_under_a_daemon_freezes_it(rekeyd, aws, config):
    with running(config(rotation=KEPT)) as daemon:
        daemon.expect("rotated")
        held = config.held()
        shutil.rmtree(config.folder / "state")
        daemon.signal(signal.SIGUSR1)
        assert "was deleted or replaced while rekeyd uses it" in daemon.expect("request")["error"]
        assert daemon.expect("refused", within=20)["error"].endswith("no key is made or retired")
        assert daemon.stop() == 0
    assert aws.keys() == {held: "Active"}


def test_a_state_of_a_newer_version_is_left_alone(rekeyd, config):
    rekeyd("rotate")
    with sqlite3.connect(config.folder / "state" / "rekeyd.sqlite") as state:
        state.execute("pragma user_version = 99")
    state.close()

    code, said = refused_start(config.path)

    assert code == 78
    assert "was written by a newer rekeyd" in said
    assert rekeyd("status").code == 78


def test_a_state_that_is_no_state_is_left_alone(rekeyd, config):
    (config.folder / "state").mkdir(mode=0o700)
    (config.folder / "state" / "rekeyd.sqlite").write_text("not SQLite at all, but text\n" * 99)

    done = rekeyd("status")

    assert done.code == 78
    assert "put it back from a backup, or move it away" in done.err


def test_damaged_custody_is_a_hold_that_touches_nothing(rekeyd, aws, config):
    rekeyd("rotate")
    with sqlite3.connect(config.folder / "state" / "rekeyd.sqlite") as state:
        state.execute("update custody set document = '{}'")
    state.close()

    done = rekeyd("rotate")

    assert done.code == 3
    assert "what the state holds of backup_user is damaged" in done.err
    assert aws.keys() == {config.held(): "Active"}


def test_a_second_daemon_on_one_state_is_refused(config, daemon):
    code, said = refused_start(config.path)

    assert code == 78
    assert f"another rekeyd (process {daemon.process.pid}, a daemon) works on" in said
    assert daemon.stop() == 0


def test_a_port_that_is_taken_stops_the_start(config):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        code, said = refused_start(config(top={"listen": address}))

    assert code == 78
    assert f"another program listens on {address} already" in said


# Sinks


def no_folder(config):
    return config.folder / "nowhere" / "credentials"


def link(config):
    (config.folder / "link").symlink_to(config.folder / "elsewhere")
    return config.folder / "link"


def folder(config):
    (config.folder / "folder").mkdir()
    return config.folder / "folder"


@pytest.mark.parametrize(
    ("place", "advised"),
    [
        (no_folder, "; make it"),
        (link, "; name the real file"),
        (folder, "; name a file of its own"),
    ],
)
def test_nothing_is_made_for_a_sink_that_cannot_be_written(rekeyd, aws, config, place, advised):
    path = place(config)
    config(sinks=[{"type": "aws_credentials", "path": str(path)}])

    done = rekeyd("rotate")

    assert done.code == 3
    assert f"{path}" in done.err
    assert "no key is made or retired" in done.err
    assert advised in done.err
    assert aws.keys() == {}
    assert rekeyd("check").code == 1
    assert rekeyd("status").code == 3


@pytest.mark.parametrize("what", ["aws_access_key_id = ", "aws_secret_access_key = "])
def test_a_sink_in_which_a_byte_is_no_text_any_more_is_mended(rekeyd, config, what):
    rekeyd("rotate")
    whole = config.sink.read_bytes()
    at = whole.index(what.encode()) + len(what) + 9
    config.sink.write_bytes(whole[:at] + b"\xe9" + whole[at + 1 :])

    assert rekeyd("rotate", "--due").code == 0
    assert config.sink.read_bytes() == whole


def test_one_sink_that_fails_blocks_retirement_and_not_the_other_sink(rekeyd, aws, config):
    trouble = config.folder / "trouble"
    command = ["/bin/sh", "-c", f"test ! -e {trouble} || exit 75"]
    sinks = [*config.identity["sinks"], {"type": "exec", "name": "script", "command": command}]
    with running(config(sinks=sinks)) as daemon:
        daemon.expect("rotated")
        first = config.held()
        trouble.touch()
        assert rekeyd("rotate", "--wait", "2").code == 75
        second = config.held()
        assert first != second
        assert aws.keys() == {first: "Active", second: "Active"}
        assert "sink script" in daemon.expect("retry", rule="deliver")["error"]
        assert "sink script" in rekeyd("status").out

        trouble.unlink()
        daemon.expect("delete")
        assert daemon.stop() == 0
    assert aws.keys() == {second: "Active"}


# Credentials and permissions


def test_no_credentials(rekeyd, monkeypatch, aws):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")

    done = rekeyd("rotate")

    assert done.code == 3
    assert "rekeyd has no usable AWS credentials" in done.err
    assert "the pairs in use go on working" in done.err
    assert rekeyd("plan").code == 3
    checked = rekeyd("check")
    assert (checked.code, checked.out.count("no usable AWS credentials")) == (1, 1)
    assert "sink aws_credentials" in checked.out


def test_expired_credentials(rekeyd, aws, config, proxy):
    rekeyd("rotate")
    held = config.held()
    config.through(proxy)
    proxy.fail("*", "ExpiredToken", 403)

    done = rekeyd("rotate")

    assert done.code == 3
    assert "AWS does not accept rekeyd's own credentials (ExpiredToken)" in done.err
    assert aws.keys() == {held: "Active"}


def test_root_credentials_are_refused(rekeyd, aws, config, proxy):
    config.through(proxy)
    proxy.reply("GetCallerIdentity", ROOT)

    done = rekeyd("rotate")

    assert done.code == 3
    assert "rekeyd is running with the account's root credentials" in done.err
    assert "rekeyd policy rotator" in done.err
    assert aws.keys() == {}
    assert "signs as the account's root user" in rekeyd("check").out


@pytest.mark.parametrize("action", OPERATOR_ACTIONS)
def test_each_permission_that_is_missing_is_named(rekeyd, aws, config, monkeypatch, action):
    config(rotation=KEPT)
    rekeyd("rotate")
    rekeyd("rotate")
    before = config.held()
    for name, value in aws.operator(action).items():
        monkeypatch.setenv(name, value)
    aws.enforce()

    checked = rekeyd("check")
    done = rekeyd("rotate", "--revoke-now")

    aws.trust()
    only_by_doing = action == "iam:CreateAccessKey"
    assert (checked.code, f"lack {action}" in checked.out) == (1 - only_by_doing, not only_by_doing)
    assert done.code == 3
    assert f"rekeyd's credentials lack {action}" in done.err
    assert "`rekeyd policy rotator` prints the least policy" in done.err
    assert aws.keys()[config.held()] == "Active"
    assert action != "iam:CreateAccessKey" or config.held() == before


def test_each_right_that_comes_back_lets_its_identity_go_on(aws, config):
    """One identity for each action that its daemon may not do, so that their waits go together."""
    shared, lacking, identities = config.folder / "operators", {}, []
    for action in OPERATOR_ACTIONS:
        user = action.removeprefix("iam:")
        lacking[user] = action
        aws.iam.create_user(UserName=user)
        sink = {"type": "credential_process", "path": str(config.folder / user)}
        identities.append(
            config.identity | {"user": user, "sinks": [sink], "aws": {"profile": user}}
        )
        keys = (f"{name.lower()} = {value}" for name, value in aws.operator(action).items())
        with shared.open("a") as file:
            print(f"[{user}]", *keys, sep="\n", file=file)
    environment = {"AWS_SHARED_CREDENTIALS_FILE": str(shared)}
    bare = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "")
    with running(config(top={"identities": identities}), environment | bare) as daemon:
        for _ in lacking:
            daemon.expect("rotated")
        aws.enforce()
        daemon.signal(signal.SIGUSR1)
        refused = {}
        while len(refused) < len(lacking):
            event = daemon.expect("refused")
            refused[event["identity"]] = event["error"]
        assert all(f"lack {action}" in refused[user] for user, action in lacking.items())

        aws.trust()
        for user in lacking:
            held = json.loads((config.folder / user).read_text())["AccessKeyId"]
            assert aws.keys(user)[held] == "Active"
        assert {daemon.expect("delete", within=60)["identity"] for _ in lacking} == set(lacking)
        assert daemon.stop() == 0


# IAM


def test_a_user_that_is_missing(rekeyd, aws, config):
    aws.iam.delete_user(UserName="backup_user")

    done = rekeyd("rotate")

    assert done.code == 3
    assert "IAM knows no such user, so its backups cannot sign in" in done.err


def test_two_foreign_keys_leave_no_room(rekeyd, aws, config):
    foreign = [
        aws.iam.create_access_key(UserName="backup_user")["AccessKey"]["AccessKeyId"]
        for _ in range(2)
    ]

    done = rekeyd("rotate")

    assert done.code == 3
    assert all(f"…{key[-4:]}" in done.err for key in foreign)
    assert "rekeyd adopt IDENTITY KEY_ID" in done.err
    assert aws.keys() == dict.fromkeys(foreign, "Active")
    assert not config.sink.exists()


def test_one_foreign_key_is_never_touched(rekeyd, aws, config):
    foreign = aws.iam.create_access_key(UserName="backup_user")["AccessKey"]["AccessKeyId"]

    assert rekeyd("rotate").code == 0
    held = config.held()
    done = rekeyd("rotate")

    assert done.code == 3
    assert f"IAM allows two keys and …{foreign[-4:]} cannot be retired" in done.err
    assert aws.keys() == {foreign: "Active", held: "Active"}


def test_iam_that_fails_freezes_everything_until_it_is_back(rekeyd, aws, config, proxy):
    with running(config.through(proxy)) as daemon:
        daemon.expect("rotated")
        first = config.held()
        for action in ("GetUser", "ListAccessKeys", "CreateAccessKey"):
            proxy.fail(action, "ServiceUnavailable", 503)
        assert rekeyd("rotate", "--wait", "3").code == 75
        assert "AWS failed (ServiceUnavailable)" in daemon.expect("retry")["error"]
        assert "failing" in rekeyd("status").out
        assert aws.keys() == {first: "Active"}

        proxy.mend()
        daemon.expect("deliver")
        daemon.expect("delete")
        assert daemon.stop() == 0
    assert aws.keys() == {config.held(): "Active"}
    assert config.held() != first


def test_who_asks_again_during_an_outage_gets_one_new_pair(rekeyd, config, proxy):
    rekeyd("rotate")
    first = config.held()
    config.through(proxy)
    store = open_store(load(config.path))
    for _ in range(9):
        store.ask("backup_user", Request("revoke"))
    store.close()

    done = rekeyd("rotate", "--revoke-now")

    assert done.code == 0
    assert proxy.calls.count("CreateAccessKey") == 1
    assert config.held() != first
    assert json.loads(rekeyd("status", "--json").out)["identities"][0]["asked"] is False


def test_a_lost_answer_leaves_no_key_behind(rekeyd, aws, config, proxy):
    with running(config.through(proxy)) as daemon:
        daemon.expect("rotated")
        first = config.held()
        proxy.lost.add("CreateAccessKey")
        sent = proxy.calls.count("CreateAccessKey")
        daemon.signal(signal.SIGUSR1)
        assert "the answer was lost" in daemon.expect("retry", rule="mint")["error"]
        proxy.mend()
        assert proxy.calls.count("CreateAccessKey") == sent + 1
        orphan = next(key for key in set(aws.keys()) if key != first)

        daemon.expect("delete", detail=f"delete …{orphan[-4:]}")
        daemon.expect("deliver")
        daemon.expect("delete", detail=f"delete …{first[-4:]}")
        assert daemon.stop() == 0
    assert aws.keys() == {config.held(): "Active"}


def test_aws_that_cannot_be_reached_is_tried_again(rekeyd, config):
    config(top={"aws": {"region": "us-east-1", "endpoint_url": "http://127.0.0.1:9"}})

    done = rekeyd("rotate", "--due", "--wait", "5")

    assert done.code == 75
    assert rekeyd("plan").code == 75
    assert rekeyd("check").code == 75


def test_it_goes_on_by_itself_when_the_cause_is_gone(aws, config, proxy):
    """One identity for each cause, so that their waits pass side by side."""
    users = ("no_user", "no_room", "no_folder", "no_right", "no_file")
    identities = []
    for user in users:
        place = config.folder / "later" / user if user == "no_folder" else config.folder / user
        sink = {"type": "credential_process", "path": str(place)}
        identities.append(config.identity | {"user": user, "sinks": [sink]})
        if user != "no_user":
            aws.iam.create_user(UserName=user)
    for _ in range(2):
        foreign = aws.iam.create_access_key(UserName="no_room")["AccessKey"]["AccessKeyId"]
    (config.folder / "no_file").symlink_to("/nowhere")
    config.plain["aws"]["endpoint_url"] = proxy.endpoint
    proxy.fail("CreateAccessKey", "AccessDenied", 403)
    with running(config(top={"identities": identities})) as daemon:
        held = {daemon.expect("hold")["identity"] for _ in range(4)}
        assert held == {"no_user", "no_room", "no_folder", "no_file"}

        aws.iam.create_user(UserName="no_user")
        aws.iam.delete_access_key(UserName="no_room", AccessKeyId=foreign)
        (config.folder / "later").mkdir()
        (config.folder / "no_file").unlink()
        proxy.mend()
        rotated = {daemon.expect("rotated", within=40)["identity"] for _ in users}
        assert daemon.stop() == 0
    assert rotated == set(users)


def test_renewed_credentials_are_noticed(aws, config):
    """Those in a file: what came in the environment needs a restart."""
    shared = config.folder / "operator"
    environment = {"AWS_SHARED_CREDENTIALS_FILE": str(shared)}
    bare = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "")
    with running(config.path, environment | bare) as daemon:
        assert "no usable AWS credentials" in daemon.expect("refused")["error"]
        shared.write_text("[default]\naws_access_key_id = a\naws_secret_access_key = b\n")
        daemon.expect("rotated")


def test_credentials_that_were_renewed_in_their_file_are_used(aws, config, proxy):
    shared = config.folder / "operator"
    text = "[default]\naws_access_key_id = {}\naws_secret_access_key = secret\n"
    shared.write_text(text.format("FORMER"))
    environment = {"AWS_SHARED_CREDENTIALS_FILE": str(shared)}
    bare = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "")
    with running(config.through(proxy, rotation=KEPT), environment | bare) as daemon:
        daemon.expect("rotated")
        proxy.fail("GetUser", "ExpiredToken", 403, unless_signed_by="LATTER")
        daemon.signal(signal.SIGUSR1)
        assert "(ExpiredToken)" in daemon.expect("refused")["error"]
        shared.write_text(text.format("LATTER"))
        daemon.expect("mint")


# Full disk


def full_at(store, number):
    """Let the disk be full at one write of custody: that is what SQLite itself then says."""
    original, writes = store.save, iter(range(1000))

    def save(identity, custody):
        if next(writes) != number:
            return original(identity, custody)
        execute = store._connection.execute
        pages = execute("pragma page_count").fetchone()[0]
        execute(f"pragma max_page_count = {pages}")
        try:
            return store.set_meta("filler", "x" * 100_000)
        finally:
            execute("pragma max_page_count = 1000000")

    store.save = save


@pytest.mark.parametrize("number", range(7))
def test_a_disk_that_is_full_at_any_write_of_custody_loses_nothing(aws, config, number):
    settings = load(config.path)
    store = open_store(settings)
    sealer, _ = fit_sealer(settings, store, lambda: None)
    full_at(store, number)
    recorder = Recorder(store, Metrics("test"))
    shop = Workshop(settings, store, sealer, lambda *_: None)
    reconciler = Reconciler(shop.build(settings.identities[0]), recorder, lambda: False)

    delay = reconciler.advance()

    status = recorder.statuses["backup_user"]
    assert "database or disk is full" in status.failing
    assert "see whether its disk is full" in status.failing
    assert delay < 2
    while recorder.statuses["backup_user"].last_rotation is None:
        time.sleep(min(reconciler.advance(), 0.5))
    assert aws.keys() == {config.held(): "Active"}
    store.close()
