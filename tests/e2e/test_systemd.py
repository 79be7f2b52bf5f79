"""The service under a real systemd: a Debian 12 booted as PID 1 in a namespace of its own."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from configparser import ConfigParser
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "deploy/README.md").read_text()
PATIENCE = 60.0
"""Seconds for what takes one: the machine may be busy."""

EXPOSURE = 1.0
"""What a daemon that needs the network has at least."""

WATCHDOG = 6
"""Seconds, instead of the unit's own."""

ABORT = 5
"""Seconds that the unit gives a process to end by itself: one that hangs does not."""

SPARE = 5
"""Seconds for a start, on a machine that is busy."""

EFFECTS = ("CreateAccessKey", "GetCallerIdentity", "UpdateAccessKey", "DeleteAccessKey")
"""The calls of a rotation, in their order: mint, verify, and the two of retirement."""

SINK = "/var/lib/rekeyd-sinks/credentials"
HUNG = 3
"""Seconds without progress, instead of the daemon's own, after which a worker counts as hung."""

WEDGE = "/var/lib/rekeyd/wedge"
WEDGED = f"""
from pathlib import Path
from threading import Event
from typing import Literal

import rekeyd.service
from rekeyd.sinks.aws_credentials import AwsCredentials

rekeyd.service.HUNG = {HUNG}


class Wedged(AwsCredentials):
    type: Literal["wedged"]

    def open(self, context):
        sink = super().open(context)
        put = sink.put

        def stuck(pair):
            if Path("{WEDGE}").exists():
                Path("{WEDGE}").unlink()
                Event().wait()
            put(pair)

        sink.put = stuck
        return sink
"""
"""A sink whose worker never comes back from it, once: no sink of rekeyd's own can do that."""

OFTEN = "[Timer]\nOnCalendar=\nOnCalendar=*:*:0/2\nRandomizedDelaySec=0\nAccuracySec=100ms\n"
TEST_TIMES = f"[Service]\nWatchdogSec={WATCHDOG}s\nRestartSec=500ms\n"


