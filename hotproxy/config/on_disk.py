"""Whether the files that a config was read from still hold what was read: by their contents, not by their times."""

from __future__ import annotations

import glob
import hashlib
import os
import stat
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Files:
    """`read`: absolute path and SHA-256 (hex) of each, environment files among them; "": the config is not from what
    it holds. `patterns`: where more may come."""

    read: tuple[tuple[str, str], ...] = ()
    patterns: tuple[str, ...] = ()

    def changed(self) -> list[str]:
        """The paths that hold something else now, are gone, or would be read in addition; sorted."""
        known = {os.path.realpath(path) for path, _ in self.read}
        changed = {path for path, digest in self.read if _digest(path) != digest}
        for pattern in self.patterns:
            changed.update(path for path in matching(pattern) if os.path.realpath(path) not in known)
        return sorted(changed)


def matching(pattern: str) -> list[str]:
    """The files that `pattern` means, in lexical order."""
    return sorted(path for path in glob.iglob(pattern, recursive=True) if not os.path.isdir(path))


def _digest(path: str) -> str | None:
    """None for what is no file, or can't be read."""
    try:
        # What has become a pipe meanwhile must not make us wait for somebody to write into it.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return None
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
