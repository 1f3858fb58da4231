"""Addresses: where a listener listens and where an endpoint is reached.

1.2.3.4:80   [2001:db8::1]:80   :80 (every address, IPv4 and IPv6)   example.org:80   unix:/run/app.sock
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

TCP: Final = "tcp"
UNIX: Final = "unix"

# sockaddr_un.sun_path has 108 bytes with its closing NUL (unix(7)).
MAX_UNIX_PATH_BYTES: Final = 107
# A socket file whose mode nobody chose: its owner and group, nobody else.
DEFAULT_UNIX_MODE: Final = 0o660
MAX_PORT: Final = 65535

_HOST_LABEL: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)\Z")


class AddressError(ValueError):
    """What is wrong with the text of an address, and in `hint` what it may have been meant to be ("" = no idea)."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Address:
    """One place to listen or to connect; hashable. `str(address)` is its canonical text, equal for equal places.

    `host` is "" for every address (dual-stack), an IP address in canonical form, or a DNS name in lower case.
    `mode`, `owner` and `group` are those of the socket file of a unix listener ("" = left as they are).
    """

    family: str
    host: str = ""
    port: int = 0
    path: str = ""
    mode: int = DEFAULT_UNIX_MODE
    owner: str = ""
    group: str = ""

    def __str__(self) -> str:
        if self.family == UNIX:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_name(self) -> bool:
        """True when `host` is a DNS name, which somebody has to resolve before anyone can connect."""
        return self.family == TCP and self.host != "" and parse_ip(self.host) is None

    @classmethod
    def parse(cls, text: str) -> Address:
        """The address that a user wrote; raises AddressError. A unix path must be absolute."""
        if text.startswith("unix:"):
            return cls(UNIX, path=checked_unix_path(text[len("unix:") :]))
        host, port = _split(text)
        return cls(TCP, host=host, port=_port(port, text))


def checked_unix_path(path: str) -> str:
    """`path` when a socket can be bound there; raises AddressError."""
    if path.startswith("@"):
        raise AddressError("abstract sockets are not supported", "give the path of a socket file: 'unix:/run/app.sock'")
    if not path.startswith("/"):
        raise AddressError(f"the socket path '{path}' is not absolute", "write 'unix:/run/app.sock'")
    if "\0" in path or path.endswith("/"):
        raise AddressError(f"'{path}' cannot be the path of a socket")
    size = len(path.encode("utf-8", "surrogateescape"))
    if size > MAX_UNIX_PATH_BYTES:
        raise AddressError(f"a socket path has at most {MAX_UNIX_PATH_BYTES} bytes, this one has {size}")
    return path


def _split(text: str) -> tuple[str, str]:
    if "://" in text:
        rest = text.split("://", 1)[1].split("/", 1)[0].rpartition("@")[2]  # a password is not repeated
        raise AddressError("an address has no scheme", f"did you mean '{rest}'?" if rest else "")
    if text.startswith("/"):
        raise AddressError(f"'{text}' is not an address", f"did you mean 'unix:{text}'?")
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]")
        if not bracket or not port.startswith(":"):
            raise AddressError(f"'{text}' is not an address", "an IPv6 address is written '[::1]:8080'")
        if (address := parse_ip(host)) is None or address.version != 6:
            raise AddressError(f"'{host}' is not an IPv6 address")
        return str(address), port[1:]
    if text.count(":") > 1:
        host, _, port = text.rpartition(":")
        hint = "an IPv6 address is written '[::1]:8080'"
        if parse_ip(host) is not None and port.isdigit():
            hint = f"did you mean '[{host}]:{port}'?"
        raise AddressError(f"'{text}' is not an address", hint)
    host, colon, port = text.partition(":")
    if not colon:
        if text.isascii() and text.isdigit():
            raise AddressError(f"the address '{text}' has no host", f"did you mean ':{text}'?")
        raise AddressError(f"the address '{text}' has no port", f"write '{text}:8080'" if text else "write ':8080'")
    if host == "*":
        raise AddressError("every address is written with nothing before the colon", f"did you mean ':{port}'?")
    return _host(host), port


def _host(host: str) -> str:
    if not host:
        return ""
    if (address := parse_ip(host)) is not None:
        return str(address)
    if re.fullmatch(r"[0-9.]+", host):
        raise AddressError(f"'{host}' is not an IPv4 address")
    if not is_host_name(host):
        raise AddressError(f"'{host}' is not a host name")
    return host.lower()


def _port(text: str, whole: str) -> int:
    if not text:
        raise AddressError(f"the address '{whole}' has no port", f"write '{whole}8080'")
    if not (text.isascii() and text.isdigit()):
        raise AddressError(f"'{text}' is not a port", f"a port is a number up to {MAX_PORT}")
    if len(text) > 5 or int(text) > MAX_PORT:
        raise AddressError(f"port {text} is out of range", f"a port is a number up to {MAX_PORT}")
    return int(text)


def parse_ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The IP address that `host` spells (IPv6 without brackets), or None."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def is_host_name(text: str) -> bool:
    """A DNS name as a URL may carry it: labels of letters, digits, '-' and '_' (RFC 1123 section 2.1), <= 253 bytes."""
    return len(text) <= 253 and all(_HOST_LABEL.match(label) for label in text.removesuffix(".").split("."))
