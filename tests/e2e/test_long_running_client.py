"""A boto3 client that is never restarted, on `credential_process`, with every setting as shipped.

Time is compressed: IAM's Date runs `RATE` times as fast, which is the only clock that rekeyd goes
by, and so does the clock of the client and of `rekeyd credentials`. A rotation with its overlap of
20 minutes takes a second.
"""

import json
import os
import signal
import subprocess
import sys
import time
from email.utils import formatdate
from pathlib import Path

import pytest

from fronts import SIGNER, Fronts
from processes import running

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

ROTATIONS = 100
RATE = 1200
OVERLAP = 20 * 60
TIMES = {"every": "30d", "overlap": f"{OVERLAP}s", "grace": "0s", "settle": "1m"}
COMMAND = Path(sys.executable).with_name("rekeyd")


class FastFronts(Fronts):
    """AWS at `RATE` times the usual speed, which refuses Inactive and deleted keys at once."""

    def __init__(self, port):
        super().__init__(port, delay=0)
        began = time.time()
        self.clock = lambda *_: formatdate(began + (time.time() - began) * RATE, usegmt=True)
        self.signers = set()

    def _judge(self, request):
        signed = SIGNER.search(request.headers.get("Authorization", ""))
        if signed and signed[2] == "s3":
            self.signers.add(signed[1])
        return super()._judge(request)


@pytest.fixture
def fronts(aws):
    started = FastFronts(aws.port)
    yield started
    started.stop()


@pytest.fixture
def client(fronts, config, tmp_path):
    """Start the client on request, at `RATE` times the usual speed; it tells when it is over."""
    stop, settings = tmp_path / "stop", tmp_path / "aws.config"
    settings.write_text(
        f"[profile backup]\ncredential_process = {COMMAND} credentials {config.sink}\n"
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    started = []

    def start():
        program = [sys.executable, Path(__file__).with_name("client.py"), fronts.endpoint]
        started.append(
            subprocess.Popen(
                ["faketime", "-f", f"+0 x{RATE}", *program, "backup-bucket", str(60 * RATE), stop],
                env=kept | {"AWS_CONFIG_FILE": str(settings)},
                stdout=subprocess.PIPE,
                text=True,
            )
        )

        def told():
            stop.touch()
            return json.loads(started[0].communicate(timeout=60)[0])

        return told

    yield start
    stop.touch()
    for process in started:
        process.communicate(timeout=60)


def test_a_hundred_rotations_pass_without_a_refused_request(aws, fronts, config, client):
    config.through(
        fronts,
        rotation=TIMES,
        verify=["sts"],  # so that S3 knows the client alone
        sinks=[{"type": "credential_process", "path": str(config.sink)}],
    )
    with running(config.path) as daemon:
        daemon.expect("rotated")
        told = client()
        for _ in range(ROTATIONS):
            time.sleep(OVERLAP / RATE * 1.03)  # rekeyd would wait at its own clock's speed
            daemon.signal(signal.SIGUSR1)
            daemon.expect("rotated")
        used = told()
        assert daemon.stop() == 0

    assert used["refused"] == []
    assert fronts.refused == 0
    assert used["rounds"] > ROTATIONS
    assert len(fronts.signers) > 0.9 * ROTATIONS, "it went from pair to pair"
