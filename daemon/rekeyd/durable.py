"""Names that outlive a power failure. fsync(2) of a file sees to its content, not to its name."""

import os
from contextlib import suppress
from pathlib import Path


def flush_names(folder: Path) -> None:
    """Have the names in a folder on the disk. Raises `OSError`."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Make a folder for its owner alone, and what is missing above it. Raises `OSError`."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for parent in {folder.parent, *(made.parent for made in missing)}:
        with suppress(PermissionError):  # one of which only the names can be used was there before
            flush_names(parent)
