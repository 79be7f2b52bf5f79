"""A program of one's own, for the contract: one that keeps the pair in a file, and can tell it."""

import json
from contextlib import contextmanager

from contract import Case, Place

from rekeyd.secret import AccessPair, Secret
from rekeyd.sinks.base import SinkContext
from rekeyd.sinks.exec import Exec


def case(name, *, readable):
    @contextmanager
    def place(folder):
        kept = folder / "kept"
        store = program(folder / "store", f"cat > {kept}")
        tell = program(folder / "tell", f"[ ! -e {kept} ] || cat {kept}")

        def look():
            return sorted((f.name, f.read_bytes(), f.stat().st_mode) for f in folder.iterdir())

        settings = Exec(type="exec", command=[store], read=[tell] if readable else None)
        yield Place(
            open=lambda: settings.open(SinkContext("backup_user", lambda *_: None)),
            consumer=lambda: pair(kept.read_text()) if kept.exists() else None,
            look=lambda: sorted(
                (f.name, f.read_bytes(), f.stat().st_mode) for f in folder.iterdir()
            ),
            deny=lambda: (folder / "store").chmod(0o600),
        )

    return Case(name, place)


def program(path, script):
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def pair(text):
    found = json.loads(text)
    return AccessPair(found["AccessKeyId"], Secret(found["SecretAccessKey"]))


CASES = [case("exec", readable=True), case("exec write-only", readable=False)]
