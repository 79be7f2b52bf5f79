"""A real Prometheus scrapes the real daemon, answers the dashboard, and tells a real Alertmanager.

Only the patience of the alerts is cut: everything else is the files of `deploy/` as they are.
"""

import json
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import yaml

from processes import Daemon, free_port, running

pytestmark = pytest.mark.e2e

DEPLOY = Path(__file__).parents[2] / "deploy"

PATIENCE = 60.0
"""Seconds for what takes some: scrapes, evaluations and notifications follow one another."""


def until(what: str, look: Callable[[], Any], within: float = PATIENCE) -> Any:
    """Look until there is something, and return it."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.1)
    raise AssertionError(f"not within {within:.0f} s: {what}")


def answer(url: str) -> str:
    """Return what an address answers; nothing while it does not."""
    try:
        with urlopen(url, timeout=10) as response:
            return response.read().decode()
    except HTTPError as error:
        with error:
            return ""
    except URLError:
        return ""


@contextmanager
def started(log: Path, *command: str) -> Iterator[None]:
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as it:
        try:
            yield
        finally:
            it.kill()


@contextmanager
def receiver() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield the address of a webhook, and the alerts that it is told."""
    told: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_POST(self) -> None:
            told.extend(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["alerts"])
            self.send_response(200)
            self.end_headers()

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/", told
        server.shutdown()
        thread.join()


@dataclass
class Watched:
    """The daemon, and the Prometheus that watches it."""

    daemon: Daemon
    metrics: str
    prometheus: str
    told: list[dict[str, Any]]

    def ask(self, query: str) -> list[dict[str, Any]]:
        shown = answer(f"{self.prometheus}/api/v1/query?{urlencode({'query': query})}")
        return json.loads(shown)["data"]["result"] if shown else []


@pytest.fixture
def watched(config: Any, aws: Any, tmp_path: Path) -> Iterator[Watched]:
    listen, prometheus, alertmanager = free_port(), free_port(), free_port()
    config(
        top={"listen": f"127.0.0.1:{listen}"},
        rotation={"every": "30d", "overlap": "1h", "grace": "1s", "settle": "1s"},
    )
    # moto tells when a key was last used only while it checks who signs
    operator = aws.operator()
    aws.enforce()
    rules = (DEPLOY / "prometheus/rekeyd.rules.yml").read_text()
    (tmp_path / "rekeyd.rules.yml").write_text(re.sub(r"\bfor: .*", "for: 0s", rules))
    scraping = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    scraping["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    scraping["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{listen}"]}]
    to = [{"targets": [f"127.0.0.1:{alertmanager}"]}]
    scraping["alerting"]["alertmanagers"][0]["static_configs"] = to
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(scraping))
    with ExitStack() as stack:
        webhook, told = stack.enter_context(receiver())
        routing = {
            "route": {"receiver": "people", "group_wait": "1s", "group_by": ["alertname"]},
            "receivers": [{"name": "people", "webhook_configs": [{"url": webhook}]}],
        }
        (tmp_path / "alertmanager.yml").write_text(yaml.safe_dump(routing))
        daemon = stack.enter_context(running(config.path, operator))
        daemon.expect("ready")
        daemon.expect("rotated")
        stack.enter_context(
            started(
                tmp_path / "alertmanager.log",
                "prometheus-alertmanager",
                f"--config.file={tmp_path}/alertmanager.yml",
                f"--storage.path={tmp_path}/alertmanager",
                f"--web.listen-address=127.0.0.1:{alertmanager}",
                "--cluster.listen-address=",
            )
        )
        stack.enter_context(
            started(
                tmp_path / "prometheus.log",
                "prometheus",
                f"--config.file={tmp_path}/prometheus.yml",
                f"--storage.tsdb.path={tmp_path}/prometheus",
                f"--web.listen-address=127.0.0.1:{prometheus}",
            )
        )
        one = Watched(
            daemon, f"http://127.0.0.1:{listen}/metrics", f"http://127.0.0.1:{prometheus}", told
        )
        until(
            "both servers are ready",
            lambda: (
                answer(f"{one.prometheus}/-/ready")
                and answer(f"http://127.0.0.1:{alertmanager}/-/ready")
            ),
        )
        until("a scrape", lambda: one.ask('up{job="rekeyd"} == 1'))
        yield one


def queries() -> dict[str, str]:
    """Each query of the dashboard by where it stands, with Grafana's variables filled in."""
    dashboard = json.loads((DEPLOY / "grafana/rekeyd.json").read_text())
    found = {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in dashboard["panels"]
        for target in panel["targets"]
    }
    for annotation in dashboard["annotations"]["list"]:
        found[f"annotation {annotation['name']}"] = annotation["expr"]
    filled = {"$__rate_interval": "1m", "$__interval": "1m", "$identity": ".+"}
    for variable, value in filled.items():
        found = {place: query.replace(variable, value) for place, query in found.items()}
    return found


def promtool(*arguments: str | Path, given: str = "") -> str:
    """Return what promtool complains of."""
    command = ["promtool", *arguments]
    done = subprocess.run(
        command, input=given, capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    return done.stdout + done.stderr if done.returncode or given else ""


def test_promtool_finds_nothing_to_mend_in_the_metrics(watched: Watched) -> None:
    shown = answer(watched.metrics)
    assert "rekeyd_rotations_total" in shown
    assert promtool("check", "metrics", given=shown) == ""


def test_every_alert_fires_when_it_should_and_is_quiet_when_not() -> None:
    assert promtool("test", "rules", DEPLOY / "prometheus/rekeyd.rules.test.yml") == ""


def test_prometheus_takes_the_configuration() -> None:
    assert promtool("check", "config", DEPLOY / "prometheus/prometheus.yml") == ""


def test_every_query_of_the_dashboard_is_answered_after_a_rotation(watched: Watched) -> None:
    watched.daemon.signal(signal.SIGUSR1)
    watched.daemon.expect("rotated")
    unanswered = queries()

    def all_answered() -> bool:
        for place, query in list(unanswered.items()):
            if any(sample["value"][1] != "NaN" for sample in watched.ask(query)):
                del unanswered[place]
        return not unanswered

    try:
        until("every query is answered", all_answered)
    except AssertionError:
        pytest.fail(f"never answered: {unanswered}")


def test_prometheus_finds_every_rule_healthy(watched: Watched) -> None:
    def healthy() -> bool:
        shown = json.loads(answer(f"{watched.prometheus}/api/v1/rules"))["data"]["groups"]
        rules = [rule for group in shown for rule in group["rules"]]
        assert not [rule for rule in rules if rule["health"] == "err"]
        return bool(rules) and all(rule["health"] == "ok" for rule in rules)

    until("each rule was evaluated", healthy)


def test_a_hold_reaches_people_through_alertmanager(watched: Watched, aws: Any) -> None:
    aws.reset()  # somebody deletes the user, and everything else
    watched.daemon.signal(signal.SIGUSR1)
    watched.daemon.expect("hold", reason="user_missing")

    def alert() -> dict[str, Any] | None:
        return next(
            (one for one in watched.told if one["labels"]["alertname"] == "RekeydBackupsRefused"),
            None,
        )

    told = until("the alert arrives", alert)
    assert told["status"] == "firing"
    assert told["labels"]["severity"] == "critical"
    assert told["labels"]["identity"] == "backup_user"
    assert told["labels"]["reason"] == "user_missing"
    assert told["annotations"]["runbook_url"] == "deploy/README.md#rekeydbackupsrefused"
