"""A PostgreSQL server of the tests' own, on loopback, from the package of the distribution."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from processes import free_port

PLACES = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/local/pgsql/bin")
NOBODY = 65534
"""The server refuses to run as root."""


class Postgres:
    """A cluster in a folder. It keeps its data through `stop` and `start`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"postgresql://rekeyd@127.0.0.1:{self.port}/rekeyd"
        folder.mkdir(parents=True)
        if os.geteuid() == 0:
            os.chown(folder, NOBODY, NOBODY)
        self._run("initdb", "--no-sync", "--auth=trust", "--username=rekeyd", "--pgdata", "data")
        self.start()
        where = ("--host=127.0.0.1", f"--port={self.port}", "--username=rekeyd")
        self._run("createdb", *where, "rekeyd")

    def start(self) -> None:
        options = f"-p {self.port} -h 127.0.0.1 -k '' -c shared_buffers=16MB"
        self._run("pg_ctl", "-w", "-D", "data", "-l", "log", "-o", options, "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-w", "-D", "data", "-m", "immediate", "stop")

    def ask_for_certificates(self, user: str, certificate: Path, key: Path) -> None:
        """Serve TLS with a certificate, and let this user in with one that it has signed alone."""
        data = self.folder / "data"
        for source, name in ((certificate, "tls.crt"), (key, "tls.key")):
            target = data / name
            target.write_bytes(source.read_bytes())
            target.chmod(0o600)
            if os.geteuid() == 0:
                os.chown(target, NOBODY, NOBODY)
        rules = data / "pg_hba.conf"
        rules.write_text(f"hostssl all {user} 127.0.0.1/32 cert\n" + rules.read_text())
        with (data / "postgresql.conf").open("a") as settings:
            for name, file in (("cert", "crt"), ("key", "key"), ("ca", "crt")):
                settings.write(f"ssl_{name}_file = 'tls.{file}'\n")
            settings.write("ssl = on\n")
        self.stop()
        self.start()

    def _run(self, program: str, *arguments: str) -> None:
        identity = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        output = self.folder / "output"
        with output.open("ab") as told:
            done = subprocess.run(
                [_program(program), *arguments],
                cwd=self.folder,
                env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "HOME": str(self.folder)},
                stdin=subprocess.DEVNULL,
                stdout=told,
                stderr=subprocess.STDOUT,
                timeout=60,
                check=False,
                **identity if os.geteuid() == 0 else {},
            )
        assert done.returncode == 0, output.read_text()


@contextmanager
def postgres(folder: Path) -> Iterator[Postgres]:
    server = Postgres(folder)
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)


def _program(name: str) -> str:
    found = [path for place in PLACES for path in Path("/").glob(f"{place[1:]}/{name}")]
    path = str(max(found)) if found else shutil.which(name)
    assert path, f"there is no {name}: apt-get install postgresql"
    return path
