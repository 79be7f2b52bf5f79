"""The file sinks, for the contract. Each is read back by a reader that is not rekeyd's."""

import json
import subprocess
from contextlib import contextmanager
from pathlib import Path

from botocore.session import Session
from contract import Case, Place
from readers import docker_environment, systemd_environment

from rekeyd.secret import AccessPair, Secret
from rekeyd.sinks import settings_class
from rekeyd.sinks.base import SinkContext

RCLONE = """\
# {{ identity }}
[s3]
type = s3
access_key_id = {{ access_key_id }}
secret_access_key = {{ secret_access_key }}
"""
ENCODED = "{{ access_key_id }}:{{ secret_access_key|urlencode }}\n"


def opened(kind: str, path: Path, **settings):
    """Open a file sink as the daemon does."""
    context = SinkContext("backup_user", lambda *_: None)
    return settings_class(kind)(type=kind, path=str(path), **settings).open(context)


def case(name, consumer, **settings):
    kind = name.partition(" ")[0]

    @contextmanager
    def place(folder: Path):
        folder = folder / "consumer"
        folder.mkdir(mode=0o755)
        path = folder / "pair"

        def look():
            files = sorted(folder.iterdir())
            return [
                (file.name, file.read_bytes(), file.stat().st_ino, file.stat().st_mode)
                for file in files
            ]

        yield Place(
            open=lambda: opened(kind, path, **settings),
            consumer=lambda: consumer(path) if path.exists() else None,
            look=look,
            deny=lambda: folder.chmod(0o777),  # refused for root too, whom no mode keeps out
        )

    return Case(name, place)


def pair(key_id, secret):
    return AccessPair(key_id, Secret(secret)) if key_id and secret else None


def by_botocore(path):
    session = Session()
    session.set_config_variable("credentials_file", str(path))
    session.set_config_variable("profile", "backup")
    found = session.get_credentials()
    return found and pair(found.access_key, found.secret_key)


def by_json(path):
    found = json.loads(path.read_text())
    return pair(found["AccessKeyId"], found["SecretAccessKey"])


def by_variables(read):
    def consumer(path):
        found = read(path)
        return pair(found.get("AWS_ACCESS_KEY_ID"), found.get("AWS_SECRET_ACCESS_KEY"))

    return consumer


def dash_environment(path):
    script = '. "$1"; printf "%s\\0%s" "$AWS_ACCESS_KEY_ID" "$AWS_SECRET_ACCESS_KEY"'
    done = subprocess.run(
        ["sh", "-c", script, "sh", path], check=True, capture_output=True, text=True, env={}
    )
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    return dict(zip(names, done.stdout.split("\0"), strict=True))


def by_lines(path):
    found = dict(line.partition(" = ")[::2] for line in path.read_text().splitlines())
    return pair(found.get("access_key_id"), found.get("secret_access_key"))


def by_urldecoding(path):
    from urllib.parse import unquote

    key_id, _, secret = path.read_text().strip().partition(":")
    return pair(key_id, unquote(secret))


CASES = [
    case("aws_credentials", by_botocore, profile="backup"),
    case("credential_process", by_json),
    case("env_file systemd", by_variables(systemd_environment), dialect="systemd"),
    case("env_file docker", by_variables(docker_environment), dialect="docker"),
    case("env_file shell", by_variables(dash_environment), dialect="shell"),
    case("template", by_lines, template=RCLONE),
    case("template write-only", by_urldecoding, template=ENCODED),
]
