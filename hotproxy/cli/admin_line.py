"""One question to the admin API of a running instance, over its unix socket."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Sequence
from typing import Any, Final

from hotproxy.cli.place import Place

# The control process answers in milliseconds, or hangs.
TIMEOUT_S: Final = 5.0


class NoAnswer(Exception):
    """Nobody answers, or not what was asked; says why."""


def get(place: Place, path: str, names: Sequence[str], timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
    """The JSON object at `path`, which has `names`. Raises NoAnswer."""
    connection = _UnixConnection(str(place.directory / "admin.sock"), timeout_s)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        if answer.status != 200:
            raise NoAnswer(f"the admin API answers {answer.status}")
        found = json.loads(answer.read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NoAnswer(str(error) or type(error).__name__) from None
    finally:
        connection.close()
    if not isinstance(found, dict) or not found.keys() >= set(names):
        raise NoAnswer(f"the admin API does not say {', '.join(names)}")
    return found


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
