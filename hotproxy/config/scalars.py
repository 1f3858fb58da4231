"""One scalar's text to a value: durations, numbers, names, and everything else that has rules of its own.

Each function takes the text and returns the value, or raises ScalarError with a message and, where there is a good
guess, a hint.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from hotproxy.config.address import is_host_name, parse_ip

# A year: longer waits are typing errors, and would overflow timers (poll takes 2^31 ms).
MAX_DURATION_S: Final = 366 * 86400.0
_UNITS_S: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION: Final = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+\Z", re.ASCII)
_DURATION_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", re.ASCII)
_BARE_NUMBER: Final = re.compile(r"\d+(?:\.\d+)?\Z", re.ASCII)
_LOOSE_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)\Z", re.ASCII)
_LOOSE_UNITS: Final = {
    "msec": "ms", "msecs": "ms", "millis": "ms", "millisecond": "ms", "milliseconds": "ms",
    "sec": "s", "secs": "s", "second": "s", "seconds": "s", "min": "m", "mins": "m", "minute": "m", "minutes": "m",
    "hr": "h", "hrs": "h", "hour": "h", "hours": "h", "day": "d", "days": "d",
}  # fmt: skip

_WHOLE_NUMBER: Final = re.compile(r"-?(?:0|[1-9]\d*)\Z", re.ASCII)
_MODE: Final = re.compile(r"(?:0o?)?[0-7]{3}\Z")
_STAT_NAME: Final = re.compile(r"[A-Za-z0-9_.-]+\Z")
# RFC 9110 section 5.6.2
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
# Names end up in stats and log lines; Envoy once allowed 60 characters, which proved too few.
MAX_NAME: Final = 128
_STANDARD_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"})
# RFC 3986 section 3.3 and 3.4: what may stand in the path and query of a request.
_URL_PATH: Final = re.compile(r"/[A-Za-z0-9\-._~!$&'()*+,;=:@%/?]*\Z")

_TRIPLET: Final = re.compile("%([0-9A-Fa-f]{2})")
_BAD_TRIPLET: Final = re.compile("%(?![0-9A-Fa-f]{2})")
_UNRESERVED: Final = re.compile(r"[A-Za-z0-9\-._~]\Z")

_TRUE: Final = frozenset({"true", "True", "TRUE"})
_FALSE: Final = frozenset({"false", "False", "FALSE"})
_OLD_TRUE: Final = frozenset({"yes", "on", "y", "1"})
_OLD_FALSE: Final = frozenset({"no", "off", "n", "0"})


class ScalarError(ValueError):
    """What is wrong with a scalar's text, and in `hint` what would be right ("" = no idea)."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def duration_s(text: str) -> float:
    """Seconds of `250ms`, `5s`, `1m`, `1h`, `1d` or a row of them (`1m30s`); `0s` means no limit."""
    if not _DURATION.match(text):
        if _BARE_NUMBER.match(text):
            raise ScalarError(f"'{text}' has no unit", f"did you mean '{text}s'?")
        if text.startswith("-"):
            raise ScalarError("a duration cannot be negative", "'0s' means no limit")
        loose = _LOOSE_DURATION.match(text)
        if loose is not None:
            unit = loose[2].lower()
            unit = _LOOSE_UNITS.get(unit, unit)
            if unit in _UNITS_S:
                raise ScalarError(f"'{text}' is not a duration", f"did you mean '{loose[1]}{unit}'?")
        raise ScalarError(f"'{text}' is not a duration", "write for example '250ms', '5s', '1m' or '1h'")
    total = 0.0
    for number, unit in _DURATION_PART.findall(text):
        total += float(number) * _UNITS_S[unit]
    if total > MAX_DURATION_S:
        raise ScalarError(f"'{text}' is longer than a year", "'0s' means no limit")
    return total


def whole_number(text: str, low: int, high: int) -> int:
    """A decimal number from `low` to `high`."""
    if not _WHOLE_NUMBER.match(text):
        hint = f"did you mean '{text.lstrip('0')}'?" if text.isascii() and text.isdigit() else ""
        raise ScalarError(f"'{text}' is not a whole number", hint)
    # Longer digits than any bound are out of range anyway, and int() of thousands of them is slow.
    value = int(text) if len(text) < 20 else high + 1
    if not low <= value <= high:
        raise ScalarError(f"{text if len(text) < 20 else 'the number'} is out of range", f"from {low} to {high}")
    return value


