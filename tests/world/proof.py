"""Keeps what the proving tests counted, for tests/write_proof.py to write into tests/PROOF.md."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".pytest_cache" / "proof"


def _program() -> str:
    """Return a digest of the program's source: what was counted of another is not told."""
    files = sorted((ROOT / "daemon").rglob("*.py"))
    return sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


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
    file.write_text(json.dumps({"name": name, "program": _program(), **counted}, indent=1))


def kept(part: str) -> list[dict[str, Any]]:
    """Return what the tests of a part have counted of this program, in the order of their names."""
    runs = [json.loads(file.read_text()) for file in sorted((FOLDER / part).glob("*.json"))]
    program = _program()
    return [run for run in runs if run["program"] == program]
