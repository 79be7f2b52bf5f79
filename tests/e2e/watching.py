"""A real Prometheus with the rules of `deploy/`, and the dashboard's queries as Grafana asks."""

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import yaml

from processes import free_port

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana/rekeyd.json").read_text())
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


@dataclass
class Prometheus:
    address: str

    def get(self, path: str, **query: Any) -> Any:
        """Return the data of an answer of its API; nothing while it gives none."""
        shown = answer(f"{self.address}/api/v1/{path}?{urlencode(query)}")
        return json.loads(shown)["data"] if shown else {}

    def ask(self, query: str) -> list[dict[str, Any]]:
        return self.get("query", query=query).get("result", [])

    def ask_range(self, query: str, start: float, end: float, step: float) -> list[dict[str, Any]]:
        found = self.get("query_range", query=query, start=start, end=end, step=step)
        return found.get("result", [])


@contextmanager
def prometheus(
    folder: Path, listen: int, alertmanager: int, patience: str = "0s"
) -> Iterator[Prometheus]:
    """Have it scrape each second. Only the patience of the alerts is cut: all else is `deploy/`."""
    rules = (DEPLOY / "prometheus/rekeyd.rules.yml").read_text()
    (folder / "rekeyd.rules.yml").write_text(re.sub(r"\bfor: .*", f"for: {patience}", rules))
    settings = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    settings["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    settings["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{listen}"]}]
    to = [{"targets": [f"127.0.0.1:{alertmanager}"]}]
    settings["alerting"]["alertmanagers"][0]["static_configs"] = to
    (folder / "prometheus.yml").write_text(yaml.safe_dump(settings))
    port = free_port()
    command = [
        "prometheus",
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/prometheus",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    one = Prometheus(f"http://127.0.0.1:{port}")
    with started(folder / "prometheus.log", *command):
        until("Prometheus is ready", lambda: answer(f"{one.address}/-/ready"))
        until("a scrape", lambda: one.ask('up{job="rekeyd"} == 1'))
        yield one


def filled(query: str, interval: str = "1m") -> str:
    """Put values in the place of Grafana's variables."""
    spans = {"$__rate_interval": interval, "$__interval": interval}
    for variable, value in {**spans, "$identity": ".+"}.items():
        query = query.replace(variable, value)
    return query


def queries() -> dict[str, str]:
    """Each query of the dashboard by where it stands."""
    found = {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in DASHBOARD["panels"]
        for target in panel["targets"]
    }
    for annotation in DASHBOARD["annotations"]["list"]:
        found[f"annotation {annotation['name']}"] = annotation["expr"]
    return {place: filled(query) for place, query in found.items()}
