"""`kubernetes_secret` against the published API."""

import pytest
from described import NEW, OLD, Kubernetes, opened, same

from rekeyd.errors import Refused, Transient

HELD = {"AWS_ACCESS_KEY_ID": OLD.key_id, "AWS_SECRET_ACCESS_KEY": OLD.secret.reveal()}


@pytest.fixture
def cluster(monkeypatch):
    with Kubernetes() as server:
        monkeypatch.setenv("TOKEN", server.token)
        yield server


def sink(cluster, **more):
    where = {"namespace": "backup", "secret_name": "backup-s3", "token": "env:TOKEN"}
    return opened("kubernetes_secret", **{"api_server": cluster.address, **where, **more})


def test_both_keys_are_one_patch_and_everything_else_stays(cluster):
    cluster.hold({**HELD, "bucket": "b"})

    sink(cluster).put(NEW)

    assert cluster.writes == 1
    assert cluster.held["bucket"] == "b"
    assert cluster.secret["metadata"]["labels"] == {"team": "storage"}
    assert same(sink(cluster).read(), NEW)


def test_a_secret_that_is_missing_holds_no_pair_and_is_made(cluster):
    assert sink(cluster).read() is None

    sink(cluster).put(NEW)

    assert cluster.secret["type"] == "Opaque"
    assert same(sink(cluster).read(), NEW)


def test_the_names_of_the_keys_can_be_chosen(cluster):
    chosen = sink(cluster, fields={"id": "access-key", "secret": "secret-key"})

    chosen.put(NEW)

    assert cluster.held == {"access-key": NEW.key_id, "secret-key": NEW.secret.reveal()}
    assert same(chosen.read(), NEW)


def test_writing_what_is_there_writes_nothing(cluster):
    cluster.hold(HELD)

    sink(cluster).put(OLD)

    assert cluster.writes == 0


def test_a_secret_without_data_takes_the_pair(cluster):
    cluster.hold({}, type="Opaque")

    sink(cluster).put(NEW)

    assert same(sink(cluster).read(), NEW)


def test_a_write_by_somebody_else_at_the_same_moment_is_not_lost(cluster):
    cluster.hold(HELD)
    cluster.before_write = cluster.touch

    with pytest.raises(Transient, match="somebody else"):
        sink(cluster).put(NEW)

    assert cluster.held == HELD


@pytest.mark.parametrize(("held", "verb"), [(True, "get"), (True, "patch"), (False, "create")])
def test_check_finds_a_missing_verb_before_anything_is_written(cluster, held, verb):
    if held:
        cluster.hold(HELD)
    cluster.verbs.discard(verb)

    with pytest.raises(Refused, match=f"{verb} the Secret backup/backup-s3"):
        sink(cluster).check()

    assert cluster.writes == 0


@pytest.mark.parametrize(("held", "verbs"), [(True, {"get", "patch"}), (False, {"get", "create"})])
def test_check_is_content_with_the_least_rights_and_writes_nothing(cluster, held, verbs):
    if held:
        cluster.hold(HELD)
    cluster.verbs = verbs

    sink(cluster).check()

    assert cluster.writes == 0


def test_an_immutable_secret_is_refused(cluster):
    cluster.hold(HELD, immutable=True)

    for deed in (sink(cluster).check, lambda: sink(cluster).put(NEW)):
        with pytest.raises(Refused, match="immutable"):
            deed()


def test_a_wrong_token_is_refused(cluster, monkeypatch):
    monkeypatch.setenv("TOKEN", "another")

    with pytest.raises(Refused, match="401"):
        sink(cluster).read()


def test_values_that_are_no_text_are_no_pair(cluster):
    cluster.hold(HELD)
    cluster.secret["data"]["AWS_SECRET_ACCESS_KEY"] = "/////w=="

    assert sink(cluster).read() is None


def test_outside_a_cluster_it_says_what_to_set(monkeypatch):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    inside = opened("kubernetes_secret", namespace="backup", secret_name="backup-s3")

    with pytest.raises(Refused, match="does not run inside") as caught:
        inside.check()

    assert "api_server" in caught.value.do


@pytest.mark.parametrize(
    ("host", "shown"), [("10.96.0.1", "10.96.0.1"), ("fd00::1", r"\[fd00::1\]")]
)
def test_inside_a_cluster_the_api_server_and_its_ca_come_from_the_pod(monkeypatch, host, shown):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT_HTTPS", "6443")
    monkeypatch.setenv("TOKEN", "t")
    inside = opened(
        "kubernetes_secret", namespace="backup", secret_name="backup-s3", token="env:TOKEN"
    )

    with pytest.raises(Refused, match=rf"CA file /var/run/.*ca\.crt .*{shown}:6443"):
        inside.check()
