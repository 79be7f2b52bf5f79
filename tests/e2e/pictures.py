"""`make pictures`: what a real Prometheus and a real browser show of a real daemon.

Four identities are rotated again and again while their backups work, and things go wrong as they
do in a year: a disk is away, AWS throttles, somebody makes a key by hand and leaves it.
"""

import threading
import time
from collections.abc import Callable, Iterator
from configparser import ConfigParser
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from drawing import Series, Span, draw
from playwright.sync_api import sync_playwright
from watching import DASHBOARD, DEPLOY, Prometheus, filled, prometheus

from processes import free_port, running

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

MINUTES = 9.2
POINTS = 110
"""How many instants of the time a panel shows."""

RATE = "15s"
"""What Grafana's `$__rate_interval` would be, of scrapes each second."""

DESK = {"width": 1280, "height": 800}
SINKS = {
    "backup_user": ["database host", "mirror"],
    "photos": ["camera host", "usb disk"],
    "archive": ["vault"],
    "mail": ["mail host"],
}
TIMES = {"every": "150s", "overlap": "30s", "grace": "15s", "settle": "2s"}
PATIENCE = "70s"
"""Of the alerts. The rotations take turns: each is due for a moment, and none is for so long."""


def configured(cloud: Any, folder: Path, listen: str) -> Path:
    def sink(name: str) -> dict[str, str]:
        (folder / name).mkdir()
        return {"type": "aws_credentials", "name": name, "path": str(folder / name / "credentials")}

    settings = cloud.configuration("unused", listen=listen, state=str(folder / "state"))
    plain = settings["identities"][0] | {"rotation": TIMES}
    settings["identities"] = [
        plain | {"user": user, "sinks": [sink(name) for name in names]}
        for user, names in SINKS.items()
    ]
    path = folder / "rekeyd.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


@contextmanager
def backups(folder: Path, endpoint: str) -> Iterator[None]:
    """Let a backup of each user work every few seconds. Each reads its pair only now and then."""
    over = threading.Event()

    def work(credentials: Path) -> None:
        while not over.wait(2):
            file = ConfigParser()
            file.read(credentials)
            if "default" in file:
                run(dict(file["default"]))

    def run(pair: dict[str, str]) -> None:
        with closing(boto3.client("sts", "us-east-1", endpoint_url=endpoint, **pair)) as client:
            for _ in range(8):
                if not over.wait(3):
                    client.get_caller_identity()  # a dead pair would end the picture here

    jobs = [
        threading.Thread(target=work, args=(folder / names[0] / "credentials",))
        for names in SINKS.values()
    ]
    for job in jobs:
        job.start()
    try:
        yield
    finally:
        over.set()
        for job in jobs:
            job.join()


def live(folder: Path, cloud: Any) -> None:
    """Let the minutes pass, and what goes wrong in them."""
    away = folder / "usb disk away"
    disk = folder / "usb disk"
    happenings: list[tuple[float, Callable[[], object]]] = [
        (2.2, lambda: disk.rename(away)),
        (2.9, lambda: away.rename(disk)),
        (4.9, lambda: cloud.proxy.fail("CreateAccessKey", "Throttling")),
        (5.4, cloud.proxy.mend),
        (6.8, lambda: cloud.iam.create_access_key(UserName="archive")),
    ]
    began = time.monotonic()
    for minute, happen in [*happenings, (MINUTES, lambda: None)]:
        time.sleep(max(0.0, began + 60 * minute - time.monotonic()))
        happen()


def asked(one: Prometheus, span: Span) -> Callable[[dict[str, Any]], list[Series]]:
    """Return what answers the targets of a dashboard."""

    def ask(target: dict[str, Any]) -> list[Series]:
        query = filled(target["expr"], RATE)
        if target.get("instant"):
            found = [(each["metric"], [each["value"]]) for each in one.ask(query)]
        else:
            shown = one.ask_range(query, span.start, span.end, span.step)
            found = [(each["metric"], each["values"]) for each in shown]
        return [
            Series(labels, [(float(at), float(value)) for at, value in points if value != "NaN"])
            for labels, points in found
        ]

    return ask


def photographed(address: str, path: Path) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox"]
        )
        page = browser.new_page(viewport=DESK)
        page.goto(address)
        page.screenshot(path=path)
        browser.close()


def test_pictures(cloud: Any, tmp_path: Path) -> None:
    listen = free_port()
    address = f"127.0.0.1:{listen}"
    for user in SINKS.keys() - {"backup_user"}:
        cloud.iam.create_user(UserName=user)
    config = configured(cloud, tmp_path, address)
    keys = tmp_path / "aws"
    keys.write_text(cloud.credentials)
    with (
        running(config, {"AWS_SHARED_CREDENTIALS_FILE": str(keys)}) as daemon,
        prometheus(tmp_path, listen, free_port(), patience=PATIENCE) as one,
        backups(tmp_path, cloud.iam.meta.endpoint_url),
    ):
        live(tmp_path, cloud)
        end = time.time()
        span = Span(end - 60 * MINUTES, end, 60 * MINUTES / POINTS)
        picture = draw(DASHBOARD, asked(one, span), span)
        photographed(f"http://{address}/", DEPLOY / "status-page.png")
        assert daemon.stop() == 0
    (DEPLOY / "grafana/dashboard.svg").write_text(picture)
