"""What `deploy/` ships is read as its users' programs read it, and names only what there is."""

import json
import re
import subprocess
import sys
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import promql_parser
import pytest
import yaml
from cloudcoil.models.prometheus_operator.v1 import PodMonitor, PrometheusRule

from rekeyd.commands import provisioning
from rekeyd.config import load
from rekeyd.metrics import Metrics

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
RULES = DEPLOY / "prometheus/rekeyd.rules.yml"
DASHBOARD = json.loads((DEPLOY / "grafana/rekeyd.json").read_text())
OVERLAYS = ("single", "replicas", "cronjob")
STRANGERS = {"up", "ALERTS", "process_resident_memory_bytes"}
"""What the rules and the dashboard take from Prometheus and its client library."""


def rules(kind: str) -> dict[str, dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return {rule[kind]: rule for group in groups for rule in group["rules"] if kind in rule}


def in_plain_promql(query: str) -> str:
    return query.replace("$__rate_interval", "1m").replace("$__interval", "1m")


def dashboard_queries() -> list[str]:
    found = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    found += [annotation["expr"] for annotation in DASHBOARD["annotations"]["list"]]
    return [in_plain_promql(query) for query in found]


def rule_queries() -> list[str]:
    return [rule["expr"] for kind in ("record", "alert") for rule in rules(kind).values()]


def known_names() -> set[str]:
    """Every name that Prometheus sees: those of rekeyd, and those that the rules record."""
    metrics = Metrics("1")
    metrics.show(list)
    families = list(metrics.registry.collect())
    endings = ("", "_total", "_bucket", "_count", "_sum", "_info")
    return {family.name + end for family in families for end in endings} | rules("record").keys()


def selected_names(query: str) -> set[str]:
    return set(re.findall(r"\b(?:[a-z]+:)?rekeyd_\w+(?::\w+)?", query))


@pytest.mark.parametrize("query", [*rule_queries(), *dashboard_queries()])
def test_a_query_is_promql_over_metrics_that_exist(query: str) -> None:
    promql_parser.parse(query)
    assert selected_names(query) - known_names() == set()
    assert selected_names(query) or any(name in query for name in STRANGERS)


@pytest.mark.parametrize("alert", rules("alert"))
def test_an_alert_says_how_bad_it_is_and_what_to_do(alert: str) -> None:
    rule = rules("alert")[alert]
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    page, _, section = rule["annotations"]["runbook_url"].partition("#")
    assert section == alert.lower()
    assert f"\n### {alert}\n" in (ROOT / page).read_text()


@pytest.mark.parametrize("alert", rules("alert"))
def test_an_alert_has_a_case_that_fires_and_one_that_is_quiet(alert: str) -> None:
    cases = yaml.safe_load(RULES.with_suffix(".test.yml").read_text())["tests"]
    expected = [
        bool(case["exp_alerts"])
        for test in cases
        for case in test.get("alert_rule_test", ())
        if case["alertname"] == alert
    ]
    assert set(expected) == {True, False}


def test_panels_of_the_dashboard_do_not_overlap() -> None:
    cells = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for grid in [panel["gridPos"]]
        for x in range(grid["x"], grid["x"] + grid["w"])
        for y in range(grid["y"], grid["y"] + grid["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


@pytest.mark.parametrize("party", ["rotator", "provisioner", "backup"])
def test_the_policies_are_those_that_rekeyd_prints(party: str, capsys: Any) -> None:
    provisioning.policy(load(ROOT / "config/rekeyd.full.yaml"), party)
    assert capsys.readouterr().out == (DEPLOY / f"iam/{party}.json").read_text()


@pytest.mark.parametrize("path", sorted(DEPLOY.rglob("*.y*ml")), ids=lambda path: path.name)
def test_every_file_is_yaml(path: Path) -> None:
    assert all(yaml.safe_load_all(path.read_text()))


OPERATOR = {"PodMonitor": PodMonitor, "PrometheusRule": PrometheusRule}
"""What Kubernetes does not know: the Prometheus operator's, as its resource definitions have it."""


@cache
def resources(folder: str) -> list[dict[str, Any]]:
    """Return what `kubectl kustomize` makes of a folder of `deploy/kubernetes`."""
    kubectl = Path(sys.executable).with_name("kubectl")
    command = [kubectl, "kustomize", DEPLOY / "kubernetes" / folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return list(yaml.safe_load_all(done.stdout))


def validate(document: dict[str, Any]) -> None:
    if model := OPERATOR.get(document["kind"]):
        understood = model.model_validate(document)
        assert understood.model_dump(by_alias=True, exclude_none=True, mode="json") == document
    else:
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubernetes_takes_every_resource_that_kustomize_renders(overlay: str) -> None:
    for document in resources(f"overlays/{overlay}"):
        validate(document)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_pod_is_given_its_image_and_its_configuration(overlay: str) -> None:
    documents = resources(f"overlays/{overlay}")
    spec = pod(documents)
    assert spec["containers"][0]["image"].startswith("registry.example.com/rekeyd:")
    made = one(documents, "ConfigMap")["metadata"]["name"]
    assert made in [volume.get("configMap", {}).get("name") for volume in spec["volumes"]]


def test_the_operator_takes_the_alerts_as_the_documentation_wraps_them() -> None:
    """deploy/README.md has a few lines of shell for it, whose end is `kubectl apply`."""
    (lines,) = re.findall(
        r"^\{\n.*?^\}", (DEPLOY / "README.md").read_text(), re.DOTALL | re.MULTILINE
    )
    made = subprocess.run(
        ["sh", "-ec", lines], cwd=ROOT, capture_output=True, text=True, check=True
    )
    document = yaml.safe_load(made.stdout)
    validate(document)
    assert document["spec"] == yaml.safe_load(RULES.read_text())


def pod(documents: list[dict[str, Any]]) -> dict[str, Any]:
    kinds = {"StatefulSet", "Deployment", "CronJob"}
    workload = next(each for each in documents if each["kind"] in kinds)
    spec = workload["spec"]
    template = (
        spec["jobTemplate"]["spec"]["template"] if "jobTemplate" in spec else spec["template"]
    )
    return template["spec"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_pod_is_as_restricted_as_its_namespace_demands(overlay: str) -> None:
    """Kubernetes, "Pod Security Standards": the profile `restricted`, and a read-only root."""
    documents = resources(f"overlays/{overlay}")
    namespace = next(one for one in documents if one["kind"] == "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    spec = pod(documents)
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert {*spec} & {"hostNetwork", "hostPID", "hostIPC"} == set()
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    kinds = {key for volume in spec["volumes"] for key in volume if key != "name"}
    assert kinds <= {"configMap", "secret", "persistentVolumeClaim"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_pod_signs_as_the_role_of_its_service_account(overlay: str) -> None:
    account = one(resources(f"overlays/{overlay}"), "ServiceAccount")["metadata"]
    assert pod(resources(f"overlays/{overlay}"))["serviceAccountName"] == account["name"]
    role = account["annotations"]["eks.amazonaws.com/role-arn"]
    assert re.fullmatch(r"arn:aws:iam::\d{12}:role/\w+", role)


def test_rbac_names_the_secrets_that_the_configuration_fills() -> None:
    settings = load(DEPLOY / "kubernetes/base/rekeyd.yaml")
    filled = {
        (sink.namespace, sink.secret_name)
        for identity in settings.identities
        for sink in identity.sinks
        if sink.type == "kubernetes_secret"
    }
    roles = [one for one in resources("base") if one["kind"] == "Role"]
    granted = {
        (role["metadata"]["namespace"], name)
        for role in roles
        for rule in role["rules"]
        for name in rule["resourceNames"]
    }
    assert granted == filled
    assert all(rule["verbs"] == ["get", "patch"] for role in roles for rule in role["rules"])


def one(documents: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    return next(document for document in documents if document["kind"] == kind)


def test_the_probes_and_the_monitor_ask_what_the_daemon_answers() -> None:
    documents = resources("overlays/single")
    listen = load(DEPLOY / "kubernetes/base/rekeyd.yaml").listen
    template = one(documents, "StatefulSet")["spec"]["template"]
    (container,) = template["spec"]["containers"]
    (port,) = container["ports"]
    assert (port["name"], port["containerPort"]) == ("http", listen.port)
    probes = {name: container[name]["httpGet"] for name in container if name.endswith("Probe")}
    assert probes == {
        "startupProbe": {"path": "/-/healthy", "port": "http"},
        "livenessProbe": {"path": "/-/healthy", "port": "http"},
        "readinessProbe": {"path": "/-/ready", "port": "http"},
    }
    monitor = one(documents, "PodMonitor")["spec"]
    assert monitor["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    (scraped,) = monitor["podMetricsEndpoints"]
    assert (scraped["port"], scraped["path"]) == ("http", "/metrics")
    (relabelled,) = scraped["relabelings"]
    assert f'{relabelled["targetLabel"]}="{relabelled["replacement"]}"' in RULES.read_text()


def test_the_network_admits_prometheus_alone_and_no_metadata_service() -> None:
    policy = one(resources("base"), "NetworkPolicy")["spec"]
    assert policy["podSelector"] == {}
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    (admitted,) = policy["ingress"]
    (peer,) = admitted["from"]
    assert peer.keys() == {"namespaceSelector", "podSelector"}  # both, not either
    assert admitted["ports"] == [{"protocol": "TCP", "port": 9797}]
    anywhere = [rule["ports"] for rule in policy["egress"] if "to" not in rule]
    assert {port["port"] for ports in anywhere for port in ports} == {443, 6443}


def test_no_overlay_runs_two_daemons_on_one_state() -> None:
    workload = one(resources("overlays/single"), "StatefulSet")["spec"]
    assert workload["replicas"] == 1
    (claim,) = workload["volumeClaimTemplates"]
    assert claim["spec"]["accessModes"] == ["ReadWriteOncePod"]
    job = one(resources("overlays/cronjob"), "CronJob")["spec"]
    assert job["concurrencyPolicy"] == "Forbid"


def test_replicas_differ_from_the_single_daemon_in_their_state_alone() -> None:
    replicas = resources("overlays/replicas")
    single, several = deepcopy((pod(resources("overlays/single")), pod(replicas)))
    (alone,), (shared,) = single.pop("containers"), several.pop("containers")
    mounted = {each["mountPath"] for each in alone.pop("volumeMounts")}
    mounts = {each["mountPath"] for each in shared.pop("volumeMounts")}
    assert mounts == mounted - {"/var/lib/rekeyd"} | {"/run/database"}
    assert shared == alone
    assert one(replicas, "Deployment")["spec"]["replicas"] > 1
    assert one(replicas, "PodDisruptionBudget")["spec"]["minAvailable"] == 1

    settings = load(DEPLOY / "kubernetes/overlays/replicas/rekeyd.yaml")
    assert settings.state_is_shared
    state = set(re.findall(r"=(/[^&]+)/[^/&]+", settings.state))
    assert state == {"/run/database"}
    base = load(DEPLOY / "kubernetes/base/rekeyd.yaml")
    assert settings.model_copy(update={"state": base.state}) == base
