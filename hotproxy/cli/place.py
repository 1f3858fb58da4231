"""Where an instance keeps its files, and how the other verbs find it.

`run` and `proxy` take the first runtime directory that they may write to; every other verb looks through the same list
for one in which the instance exists. The instance's directory is `<runtime dir>/<instance>`:

    supervisor.sock  admin.sock  lock  config.yaml (of `proxy`, and of `run -c -`)

What should outlive a reboot is in the state directory, if there is one: <instance>.last-good.yaml (of `run`).
"""

from __future__ import annotations

import os
import re
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hotproxy.errors import EXIT_NOT_PERMITTED, EXIT_REFUSED, EXIT_UNREACHABLE, EXIT_USAGE, HotproxyError

# It becomes part of a file name and of a shared-memory name (NAME_MAX 255 with prefix, digest and suffix).
INSTANCE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")

SYSTEM: Final = Path("/run/hotproxy")


@dataclass(frozen=True, slots=True)
class Place:
    """One instance's directory, absolute."""

    instance: str
    runtime_dir: Path

    @property
    def directory(self) -> Path:
        return self.runtime_dir / self.instance

    @property
    def supervisor_socket(self) -> Path:
        return self.directory / "supervisor.sock"


def candidates() -> list[Path]:
    """The runtime directories in the order in which they are tried."""
    found = []
    if from_systemd := os.environ.get("RUNTIME_DIRECTORY"):
        found.append(Path(from_systemd.split(":")[0]))
    found.append(SYSTEM)
    if xdg := os.environ.get("XDG_RUNTIME_DIR"):
        found.append(Path(xdg) / "hotproxy")
    found.append(_temporary())
    return found


def _temporary() -> Path:
    """Everybody may make a directory of this name there, so only one that is ours counts."""
    try:
        parent = tempfile.gettempdir()
    except FileNotFoundError:  # nowhere can be written to (a container's read-only root); another candidate may do
        parent = "/tmp"
    return Path(parent).absolute() / f"hotproxy-{os.getuid()}"


def make(instance: str, runtime_dir: str | None) -> Place:
    """The place for a new instance; its directory exists afterwards, and nobody else can write there."""
    _check_name(instance)
    if runtime_dir is not None:
        place = Place(instance, Path(runtime_dir).absolute())
        _make_directory(place)
        return place
    for directory in candidates():
        place = Place(instance, directory.absolute())
        try:
            _make_directory(place)
        except HotproxyError:
            continue
        return place
    tried = ", ".join(str(directory) for directory in candidates())
    raise HotproxyError(f"no runtime directory can be written to (tried {tried}); give one with --runtime-dir")


def find(instance: str, runtime_dir: str | None) -> Place:
    """The place of an instance that exists (running or not). Raises HotproxyError that says where it looked."""
    _check_name(instance)
    directories = [Path(runtime_dir)] if runtime_dir is not None else candidates()
    places = [Place(instance, directory.absolute()) for directory in directories]
    stopped: list[Place] = []
    closed: list[Place] = []
    for place in places:
        if place.runtime_dir == _temporary() and not _is_own(place.runtime_dir):
            continue  # whoever made it there may answer in our proxy's name
        try:
            if place.directory.is_dir():
                if place.supervisor_socket.exists():
                    return place  # a running one wins over the remains of one elsewhere
                stopped.append(place)
        except PermissionError:  # another user's: ours may still come
            closed.append(place)
    if stopped:
        return stopped[0]
    if closed:
        refused = ", ".join(str(place.directory) for place in closed)
        raise HotproxyError(f"not permitted to look for instance '{instance}' in {refused}", EXIT_NOT_PERMITTED)
    looked = ", ".join(str(place.directory) for place in places)
    raise HotproxyError(f"there is no instance '{instance}' (looked for {looked})", EXIT_UNREACHABLE)


def last_good(place: Place, state_dir: str | None) -> Path:
    """Where the config that serves is kept. Raises HotproxyError when a directory that was asked for can't be made."""
    directory = place.directory
    if state_dir is not None:
        directory = Path(state_dir).absolute()
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            code = EXIT_NOT_PERMITTED if isinstance(error, PermissionError) else EXIT_REFUSED
            raise HotproxyError(f"{directory} can't be made: {error.strerror}", code) from None
        if not os.access(directory, os.W_OK | os.X_OK):
            raise HotproxyError(f"{directory} is not writable", EXIT_NOT_PERMITTED)
    elif from_systemd := os.environ.get("STATE_DIRECTORY"):
        directory = Path(from_systemd.split(":")[0])
    return directory / f"{place.instance}.last-good.yaml"


def _check_name(instance: str) -> None:
    if not INSTANCE_NAME.fullmatch(instance):
        raise HotproxyError(
            f"'{instance}' is no instance name: letters, digits, '_', '.' and '-', at most 64, beginning with a letter "
            "or digit",
            EXIT_USAGE,
        )


def _make_directory(place: Place) -> None:
    temporary = place.runtime_dir == _temporary()
    try:
        # 0755 above, so that instances of several users can lie side by side; 0750 for the instance itself.
        place.runtime_dir.mkdir(mode=0o700 if temporary else 0o755, parents=True, exist_ok=True)
        place.directory.mkdir(mode=0o750, exist_ok=True)
        own = [place.runtime_dir, place.directory] if temporary else [place.directory]
        foreign = [directory for directory in own if not _is_own(directory)]
    except OSError as error:
        code = EXIT_NOT_PERMITTED if isinstance(error, PermissionError) else EXIT_REFUSED
        raise HotproxyError(f"{place.directory} can't be made: {error.strerror}", code) from None
    if foreign:
        raise HotproxyError(
            f"{foreign[0]} must be a directory of this user (uid {os.getuid()}) that nobody else can write to",
            EXIT_NOT_PERMITTED,
        )
    if not os.access(place.directory, os.W_OK):
        raise HotproxyError(f"{place.directory} is not writable", EXIT_NOT_PERMITTED)


def _is_own(directory: Path) -> bool:
    """Ours alone, and no link to somewhere else. False when there is none."""
    try:
        status = directory.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022
