"""The image, built and run by podman: without a network, a capability, or a writable root."""

import json
import os
import re
import subprocess
import time
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0
USER = 65532
LARGEST = 95_000_000
"""Bytes that the image may add to its base."""

ENGINE = """\
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
netns = "host"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
WALLS = ("--read-only", "--cap-drop=all", "--security-opt=no-new-privileges")
NO_SHELL = ("-v", "/dev/null:/usr/bin/dash:ro", "-v", "/dev/null:/usr/bin/bash:ro")
NO_TIMER = "--health-interval=disable"
"""podman has systemd look after health; here the test asks."""


class Podman:
    """The engine with a storage of its own, as it works where no systemd runs."""

    def __init__(self, folder):
        self._folder = folder
        settings = folder / "containers.conf"
        settings.write_text(ENGINE)
        self._environment = os.environ | {"CONTAINERS_CONF": str(settings)}

    def run(self, *command, check=True):
        places = ("--root", self._folder / "root", "--runroot", self._folder / "run")
        done = subprocess.run(
            ["podman", *places, *command],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done

    def clear(self):
        self.run("rm", "--all", "--force", "--time", "0", check=False)
        self.run("volume", "rm", "--all", "--force", check=False)
        self.run("rmi", "--all", "--force", check=False)
        subprocess.run(["umount", "-q", self._folder / "root/overlay"], check=False)


class Container:
    """A container of the image, and what it logs."""

    def __init__(self, podman, name):
        self._podman = podman
        self.name = name

    def do(self, command, *arguments, check=True):
        return self._podman.run(command, *arguments, self.name, check=check)

    def show(self, what):
        return self.do("inspect", "--format", what).stdout.strip()

    def log(self):
        shown = self.do("logs")
        return shown.stdout + shown.stderr

    def wait_for(self, found, what):
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if answer := found():
                return answer
            time.sleep(0.1)
        raise AssertionError(f"{self.name}: {what} not within {PATIENCE} s:\n{self.log()}")

    def expect(self, event, times=1):
        self.wait_for(lambda: self.count(event) >= times, event)

    def count(self, event):
        return self.log().count(f'"event": "{event}"')


@pytest.fixture(scope="module")
def podman(debian, wheels, tmp_path_factory):
    """The engine with the image `rekeyd`, on a Debian instead of the public base."""
    folder = tmp_path_factory.mktemp("podman")
    packages = folder / "wheels"
    packages.mkdir()
    for wheel in wheels.iterdir():
        os.link(wheel.resolve(), packages / wheel.name)
    engine = Podman(folder)
    engine.run("import", "--quiet", debian, "localhost/debian")
    offline = ("--network", "none", "--build-arg", "PIP_NO_INDEX=1", "--volume")
    engine.run(
        *("build", "--quiet", "--format", "docker", "--build-arg", "BASE=localhost/debian"),
        *(*offline, f"{packages}:/wheels:ro", "--tag", "localhost/rekeyd"),
        *("--file", ROOT / "deploy/container/Containerfile", ROOT),
    )
    yield engine
    engine.clear()


def settings_in(folder, settings):
    """Write the configuration and the seal key; return how a container is given them."""
    config, seal = folder / "rekeyd.yaml", folder / "seal.key"
    config.write_text(yaml.safe_dump(settings))
    seal.touch(mode=0o600)
    seal.write_bytes(os.urandom(32))
    os.chown(seal, USER, USER)
    return (
        *("-v", f"{config}:/etc/rekeyd/rekeyd.yaml:ro"),
        *("-v", f"{seal}:/etc/rekeyd/seal.key:ro"),
    )


@pytest.fixture(scope="module")
def running(podman, cloud, tmp_path_factory):
    """A container that rotates, with a state and a sink that outlive it."""
    settings = cloud.configuration(
        "/srv/pairs/credentials", state="/var/lib/rekeyd", seal="file:/etc/rekeyd/seal.key"
    )
    credentials = dict(re.findall(r"(aws_\w+) = (\S+)", cloud.credentials))
    given = tmp_path_factory.mktemp("settings") / "environment"
    given.write_text("".join(f"{name.upper()}={value}\n" for name, value in credentials.items()))
    podman.run(
        *("run", "--detach", "--name", "rotating", NO_TIMER, *WALLS, *NO_SHELL),
        *("-v", "state:/var/lib/rekeyd", "-v", "pairs:/srv/pairs", "--env-file", given),
        *settings_in(tmp_path_factory.mktemp("config"), settings),
        "localhost/rekeyd",
    )
    container = Container(podman, "rotating")
    container.expect("rotated")
    return container


def held(podman):
    """Return the key id that another container reads in the sink."""
    shown = podman.run(
        *("run", "--rm", "--user", f"{USER}:{USER}", "-v", "pairs:/pairs:ro", *WALLS),
        *("localhost/debian", "/usr/bin/cat", "/pairs/credentials"),
    )
    return re.search(r"aws_access_key_id = (\w+)", shown.stdout)[1]


def test_the_image_says_how_to_treat_it(podman):
    image = json.loads(podman.run("inspect", "localhost/rekeyd").stdout)[0]
    shown = image["Config"]

    assert shown["User"] == f"{USER}:{USER}"
    assert shown["StopSignal"] == "SIGTERM"
    assert image["Healthcheck"]["Test"][0] == "CMD"
    assert shown["Labels"]["org.opencontainers.image.title"] == "rekeyd"


def test_the_image_adds_little_to_its_base(podman, capsys):
    def size_and_layers(image):
        shown = json.loads(podman.run("inspect", image).stdout)[0]
        return shown["Size"], len(shown["RootFS"]["Layers"])

    (base, below), (whole, layers) = map(size_and_layers, ("localhost/debian", "localhost/rekeyd"))
    with capsys.disabled():
        print(
            f"\nthe image: {whole / 1e6:.0f} MB in {layers} layers, of which {base / 1e6:.0f} MB "
            f"in {below} are its base; rekeyd adds {(whole - base) / 1e6:.1f} MB"
        )
    assert whole - base < LARGEST


def test_compose_takes_its_file_and_finds_what_that_mounts():
    file = ROOT / "deploy/container/compose.yaml"
    keys = {"AWS_ACCESS_KEY_ID": "anybody", "AWS_SECRET_ACCESS_KEY": "anybody"}
    done = subprocess.run(
        ["docker-compose", "-f", file, "config"],
        env=os.environ | keys,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    services = yaml.safe_load(done.stdout)["services"]
    assert services.keys() == {"rekeyd", "prometheus", "alertmanager", "grafana"}
    mounts = [mount.split(":")[0] for one in services.values() for mount in one.get("volumes", ())]
    given = [file.parent / mount for mount in mounts if mount.startswith("/")]
    own = {file.parent / name for name in ("rekeyd.yaml", "seal.key")}
    assert [path for path in given if path not in own and not path.exists()] == []


def test_it_runs_as_nobody_in_particular_and_without_any_right(running):
    pid = running.show("{{.State.Pid}}")
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )

    assert set(status["Uid"].split()) == {str(USER)}
    assert {int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")} == {0}
    assert status["NoNewPrivs"] == "1"
    root = next(
        line.split()
        for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
        if line.split()[4] == "/"
    )
    assert "ro" in root[5].split(",")


def test_another_container_reads_each_new_pair(running, podman, cloud):
    first, so_far = held(podman), running.count("rotated")
    assert cloud.keys()[first] == "Active"

    running.do("kill", "--signal", "USR1")

    running.expect("rotated", times=so_far + 1)
    second = held(podman)
    assert second != first
    running.wait_for(lambda: cloud.keys() == {second: "Active"}, "the old pair's end")


def test_it_stops_in_time_and_goes_on_with_its_state(running, podman, cloud):
    before, readies = held(podman), running.count("ready")
    began = time.monotonic()

    running.do("stop", "--time", "30")

    assert time.monotonic() - began < 10
    assert running.show("{{.State.ExitCode}}") == "0"
    running.do("start")
    running.expect("ready", times=readies + 1)
    running.do("kill", "--signal", "USR2")
    running.expect("status")
    assert held(podman) == before
    assert cloud.keys() == {before: "Active"}


def test_no_secret_stands_in_its_log(running, podman):
    shown = podman.run(
        *("run", "--rm", "--user", f"{USER}:{USER}", "-v", "pairs:/pairs:ro", *WALLS),
        *("localhost/debian", "/usr/bin/cat", "/pairs/credentials"),
    ).stdout

    assert re.search(r"aws_secret_access_key = (\S+)", shown)[1] not in running.log()


def test_its_health_check_tells_a_living_daemon_from_a_hung_one(podman, cloud, tmp_path):
    settings = cloud.configuration("/srv/pairs/credentials", listen="127.0.0.1:9797")
    settings |= {"state": "/var/lib/rekeyd", "seal": "file:/etc/rekeyd/seal.key"}
    podman.run(
        *("run", "--detach", "--name", "watched", NO_TIMER, *WALLS, *NO_SHELL, "--network=none"),
        *settings_in(tmp_path, settings),
        "localhost/rekeyd",
    )
    container = Container(podman, "watched")
    container.expect("ready")

    def healthy():
        return container.do("healthcheck", "run", check=False).returncode == 0

    container.wait_for(healthy, "health")
    container.do("kill", "--signal", "STOP")
    container.wait_for(lambda: not healthy(), "ill health")
    container.do("kill", "--signal", "CONT")
    container.wait_for(healthy, "health")
