"""The request that `explain` is asked about: METHOD, URL and headers as a client would send them, and to whom."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from hotproxy.config import model
from hotproxy.config.address import UNIX, Address, parse_ip
from hotproxy.errors import EXIT_USAGE, HotproxyError

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
# What a client may put into a request target; curl would send anything else as it is, and be refused.
_TARGET: Final = re.compile(r"[!-~]+\Z")
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


@dataclass(frozen=True, slots=True)
class Asked:
    """`authority` is the Host field's value; `port` that of the URL, 0 when it names none."""

    method: str
    target: str
    authority: str
    port: int
    headers: tuple[tuple[str, str], ...]
    default_port: int = 80  # a client's, when the URL names none

    def encode(self) -> bytes:
        lines = [f"{self.method} {self.target} HTTP/1.1", f"host: {self.authority}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")


def parse(method: str, url: str, headers: Sequence[str]) -> Asked:
    """Raises HotproxyError (usage) that says what to write."""
    if not _TOKEN.match(method):
        raise _usage(f"'{method}' is no method: `hotproxy explain GET http://host/path`")
    fields = [_header(text) for text in headers]
    hosts = [value for name, value in fields if name.lower() == "host"]
    if len(hosts) > 1:
        raise _usage("-H 'Host: …' is given more than once")
    authority, target = _split(url)
    if authority is None and not hosts:
        raise _usage(f"the path '{url}' alone needs a host: -H 'Host: …', or write http://host{url}")
    named = authority if authority is not None else hosts[0]
    rest = tuple((name, value) for name, value in fields if name.lower() != "host")
    host = hosts[0] if hosts else named
    default_port = 443 if url.lower().startswith("https:") else 80
    return Asked(method, host if method == "CONNECT" else target, host, _port(named), rest, default_port)


def _split(url: str) -> tuple[str | None, str]:
    """`(authority or None, target)`."""
    url = url.partition("#")[0]  # a fragment is the client's own affair
    if not _TARGET.match(url):
        raise _usage("a URL has no spaces, control or non-ASCII characters: percent-encode them" if url else "no URL")
    scheme = _SCHEME.match(url)
    if scheme is None:
        if url.startswith("/") or url == "*":
            return None, url
        raise _usage(f"'{url}' is neither a URL nor a path: did you mean 'http://{url}' or '/{url}'?")
    if scheme[1].lower() not in ("http", "https"):
        raise _usage(f"'{scheme[1]}' is no scheme of a listener: this version's speak http and https")
    rest = url[scheme.end() :]
    authority = re.split(r"[/?]", rest, maxsplit=1)[0]
    if "@" in authority:
        raise _usage("a URL has no user part here: give -H 'Authorization: …'")
    if not authority:
        raise _usage(f"'{url}' has no host")
    target = rest[len(authority) :]
    return authority, target if target.startswith("/") else "/" + target


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not _TOKEN.match(name):
        raise _usage(f"-H takes 'name: value', and '{name[:40]}' is no name of a header")
    try:
        value.encode("latin-1")
    except UnicodeEncodeError:
        value = value.encode().decode("latin-1")  # UTF-8, as a terminal sends it
    if any(character in value for character in "\r\n\0"):
        raise _usage(f"the value of -H '{name}: …' has a line break or a NUL in it")
    return name, value.strip(" \t")


def _port(authority: str) -> int:
    port = authority.rpartition(":")[2] if ":" in authority and not authority.endswith("]") else ""
    if not port:
        return 0
    if not (port.isascii() and port.isdigit() and 0 < int(port[:6]) <= 65535):
        raise _usage(f"'{port}' is no port")
    return int(port)


def find_listener(
    asked: Asked, config: model.Config, bound: dict[str, list[str]], name: str | None
) -> tuple[model.Listener, str]:
    """The listener that would accept this connection, and why it is that one. Raises HotproxyError: none, or several.

    `bound` are the addresses of a running instance, where a port 0 of the config is the port that it became.
    """
    known = ", ".join(f"{each.name} ({', '.join(_texts(each, bound))})" for each in config.listeners) or "none"
    if name is not None:
        for listener in config.listeners:
            if listener.name == name:
                return listener, "chosen with --listener"
        raise _usage(f"there is no listener '{name}'; there are: {known}")
    port = asked.port or asked.default_port
    found = [each for each in config.listeners if _listens(each, bound, port, asked.authority)]
    why = f"it listens on port {port}"
    if not found and not asked.port:
        found, why = list(config.listeners), "the only one; the URL names no port"
    if len(found) == 1:
        return found[0], why
    if not found:
        raise HotproxyError(f"nothing listens on port {port}; listeners: {known}")
    several = ", ".join(each.name for each in found)
    raise _usage(f"several listeners could get this request ({several}): choose one with --listener NAME; {known}")


def _texts(listener: model.Listener, bound: dict[str, list[str]]) -> list[str]:
    return bound.get(listener.name) or [str(address) for address in listener.addresses]


def _listens(listener: model.Listener, bound: dict[str, list[str]], port: int, authority: str) -> bool:
    """On this port, and, where the URL names an IP address, on an address that takes it."""
    ip = parse_ip(authority.partition(":")[0]) or parse_ip(authority.rpartition("]")[0].lstrip("["))
    for text in _texts(listener, bound):
        try:
            address = Address.parse(text)
        except ValueError:
            continue
        if address.family == UNIX or address.port != port:
            continue
        own = parse_ip(address.host)
        if ip is None or own is None or own == ip or (own.is_unspecified and own.version == ip.version):
            return True
    return False


def _usage(message: str) -> HotproxyError:
    return HotproxyError(message, EXIT_USAGE)
