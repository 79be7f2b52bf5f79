"""Keeps what the proving tests counted, for tests/write_proof.py to write into tests/PROOF.md."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / ".pytest_cache" / "proof"


@contextmanager
def counting(part: str, name: str) -> Iterator[dict[str, Any]]:
    """Keep what one test counts, unless it fails. What it counted before is forgotten first.

    A part is a chapter of PROOF.md, a name one line of it.
    """
    folder = FOLDER / part
    folder.mkdir(parents=True, exist_ok=True)
    safe = "".join(letter if letter.isalnum() else "-" for letter in name)
    file = folder / f"{safe}.json"
    file.unlink(missing_ok=True)
    counted: dict[str, Any] = {}
    yield counted
    file.write_text(json.dumps({"name": name, **counted}, indent=1))


def kept(part: str) -> list[dict[str, Any]]:
    """Return what the tests of a part have counted, in the order of their names."""
    files = sorted((FOLDER / part).glob("*.json"))
    return [json.loads(file.read_text()) for file in files]
