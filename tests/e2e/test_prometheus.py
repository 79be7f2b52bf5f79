"""A real Prometheus scrapes the daemon, answers the dashboard, and tells a real Alertmanager."""

import json
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from watching import DEPLOY, PATIENCE, Prometheus, answer, prometheus, queries, started, until

from processes import Daemon, free_port, running

pytestmark = pytest.mark.e2e


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
    """The daemon, the Prometheus that watches it, and what Alertmanager tells people."""

    daemon: Daemon
    metrics: str
    prometheus: Prometheus
    told: list[dict[str, Any]]


@pytest.fixture
def watched(config: Any, aws: Any, tmp_path: Path) -> Iterator[Watched]:
    listen, alertmanager = free_port(), free_port()
    config(
        top={"listen": f"127.0.0.1:{listen}"},
        rotation={"every": "30d", "overlap": "1h", "grace": "1s", "settle": "1s"},
    )
    # moto tells when a key was last used only while it checks who signs
    operator = aws.operator()
    aws.enforce()
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
        one = stack.enter_context(prometheus(tmp_path, listen, alertmanager))
        until("Alertmanager is ready", lambda: answer(f"http://127.0.0.1:{alertmanager}/-/ready"))
        yield Watched(daemon, f"http://127.0.0.1:{listen}/metrics", one, told)


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
            if any(sample["value"][1] != "NaN" for sample in watched.prometheus.ask(query)):
                del unanswered[place]
        return not unanswered

    try:
        until("every query is answered", all_answered)
    except AssertionError:
        pytest.fail(f"never answered: {unanswered}")


def test_prometheus_finds_every_rule_healthy(watched: Watched) -> None:
    def healthy() -> bool:
        groups = watched.prometheus.get("rules")["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
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
