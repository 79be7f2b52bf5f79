"""Keeps what the proving tests counted, for tests/write_proof.py to write into tests/PROOF.md."""

import json
import os
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / ".pytest_cache" / "proof"


def keep(part: str, name: str, **counted: Any) -> None:
    """Remember what one test counted. A part is a chapter of PROOF.md, a name one line of it."""
    folder = FOLDER / part
    folder.mkdir(parents=True, exist_ok=True)
    safe = "".join(letter if letter.isalnum() else "-" for letter in name)
    scratch = folder / f".{safe}.{os.getpid()}"
    scratch.write_text(json.dumps({"name": name, **counted}, indent=1))
    scratch.replace(folder / f"{safe}.json")


def kept(part: str) -> list[dict[str, Any]]:
    """Return what the tests of a part have counted, in the order of their names."""
    files = sorted((FOLDER / part).glob("*.json"))
    return [json.loads(file.read_text()) for file in files]
