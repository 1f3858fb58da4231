"""The shape of an access log's line: Envoy's format strings, or JSON; compiled once, rendered with one join.

    text --compile--> literal, operator, literal, operator, …, "\n" --render(info)--> one line of bytes

One exchange is one line, whatever the peers sent: see `log_operators.escape`.
"""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Callable, Sequence
from typing import Final

from hotproxy.telemetry import log_operators as op
from hotproxy.telemetry import log_values as values
from hotproxy.telemetry import proxy_tlvs
from hotproxy.telemetry.line import tame_line
from hotproxy.telemetry.log_operators import OPERATORS, Operator
from hotproxy.telemetry.log_time import StartTime
from hotproxy.telemetry.stream_info import StreamInfo

# Envoy's default, to the letter.
DEFAULT_FORMAT: Final = (
    '[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% %RESPONSE_FLAGS% '
    "%BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "
    '"%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%" "%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%"\n'
)

# Envoy's and Istio's customary keys, in the order in which a person reads them.
JSON_KEYS: Final[tuple[tuple[str, Operator | None], ...]] = (
    ("start_time", None),  # has a cache, so every format gets its own
    ("method", op.Wire(values.method)),
    ("path", op.Wire(values.client_path)),
    ("protocol", op.Wire(values.protocol)),
    ("response_code", op.Number(values.status)),
    ("response_flags", op.Text(values.response_flags)),
    ("response_code_details", op.Text(values.details)),
    ("bytes_received", op.Number(values.rx_bytes)),
    ("bytes_sent", op.Number(values.tx_bytes)),
    ("duration", op.Number(values.duration_ms)),
    ("upstream_service_time", op.Number(values.upstream_service_time)),
    ("x_forwarded_for", op.Wire(values.x_forwarded_for)),
    ("user_agent", op.Wire(values.user_agent)),
    ("request_id", op.Wire(values.request_id)),
    ("authority", op.Wire(values.authority)),
    ("upstream_host", op.Text(values.upstream_remote)),
    ("upstream_cluster", op.Text(values.cluster)),
    ("upstream_local_address", op.Text(values.upstream_local)),
    ("upstream_request_attempt_count", op.Number(values.attempts)),
    ("route_name", op.Text(values.route)),
    ("virtual_host", op.Text(values.virtual_host)),
    ("listener", op.Text(values.listener)),
    ("downstream_remote_address", op.Text(values.downstream_remote)),
    ("downstream_local_address", op.Text(values.downstream_local)),
)

# Envoy's grammar: %NAME%, %NAME(argument)%, %NAME(argument):length%.
_COMMAND: Final = re.compile(r"%([A-Z0-9_]+)(?:\(([^)]*)\))?(?::([0-9]+))?%")
_NAME: Final = re.compile(r"%([A-Za-z0-9_]*)")
_FIELD_NAME: Final = re.compile(r":?[A-Za-z0-9!#$&'*+.^_`|~-]+")
_WITH_ARGUMENT: Final = ("START_TIME", "REQ", "RESP", "DYNAMIC_METADATA")
_TLV_NUMBER: Final = re.compile(r"0x[0-9a-fA-F]{2}")

# When a JSON line is too long for its pipe, the client's values are cut to so many bytes each until it fits.
_CUTS: Final = (1024, 256, 64)
_CUTTABLE: Final[tuple[tuple[str, Callable[[StreamInfo], str]], ...]] = (
    ("method", values.method),
    ("authority", values.authority),
    ("original_path", values.client_path),
    ("user_agent", values.user_agent),
    ("x_forwarded_for", values.x_forwarded_for),
    ("request_id", values.request_id),
)
_CUT_MARK: Final = "...[truncated]"


class LogFormat:
    """A compiled format. Immutable but for the cached second; may be shared by listeners of one worker."""

    __slots__ = ("_json", "_parts", "_pieces", "_raw", "_template")

    def __init__(self, literals: Sequence[str], operators: Sequence[Operator], json: bool = False) -> None:
        """`literals`: what stands before, between and behind the operators, with the line feed at the end."""
        self._template = "%s".join([literal.replace("%", "%%") for literal in literals])
        self._pieces = tuple([literal.encode() for literal in literals])
        self._parts = tuple([operator.json if json else operator.text for operator in operators])
        self._raw = () if json else tuple([operator.raw for operator in operators])
        self._json = json

    @classmethod
    def compile(cls, text: str | None) -> LogFormat:
        """From the config: None is Envoy's default, `json` the JSON lines, anything else a format string.

        ValueError, naming the operator and its position (1 = the first character), for what Envoy's grammar or
        hotproxy does not know. A missing line feed at the end is added.
        """
        if text == "json":
            return cls._compile_json()
        if text is None:
            text = DEFAULT_FORMAT
        # `\n` in a plain or single-quoted YAML scalar arrives as two characters.
        text = text.removesuffix("\n").removesuffix("\\n")
        for at, char in enumerate(text, start=1):
            if not char.isprintable() and char != "\t":
                raise ValueError(f"a line feed or control character at position {at}: one exchange is one line")
        literals = [""]
        operators: list[Operator] = []
        at = 0
        while (start := text.find("%", at)) >= 0:
            literals[-1] += text[at:start]
            if text.startswith("%%", start):
                literals[-1] += "%"
                at = start + 2
                continue
            match = _COMMAND.match(text, start)
            if match is None:
                raise ValueError(_broken(text, start))
            operators.append(_operator(match))
            literals.append("")
            at = match.end()
        literals[-1] += text[at:] + "\n"
        return cls(literals, operators)

    @classmethod
    def _compile_json(cls) -> LogFormat:
        literals = [("," if at else "{") + f'"{key}":' for at, (key, _) in enumerate(JSON_KEYS)]
        operators = [operator or StartTime() for _, operator in JSON_KEYS]
        return cls([*literals, "}\n"], operators, json=True)

    def render(self, info: StreamInfo) -> bytes:
        """One line with its line feed, always valid UTF-8 (JSON: plain ASCII)."""
        if self._raw:
            # Nearly always nothing has to be escaped, and one look at all values together says so.
            line = tame_line(self._pieces, [get(info) for get in self._raw])
            if line is not None:
                return line
        return (self._template % tuple([part(info) for part in self._parts])).encode()

    def render_within(self, info: StreamInfo, limit_bytes: int) -> bytes:
        """The line for a destination that takes no longer ones: JSON stays JSON, its longest values are cut.

        Text is left to the sink, which cuts the end of the line; so is JSON that does not fit even so.
        """
        line = self.render(info)
        if not self._json:
            return line
        for cut in _CUTS:
            if len(line) <= limit_bytes:
                break
            short = copy.copy(info)
            for name, get in _CUTTABLE:
                value = get(info)
                if len(value) > cut:
                    setattr(short, name, value[:cut] + _CUT_MARK)
            line = self.render(short)
        return line


