"""Which code a supervisor is made of, as one digest, so that other code on the disk is noticed at every HELLO."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

# All that a supervisor imports of hotproxy (CONTRIBUTING.md, "Imports point one way").
PARTS: Final = ("restarter/*.py", "shm/*.py", "shm/*.pyx", "clock.py", "data_path.py", "errors.py")

# What is shown of a digest: as unique as git's.
SHOWN: Final = 12


def supervisor_code() -> str:
    """SHA-256, in hex, of the sources on disk, with their names. OSError where they can't be read."""
    package = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for path in sorted(path for part in PARTS for path in package.glob(part)):
        digest.update(b"%s\0%s\0" % (str(path.relative_to(package)).encode(), path.read_bytes()))
    return digest.hexdigest()
