"""The last good config: what the serving generation runs, kept as one file for a start that finds its own file broken.

It has every include merged, every variable replaced and every default written out, so that it needs nothing else of the
disk but what it names: certificates, sockets, logs. It may hold secrets, so nobody but its owner can read it (0600).
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from typing import Final

from hotproxy.config.effective import effective_yaml
from hotproxy.config.model import Config
from hotproxy.config.sources import SourceError

_HEAD: Final = "# What generation {epoch} of hotproxy served, for `hotproxy run --fallback-last-good`.\n"


def keep(path: str, config: Config, epoch: int, still_serves: Callable[[], bool]) -> None:
    """Write `config` to `path`, whole or not at all, whatever dies meanwhile. Raises OSError; ValueError for text that
    no file can hold.

    One at a time: the directory is locked. `still_serves` is asked at the last moment, because a generation that was
    slow must not replace what its successor has kept. Nothing is written where the file says so already.
    """
    body = effective_yaml(config)
    directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        if _holds(path, body):
            return
        part = f"{path}.new"
        _write_new(part, _HEAD.format(epoch=epoch) + body)
        if still_serves():
            os.replace(part, path)
            os.fsync(directory)
        else:
            os.unlink(part)
    finally:
        os.close(directory)


def check_owner(path: str) -> None:
    """Raises SourceError unless the file is ours, or root's: whoever could put one there would be proxied by us."""
    try:
        status = os.lstat(path)
    except OSError as error:
        raise SourceError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None
    if status.st_uid not in (0, os.getuid()):
        raise SourceError(f"{path} belongs to another user (uid {status.st_uid})")


def _holds(path: str, body: str) -> bool:
    try:
        with open(path, encoding="utf-8") as file:
            return os.fstat(file.fileno()).st_mode & 0o077 == 0 and file.read().partition("\n")[2] == body
    except (OSError, UnicodeDecodeError):
        return False


def _write_new(part: str, text: str) -> None:
    if os.path.lexists(part):  # of one that was killed
        os.unlink(part)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(part, flags, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