def _operator(match: re.Match[str]) -> Operator:
    name, argument, length = match[1], match[2], match[3]
    where = f"%{name}% at position {match.start() + 1}"
    if name not in _WITH_ARGUMENT:
        operator = OPERATORS.get(name)
        if operator is None:
            raise ValueError(f"unknown operator {where}{_did_you_mean(name)}")
        if argument is not None or length is not None:
            raise ValueError(f"{where} takes neither an argument nor a length")
        return operator
    if name == "START_TIME":
        if length is not None:
            raise ValueError(f"{where} takes no length")
        try:
            return StartTime(argument) if argument else StartTime()
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
    limit = int(length) if length is not None else 0
    if name == "DYNAMIC_METADATA":
        return op.Wire(_tlv(argument or "", where), limit)
    if not argument:
        raise ValueError(f"{where} needs the name of a field: %{name}(USER-AGENT)%")
    return op.Wire(_field(name, argument, where), limit)


def _tlv(argument: str, where: str) -> Callable[[StreamInfo], str]:
    """The one namespace that there is, and the name or number of a TLV in it."""
    namespace, _, key = argument.partition(":")
    if namespace != proxy_tlvs.NAMESPACE:
        raise ValueError(f"{where}: the only metadata are {proxy_tlvs.NAMESPACE}:PP2_TYPE_AUTHORITY and its like")
    if _TLV_NUMBER.fullmatch(key):
        return values.Tlv(int(key, 16), in_ssl=False).get
    kind = proxy_tlvs.TYPES.get(key, proxy_tlvs.SSL_TYPES.get(key))
    if kind is None:
        known = ", ".join([*proxy_tlvs.TYPES, *proxy_tlvs.SSL_TYPES])
        raise ValueError(f"{where}: {key!r} is neither the number of a TLV, such as 0xEA, nor one of {known}")
    return values.Tlv(kind, key in proxy_tlvs.SSL_TYPES).get


def _field(name: str, argument: str, where: str) -> Callable[[StreamInfo], str]:
    """`A` or `A?B`, as Envoy's %REQ(X?Y)%."""
    if name == "REQ" and argument.upper() == "X-ENVOY-ORIGINAL-PATH?:PATH":
        return values.client_path
    known = op.REQUEST_FIELDS if name == "REQ" else op.RESPONSE_FIELDS
    fields: list[Callable[[StreamInfo], str]] = []
    for field in argument.split("?"):
        if not _FIELD_NAME.fullmatch(field):
            raise ValueError(f"{where}: {field!r} is not the name of a field")
        if get := known.get(field.upper()):
            fields.append(get)
        elif field.startswith(":"):
            pseudo = ", ".join(key for key in known if key.startswith(":"))
            raise ValueError(f"{where}: there is no {field}; there is {pseudo}")
        else:
            fields.append(values.Field(field.lower().encode(), name == "RESP").get)
    if len(fields) > 2:
        raise ValueError(f"{where}: one field and one alternative at most")
    return fields[0] if len(fields) == 1 else values.Either(fields[0], fields[1]).get


def _broken(text: str, start: int) -> str:
    """Why what begins with a percent at `start` is no operator."""
    match = _NAME.match(text, start)
    name = match[1] if match else ""
    if not name:
        return f"a lone % at position {start + 1}; write %% for a percent"
    where = f"%{name} at position {start + 1}"
    if name != name.upper() and text.startswith("%", start + 1 + len(name)):
        return f"unknown operator %{name}% at position {start + 1}{_did_you_mean(name.upper())}"
    if name in OPERATORS or name in _WITH_ARGUMENT:
        return f"{where} is not closed: an operator is %NAME%, %NAME(argument)% or %NAME(argument):length%"
    return f"{where} is not an operator: %NAME%, %NAME(argument)% or %NAME(argument):length%; write %% for a percent"


def _did_you_mean(name: str) -> str:
    close = difflib.get_close_matches(name, [*OPERATORS, *_WITH_ARGUMENT], n=1)
    return f"; did you mean %{close[0]}%?" if close else "; docs/access-log.md lists what there is"