def until(found, what, patience=PATIENCE):
    """Ask again until the answer is true; return it."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if answer := found():
            return answer
        time.sleep(0.1)
    raise AssertionError(f"not within {patience} s: {what() if callable(what) else what}")


class Machine:
    """A machine of its own, but for the network, which it shares with this one."""

    def __init__(self, folder):
        self.folder = folder
        self._nspawn = subprocess.Popen(
            [
                *("systemd-nspawn", "-q", "--register=no", "--keep-unit", "--console=pipe"),
                *("--boot", "-D", folder, f"--machine=rekeyd-{os.getpid()}"),
            ],
            env=os.environ | {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def booted(self):
        until(
            lambda: self.run("systemctl", "is-system-running").stdout.strip() == "running",
            lambda: self.run("systemctl", "--failed").stdout,
        )

    @property
    def _init(self):
        """Its init process. What else systemd-nspawn starts on the way there soon ends."""
        children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children")
        return until(lambda: children.read_text().split(), "its first process")[-1]

    def run(self, *command, check=False):
        """Run a command in the machine, as its root."""
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"
        done = subprocess.run(
            ["nsenter", "-t", self._init, "-a", "env", "-i", path, *command],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done

    def path(self, inside):
        """Where a file of the machine is, seen from here."""
        return self.folder / inside.lstrip("/")

    def off(self):
        """End its init process; the kernel ends all others of its process namespace with it."""
        os.kill(int(self._init), signal.SIGKILL)
        self._nspawn.wait(timeout=60)


class Unit:
    """rekeyd.service of the machine."""

    def __init__(self, machine, settings):
        self.machine = machine
        self.settings = settings
        self._known = 0

    def configure(self, **changes):
        text = yaml.safe_dump(self.settings | changes, sort_keys=False)
        self.machine.path("/etc/rekeyd/rekeyd.yaml").write_text(text)

    def control(self, *command):
        return self.machine.run("systemctl", *command, "rekeyd.service")

    def show(self, name):
        return self.control("show", "-P", name).stdout.strip()

    @property
    def pid(self):
        return int(self.show("MainPID"))

    def start(self):
        """Start afresh; what is expected from now on comes after this."""
        self.configure()
        self.control("stop")
        self.control("reset-failed")
        self.from_now_on()
        started = self.control("start")
        assert started.returncode == 0, started.stderr + self.log()

    def from_now_on(self):
        """Forget what the journal holds so far."""
        self._known = 0
        self._known = len(self.entries())

    def entries(self):
        """What the journal holds of the program since then."""
        self.machine.run("journalctl", "--sync", check=True)
        shown = self.machine.run("journalctl", "-q", "-o", "json", "-t", "rekeyd")
        return [json.loads(line) for line in shown.stdout.splitlines()][self._known :]

    def events(self):
        texts = [entry["MESSAGE"] for entry in self.entries()]
        return [json.loads(text) for text in texts if text.startswith("{")]

    def log(self):
        return "\n".join(entry["MESSAGE"] for entry in self.entries())

    def expect(self, event):
        """Wait for an event, and return it."""

        def found():
            return next((one for one in self.events() if one["event"] == event), None)

        return until(found, lambda: f"{event} in:\n{self.log()}")

    def settled(self, cloud):
        """Wait until there is just one Active key, held by the sink; return its id."""

        def one():
            keys = cloud.keys()
            return list(keys) == [self.held()] and set(keys.values()) == {"Active"}

        until(one, lambda: f"one key in {cloud.keys()}, held {self.held()}:\n{self.log()}")
        return self.held()

    def replaced(self, key_id, cloud):
        """Wait until a pair has given way to another, and is gone."""
        until(lambda: self.held() != key_id, lambda: f"another pair:\n{self.log()}")
        return self.settled(cloud)

    def held(self):
        file = ConfigParser()
        file.read(self.machine.path("/var/lib/private/rekeyd-sinks/credentials"))
        return file.get("default", "aws_access_key_id", fallback=None)


@pytest.fixture(scope="module")
def machine(debian, wheels, tmp_path_factory):
    folder = tmp_path_factory.mktemp("machine")
    subprocess.run(["tar", "-xf", debian, "-C", folder], check=True)
    (folder / "src").mkdir()
    shutil.copytree(ROOT / "deploy", folder / "src/deploy")
    shutil.copytree(wheels, folder / "wheels")
    started = Machine(folder)
    try:
        started.booted()
        yield started
    finally:
        started.off()
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def installed(machine):
    """The machine, with rekeyd installed as deploy/README.md says."""
    machine.run("/src/deploy/systemd/install.sh", "--wheels", "/wheels", check=True)
    return machine


@pytest.fixture(scope="module")
def service(installed, cloud):
    settings = cloud.configuration(SINK, state="/var/lib/rekeyd", seal="credential:seal")
    credentials = installed.path("/etc/rekeyd/aws.credentials")
    credentials.touch(mode=0o600)
    credentials.write_text(cloud.credentials)
    drop_ins = installed.path("/etc/systemd/system/rekeyd.service.d")
    shutil.copy(ROOT / "deploy/systemd/drop-ins/aws-credentials.conf", drop_ins)
    (drop_ins / "test.conf").write_text(TEST_TIMES)
    installed.run("systemctl", "daemon-reload", check=True)
    return Unit(installed, settings)


@pytest.fixture
def unit(service, cloud):
    """The service, running, with one pair in its sink."""
    cloud.proxy.mend()
    service.start()
    service.settled(cloud)
    service.from_now_on()
    return service


@contextmanager
def drop_in(unit, source):
    """Have a drop-in beside the unit for a while."""
    target = unit.machine.path("/etc/systemd/system/rekeyd.service.d") / source.name
    shutil.copy(source, target)
    unit.machine.run("systemctl", "daemon-reload", check=True)
    try:
        yield
    finally:
        target.unlink()
        unit.machine.run("systemctl", "daemon-reload", check=True)


# The installation


def test_a_dry_run_of_the_installation_touches_nothing(machine):
    before = sorted(machine.path("/etc/systemd/system").rglob("*"))

    shown = machine.run("/src/deploy/systemd/install.sh", "--dry-run", check=True).stdout

    assert "--require-hashes" in shown
    assert sorted(machine.path("/etc/systemd/system").rglob("*")) == before


def test_the_units_are_clean_and_exposed_to_little(installed, capsys):
    units = ("rekeyd.service", "rekeyd-rotate-due.service")
    verified = installed.run("systemd-analyze", "verify", *units, "rekeyd-rotate-due.timer")
    assert (verified.returncode, verified.stderr) == (0, "")

    for unit in units:
        analysed = installed.run("systemd-analyze", "security", "--no-pager", unit).stdout
        exposure = float(re.search(r"exposure level for .*: ([\d.]+)", analysed)[1])
        with capsys.disabled():
            print(f"\n{unit} is exposed to {exposure} of 10, in the words of systemd-analyze")
        assert exposure <= EXPOSURE, analysed


# Life


def test_it_is_ready_once_started_and_rotates_when_signalled(unit, cloud):
    first = unit.held()
    assert unit.show("ActiveState") == "active"
    assert unit.show("StatusText").startswith("1 identities")

    unit.control("kill", "--kill-whom=main", "-s", "USR1")

    unit.replaced(first, cloud)


def test_commands_work_beside_the_service_as_the_documentation_says(unit, cloud):
    told = re.search(r"`(CREDENTIALS_DIRECTORY=\S+) rekeyd plan`", GUIDE)
    own = "AWS_SHARED_CREDENTIALS_FILE=/etc/rekeyd/aws.credentials"

    planned = unit.machine.run("env", told[1], own, "rekeyd", "plan", check=True)

    assert re.search(r"backup_user +rest +nothing to do before", planned.stdout)
    shown = unit.machine.run("rekeyd", "status", check=True)
    assert f"…{unit.held()[-4:]}" in shown.stdout


def test_a_reload_takes_a_good_configuration_and_refuses_a_bad_one(unit):
    pid = unit.pid
    unit.configure(log={"format": "json", "level": "debug"})
    assert unit.control("reload").returncode == 0
    unit.expect("reloaded")

    unit.configure(identities="none")
    assert unit.control("reload").returncode == 0
    unit.expect("reload refused")

    assert (unit.pid, unit.show("ActiveState")) == (pid, "active")


def test_a_hung_process_is_killed_by_the_watchdog_and_starts_again(unit):
    hung = unit.pid

    unit.machine.run("kill", "-STOP", str(hung), check=True)

    stopped = time.monotonic()
    until(lambda: unit.pid not in {0, hung}, "another process")
    assert WATCHDOG / 3 <= time.monotonic() - stopped <= WATCHDOG + ABORT + SPARE
    unit.expect("ready")
    shown = unit.machine.run("journalctl", "-q", "-u", "rekeyd.service")
    assert "Watchdog timeout" in shown.stdout


def test_a_hung_worker_is_noticed_by_the_watchdog_and_the_pair_arrives(unit, cloud):
    packages = unit.machine.path("/opt/rekeyd/lib/python3.11/site-packages")
    (packages / "wedged.py").write_text(WEDGED)
    named = packages / "wedged-1.dist-info"
    named.mkdir()
    (named / "METADATA").write_text("Metadata-Version: 2.1\nName: wedged\nVersion: 1\n")
    (named / "entry_points.txt").write_text("[rekeyd.sinks]\nwedged = wedged:Wedged\n")
    sink = unit.settings["identities"][0]["sinks"][0] | {"type": "wedged"}
    unit.configure(identities=[unit.settings["identities"][0] | {"sinks": [sink]}])
    assert unit.control("restart").returncode == 0
    first, hung = unit.settled(cloud), unit.pid
    unit.machine.run("touch", WEDGE, check=True)

    unit.control("kill", "--kill-whom=main", "-s", "USR1")

    unit.expect("verify")
    began = time.monotonic()
    until(lambda: unit.pid not in {0, hung}, "another process")
    assert time.monotonic() - began <= HUNG + WATCHDOG + ABORT + SPARE
    unit.replaced(first, cloud)


@pytest.mark.parametrize("effect", EFFECTS)
def test_a_kill_in_the_middle_of_a_rotation_leaves_one_good_pair(unit, cloud, effect):
    first, gate = unit.held(), cloud.proxy.hold(effect)
    unit.control("kill", "--kill-whom=main", "-s", "USR1")
    assert gate.arrived.wait(PATIENCE)

    unit.machine.run("kill", "-KILL", str(unit.pid), check=True)
    cloud.proxy.mend()
    gate.opened.set()

    unit.replaced(first, cloud)


def test_one_that_dies_again_and_again_is_left_for_a_person_to_start(unit, cloud):
    held, killed = unit.held(), []

    def given_up():
        if (pid := unit.pid) not in {0, *killed}:
            killed.append(pid)
            unit.machine.run("kill", "-KILL", str(pid))
        return unit.show("ActiveState") == "failed"

    until(given_up, lambda: f"the end of the tries, after {len(killed)}")
    assert len(killed) == 10
    assert cloud.keys()[held] == "Active"
    unit.start()
    assert unit.settled(cloud) == held


def test_it_stops_within_five_seconds(unit):
    began = time.monotonic()

    assert unit.control("stop").returncode == 0

    assert time.monotonic() - began < 5
    unit.expect("stopped")
    assert (unit.show("Result"), unit.show("ExecMainStatus")) == ("success", "0")


def test_a_stop_in_the_middle_of_a_rotation_finishes_its_step(unit, cloud):
    first, gate = unit.held(), cloud.proxy.hold("CreateAccessKey")
    unit.control("kill", "--kill-whom=main", "-s", "USR1")
    assert gate.arrived.wait(PATIENCE)

    unit.control("stop", "--no-block")
    unit.expect("stopping")
    cloud.proxy.mend()
    gate.opened.set()

    opened = time.monotonic()
    until(lambda: unit.show("ActiveState") == "inactive", unit.log)
    assert time.monotonic() - opened < 5
    assert unit.show("ExecMainStatus") == "0"
    made = set(cloud.keys()) - {first}
    unit.control("start")
    unit.replaced(first, cloud)
    assert set(cloud.keys()) == made


def test_a_configuration_that_cannot_work_is_not_tried_again(unit):
    unit.configure(identities="none")

    assert unit.control("restart").returncode != 0

    until(lambda: unit.show("ActiveState") == "failed", "the end of the tries")
    assert (unit.show("ExecMainStatus"), unit.show("NRestarts")) == ("78", "0")


def test_the_timer_makes_the_first_pair_without_a_daemon(unit, cloud):
    machine = unit.machine
    unit.control("disable", "--now")
    for key in list(cloud.keys()):
        cloud.iam.delete_access_key(UserName="backup_user", AccessKeyId=key)
    units = machine.path("/etc/systemd/system")
    credentials = ROOT / "deploy/systemd/drop-ins/aws-credentials.conf"
    shutil.copy(credentials, units / "rekeyd-rotate-due.service.d")
    (units / "rekeyd-rotate-due.timer.d").mkdir()
    (units / "rekeyd-rotate-due.timer.d/often.conf").write_text(OFTEN)
    machine.run("systemctl", "daemon-reload", check=True)

    machine.run("systemctl", "enable", "--now", "rekeyd-rotate-due.timer", check=True)

    until(lambda: list(cloud.keys()) == [unit.held()], unit.log)
    machine.run("systemctl", "disable", "--now", "rekeyd-rotate-due.timer", check=True)
    looks = machine.run("journalctl", "-q", "-u", "rekeyd-rotate-due.service").stdout
    assert "Finished rekeyd-rotate-due.service" in looks


# Walls


def test_the_journal_has_priorities_and_no_secret(unit, cloud):
    unit.control("kill", "--kill-whom=main", "-s", "USR1")
    unit.expect("rotated")
    unit.configure(identities="none")
    unit.control("reload")
    unit.expect("reload refused")

    entries = unit.entries()
    priority = {json.loads(e["MESSAGE"])["event"]: e["PRIORITY"] for e in entries}
    assert (priority["rotated"], priority["reload refused"]) == ("6", "3")
    fields = {(e["_SYSTEMD_UNIT"], e["SYSLOG_IDENTIFIER"], e["_PID"]) for e in entries}
    assert fields == {("rekeyd.service", "rekeyd", str(unit.pid))}
    shown = unit.machine.run(
        "journalctl", "-q", "-o", "cat", "-t", "rekeyd", "-p", "err", "-n", "1"
    )
    assert json.loads(shown.stdout)["event"] == "reload refused"
    file = ConfigParser()
    file.read(unit.machine.path("/var/lib/private/rekeyd-sinks/credentials"))
    assert file["default"]["aws_secret_access_key"] not in unit.log()


def test_it_sees_little_and_writes_only_where_the_unit_allows(unit):
    seen = ["nsenter", "-t", str(unit.pid), "-m", "/usr/bin/env", "-C", "/"]

    def touched(folder):
        return unit.machine.run(*seen, "touch", f"{folder}/trace").returncode == 0

    shown = unit.machine.run(*seen, "ls", "/", check=True).stdout.split()
    assert not {"home", "srv", "boot", "mnt", "media"} & set(shown)
    walls = ("/", "/usr", "/etc", "/etc/rekeyd", "/opt/rekeyd", "/var")
    assert [folder for folder in walls if touched(folder)] == []
    assert touched("/var/lib/rekeyd")

    owner = unit.machine.run("stat", "-c", "%u", f"/proc/{unit.pid}", check=True).stdout.strip()
    places = ("/", "-xdev", "-path", "/proc", "-prune", "-o", "-user")
    owned = unit.machine.run("find", *places, owner, "-print", check=True).stdout.split()
    assert owned
    assert [p for p in owned if not p.startswith(("/var/lib/private/rekeyd", "/run/rekeyd"))] == []


def test_a_backup_is_handed_the_pair_by_systemd(unit):
    lines = (ROOT / "deploy/systemd/drop-ins/consumer.conf").read_text().splitlines()
    handed = next(line for line in lines if line.startswith("LoadCredential="))

    options = ("-q", "--wait", "--pipe", "-p", "DynamicUser=yes", "-p", handed)
    read = ("sh", "-c", "cat $CREDENTIALS_DIRECTORY/aws; ls /var/lib/rekeyd-sinks/")
    shown = unit.machine.run("systemd-run", *options, *read)

    assert f"aws_access_key_id = {unit.held()}" in shown.stdout
    assert "denied" in shown.stderr


def test_a_folder_of_another_user_is_written_with_its_drop_in(unit, cloud):
    machine = unit.machine
    machine.path("/etc/sysusers.d").mkdir(exist_ok=True)
    machine.run("install", "-d", "-g", "backup", "-m", "2770", "/srv/backup/.aws", check=True)
    shutil.copy(ROOT / "deploy/systemd/sysusers.conf", machine.path("/etc/sysusers.d/rekeyd.conf"))
    unit.control("stop")
    machine.run("systemd-sysusers", check=True)
    path = "/srv/backup/.aws/credentials"
    sink = {"type": "aws_credentials", "path": path, "mode": "0640", "group": "backup"}

    with drop_in(unit, ROOT / "deploy/systemd/drop-ins/sink-elsewhere.conf"):
        unit.configure(identities=[unit.settings["identities"][0] | {"sinks": [sink]}])
        unit.control("start")
        until(machine.path(path).exists, unit.log)
        dressed = machine.run("stat", "-c", "%U %G %a", path, check=True).stdout.split()
        reader = machine.run("runuser", "-u", "backup", "--", "cat", path, check=True).stdout
        unit.control("stop")

    assert dressed == ["rekeyd", "backup", "640"]
    assert set(cloud.keys()) & set(re.findall(r"aws_access_key_id = (\w+)", reader))


def test_an_uninstalled_service_leaves_nothing_but_what_it_says(unit):
    machine = unit.machine
    machine.run("/src/deploy/systemd/install.sh", "uninstall", check=True)

    assert not machine.path("/opt/rekeyd").exists()
    assert not machine.path("/etc/systemd/system/rekeyd.service").exists()
    assert machine.path("/var/lib/private/rekeyd/rekeyd.sqlite").exists()

    machine.run("/src/deploy/systemd/install.sh", "uninstall", "--purge", check=True)
    assert not machine.path("/var/lib/private/rekeyd").exists()