def boolean(text: str) -> bool:
    """`true` or `false` (YAML 1.2); `yes`, `on` and their like are text."""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    word = text.lower()
    hint = "did you mean 'true'?" if word in _OLD_TRUE else "did you mean 'false'?" if word in _OLD_FALSE else ""
    raise ScalarError(f"'{text}' is neither true nor false", hint)


def file_mode(text: str) -> int:
    """Permission bits, in octal as chmod takes them: `0660`."""
    if not _MODE.match(text):
        raise ScalarError(f"'{text}' is not a file mode", "three octal digits: '0660'")
    return int(text.removeprefix("0o"), 8)


def stat_name(text: str) -> str:
    """A name that becomes part of stat names."""
    if not _STAT_NAME.match(text):
        raise ScalarError(
            f"'{text}' cannot be a name", "letters, digits, '_', '-' and '.' only: it becomes part of stat names"
        )
    if len(text) > MAX_NAME:
        raise ScalarError(f"a name has at most {MAX_NAME} characters, this one has {len(text)}")
    return text


def free_name(text: str) -> str:
    """A name that is only shown (in log lines, so it has no spaces)."""
    if not text or len(text) > MAX_NAME or not text.isprintable() or " " in text or '"' in text:
        raise ScalarError(f"'{text[:40]}' cannot be a name", "printable, without spaces and quotes")
    return text


def plain_text(text: str) -> str:
    """Any text that is there."""
    if not text:
        raise ScalarError("the text is empty")
    return text


def any_text(text: str) -> str:
    """Any text, the empty one too."""
    return text


def method(text: str) -> str:
    """A request method; the standard ones are in upper case (methods are case-sensitive, RFC 9110 section 9.1)."""
    if not _TOKEN.match(text):
        raise ScalarError(f"'{text}' is not a method")
    if text not in _STANDARD_METHODS and text.upper() in _STANDARD_METHODS:
        raise ScalarError(f"'{text}' is not a method", f"did you mean '{text.upper()}'?")
    return text


def header_name(text: str) -> str:
    """The name of a header, in lower case (RFC 9110 section 5.1)."""
    if not _TOKEN.match(text):
        hint = f"did you mean '{text.rstrip(': ').lower()}'?" if _TOKEN.match(text.rstrip(": ")) else ""
        raise ScalarError(f"'{text}' is not a header name", hint)
    return text.lower()


def header_value(text: str) -> str:
    """A header's exact value (RFC 9110 section 5.5). Its text is never repeated in a message: it may be a secret."""
    if any(c in text for c in "\r\n\0"):
        raise ScalarError("a header value cannot contain line breaks or NUL")
    if not text.isprintable() and any((ord(c) < 32 and c != "\t") or ord(c) == 127 for c in text):
        raise ScalarError("a header value cannot contain control characters")
    if text != text.strip(" \t"):
        raise ScalarError("a header value never has spaces around it, so this never matches")
    return text


def url_path(text: str) -> str:
    """A path that begins with '/', without query; percent-encoded where it must be."""
    if "?" in text:
        raise ScalarError("a path has no query", f"did you mean '{text.split('?', 1)[0]}'?")
    return url_path_and_query(text)


def url_path_and_query(text: str) -> str:
    """A path that begins with '/', with or without a query."""
    if not text.startswith("/"):
        hint = f"did you mean '/{text}'?" if _URL_PATH.match("/" + text) else ""
        raise ScalarError("a path must begin with '/'", hint)
    if not _URL_PATH.match(text):
        bad = next(c for c in text if not _URL_PATH.match("/" + c))
        encoded = "".join(f"%{byte:02X}" for byte in bad.encode("utf-8", "replace"))
        raise ScalarError(f"a path cannot contain '{bad}'", f"percent-encoded it is '{encoded}'")
    return text


def matched_path(text: str) -> str:
    """What requests' paths are compared with: normalised (RFC 3986 section 6.2.2), because they are too."""
    url_path(text)
    if _BAD_TRIPLET.search(text):
        raise ScalarError("a '%' in a path is followed by two hex digits", "a percent sign itself is '%25'")
    plain = _TRIPLET.sub(_decoded, text)
    if plain != text:
        raise ScalarError("this never matches: paths are compared with such characters decoded", f"write '{plain}'")
    return text


def whole_path(text: str) -> str:
    """A `matched_path` that is compared as a whole."""
    return _without_dots(matched_path(text), text)


def path_prefix(text: str) -> str:
    """A `matched_path` that paths begin with; its last segment may go on ('/.' begins '/.well-known')."""
    return _without_dots(matched_path(text), text.rpartition("/")[0])


def _without_dots(text: str, complete: str) -> str:
    if any(segment in (".", "..") for segment in complete.split("/")):
        raise ScalarError("this never matches: paths are compared with '.' and '..' resolved")
    return text


def _decoded(match: re.Match[str]) -> str:
    character = chr(int(match[1], 16))
    return character if _UNRESERVED.match(character) else match[0]


# RFC 4291 section 2.5.5.2.
_MAPPED_BITS: Final = 96


def network_or_unix(text: str) -> str:
    """A network in canonical form, `10.0.0.0/8`; an address is one too. Or `unix`: the clients of unix sockets."""
    if text == "unix":
        return text
    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        pass
    else:
        _refuse_mapped(network, text)
        return str(network)
    try:
        wider = str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        raise ScalarError(f"'{text}' is no network", "write for example '10.0.0.0/8', 'fd00::/8' or 'unix'") from None
    address = text.partition("/")[0]
    raise ScalarError(f"'{text}' has bits behind its prefix", f"did you mean '{wider}' or '{address}'?")


def _refuse_mapped(network: ipaddress.IPv4Network | ipaddress.IPv6Network, text: str) -> None:
    """Clients of dual-stack sockets are IPv4 clients everywhere here: what is written so would match nobody."""
    first = network.network_address
    mapped = first.ipv4_mapped if first.version == 6 and network.prefixlen >= _MAPPED_BITS else None
    if mapped is not None:
        hint = f"did you mean '{mapped}/{network.prefixlen - _MAPPED_BITS}'?"
        raise ScalarError(f"'{text}' is IPv4, written as IPv6", hint)


def host_without_port(text: str) -> str:
    """A host as the Host header carries it, in lower case; IPv6 in brackets."""
    if (
        text.startswith("[")
        and text.endswith("]")
        and (address := parse_ip(text[1:-1])) is not None
        and address.version == 6
    ):
        return f"[{address}]"
    if (address := parse_ip(text)) is not None:
        if address.version == 6:
            raise ScalarError(f"'{text}' is not a host", f"did you mean '[{text}]'?")
        return str(address)
    if re.search(r":\d+\Z", text):
        raise ScalarError("a host has no port here", f"did you mean '{text.rsplit(':', 1)[0]}'?")
    if not text.isascii():
        try:
            hint = f"did you mean '{text.encode('idna').decode()}'?"
        except UnicodeError:
            hint = ""
        raise ScalarError(f"'{text}' is not ASCII", hint)
    if "://" in text:
        rest = text.split("://", 1)[1].split("/", 1)[0].rpartition("@")[2]
        raise ScalarError("a host has no scheme", f"did you mean '{rest}'?" if rest else "")
    if not is_host_name(text):
        raise ScalarError(f"'{text}' is not a host name")
    return text.lower().removesuffix(".")


def domain(text: str) -> str:
    """What a virtual host answers for: `api.example.com`, `*.example.com` or `*`."""
    if text == "*":
        return text
    if text.startswith("*."):
        if "*" in text[1:] or not text[2:]:
            raise ScalarError(f"'{text}' is not a domain", "'*' stands alone or as the first label: '*.example.com'")
        return "*." + host_without_port(text[2:])
    if "*" in text:
        hint = "'*' stands alone or as the first label: '*.example.com'"
        if text.startswith("*") and is_host_name(text[1:]):
            hint = f"did you mean '*.{text[1:]}'?"
        raise ScalarError(f"'{text}' is not a domain", hint)
    return host_without_port(text)


def server_name(text: str) -> str:
    """What a TLS client asks for (SNI): `db.example.com` or `*.example.com`; never an IP address (RFC 6066)."""
    name = domain(text)
    if name == "*":
        raise ScalarError("'*' is no server name", "the tcp section's own 'cluster' is for all others")
    if parse_ip(name.strip("[]")) is not None:
        raise ScalarError(f"'{text}' is an IP address, and no client asks for one by SNI (RFC 6066)")
    return name


def host_and_port(text: str) -> str:
    """A host for the Host header, with a port where the upstream wants one."""
    host, colon, port = text.rpartition(":")
    if parse_ip(text) is not None:  # of an IPv6 address, the last colon begins no port
        return host_without_port(text)
    if colon and not text.endswith("]") and port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535:
        return f"{host_without_port(host)}:{int(port)}"
    return host_without_port(text)


def upgrade(text: str) -> str:
    """A protocol of the Upgrade header, in lower case (RFC 9110 section 7.8); `websocket` mostly."""
    if not _TOKEN.match(text.replace("/", "", 1)):
        raise ScalarError(f"'{text}' is not a protocol", "write for example 'websocket'")
    return text.lower()
