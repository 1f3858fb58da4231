"""Formats: Envoy's default to the letter, every operator, JSON, and input that tries to break out of its line."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotproxy.telemetry.log_format import DEFAULT_FORMAT, LogFormat
from hotproxy.telemetry.log_operators import OPERATORS
from hotproxy.telemetry.stream_info import HeaderPairs, StreamInfo


def exchange() -> StreamInfo:
    """The example of Envoy's documentation, and what it leaves out."""
    info = StreamInfo(1460751420.310, 100.0)  # 2016-04-15T20:17:00.310Z
    info.request_complete_s = 100.005
    info.upstream_first_byte_s = 100.105
    info.response_first_byte_s = 100.106
    info.end_s = 100.226
    info.protocol = "HTTP/1.1"
    info.method = "POST"
    info.authority = "locations"
    info.original_path = "/api/v1/locations"
    info.path = "/v1/locations"
    info.user_agent = "nsq2http"
    info.x_forwarded_for = "10.0.35.28"
    info.request_id = "cc21d9b0-cf5c-432b-8c7e-98aeb7988cd2"
    info.status = 204
    info.details = "via_upstream"
    info.rx_bytes = 154
    info.downstream_remote = "10.0.35.28:40000"
    info.downstream_local = "[::1]:8080"
    info.upstream_remote = "10.0.2.1:80"
    info.upstream_local = "10.0.2.9:50000"
    info.listener = "web"
    info.virtual_host = "everything"
    info.route = "locations"
    info.cluster = "api"
    info.attempts = 1
    info.upstream_service_time_ms = 100
    info.request_headers = HeaderPairs([(b"X-Trace", b"abcdefgh"), (b"x-forwarded-proto", b"https")])
    info.response_headers = HeaderPairs([(b"Content-Type", b"text/plain"), (b"x-empty", b"")])
    return info


def render(form: str | None, info: StreamInfo | None = None) -> str:
    line = LogFormat.compile(form).render(exchange() if info is None else info).decode()
    assert line.endswith("\n")
    return line[:-1]


def test_the_default_line_is_envoys() -> None:
    assert render(None) == (
        '[2016-04-15T20:17:00.310Z] "POST /api/v1/locations HTTP/1.1" 204 - 154 0 226 100 "10.0.35.28" '
        '"nsq2http" "cc21d9b0-cf5c-432b-8c7e-98aeb7988cd2" "locations" "10.0.2.1:80"'
    )
    assert render(DEFAULT_FORMAT) == render(None)


def test_a_tcp_connection_prints_what_envoy_prints() -> None:
    info = StreamInfo(1460751420.0, 100.0)
    info.rx_bytes, info.tx_bytes, info.end_s, info.upstream_remote = 88, 99, 100.0055, "10.0.2.1:80"
    info.flags = ("UF", "URX")
    assert render(None, info) == ('[2016-04-15T20:17:00.000Z] "- - -" 0 UF,URX 88 99 5 - "-" "-" "-" "-" "10.0.2.1:80"')
    fields = json.loads(render("json", info))
    assert (fields["response_flags"], fields["duration"], fields["method"]) == ("UF,URX", 5, None)


@pytest.mark.parametrize(
    ("form", "line"),
    [
        ("%START_TIME(%s.%3f)%", "1460751420.310"),
        ("%REQUEST_DURATION% %RESPONSE_DURATION% %RESPONSE_TX_DURATION%", "5 105 121"),
        ("%RESPONSE_CODE_DETAILS% %ROUTE_NAME% %UPSTREAM_CLUSTER%", "via_upstream locations api"),
        ("%UPSTREAM_REQUEST_ATTEMPT_COUNT%", "1"),
        ("%DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "10.0.35.28:40000 10.0.35.28"),
        ("%DOWNSTREAM_REMOTE_PORT% %DOWNSTREAM_DIRECT_REMOTE_ADDRESS%", "40000 10.0.35.28:40000"),
        ("%DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%", "[::1]:8080 ::1"),
        ("%DOWNSTREAM_LOCAL_PORT% %UPSTREAM_LOCAL_ADDRESS%", "8080 10.0.2.9:50000"),
        ("%UPSTREAM_REMOTE_ADDRESS% %UPSTREAM_REMOTE_PORT%", "10.0.2.1:80 80"),
        ("%REQ(:PATH)% %REQ(X-ENVOY-ORIGINAL-PATH)% %REQ(:SCHEME)%", "/v1/locations /api/v1/locations https"),
        ("%REQ(x-trace)% %REQ(X-TRACE):3% %REQ(X-NONE?X-TRACE):2% %REQ(X-NONE)%", "abcdefgh abc ab -"),
        ("%REQ(:METHOD):2% %REQ(HOST)%", "PO locations"),
        ("%RESP(content-type)% %RESP(X-EMPTY)% %RESP(:STATUS)%", "text/plain - 204"),
        ("%RESP(X-NONE?Content-Type)%", "text/plain"),
        ("100%% é %PROTOCOL%%%", "100% é HTTP/1.1%"),
        ("no operator", "no operator"),
        ("a line feed of YAML\n", "a line feed of YAML"),
        ("an escaped one\\n", "an escaped one"),
    ],
)
def test_operators(form: str, line: str) -> None:
    assert render(form) == line


def tlv(kind: int, value: bytes) -> bytes:
    return bytes((kind,)) + len(value).to_bytes(2, "big") + value


def test_what_a_proxy_has_said_about_its_client() -> None:
    info = exchange()
    info.downstream_direct_remote = "10.0.0.9:7"
    info.requested_server_name = "db.example.com"
    inside = bytes(5) + tlv(0x21, b"TLSv1.3") + tlv(0x22, b"anna") + tlv(0x02, b"not this one")
    info.tlvs = tlv(0xEA, b"vpce-1") + tlv(0x20, inside) + tlv(0x02, b'sh"op') + tlv(0x02, b"second")
    info.tlvs += tlv(0x05, b"\x00\xff")
    metadata = "%DYNAMIC_METADATA(envoy.filters.listener.proxy_protocol:{})%".format
    form = " ".join(
        [
            "%DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_DIRECT_REMOTE_ADDRESS% %DOWNSTREAM_DIRECT_REMOTE_PORT%",
            "%REQUESTED_SERVER_NAME%",
            metadata("PP2_TYPE_AUTHORITY"), metadata("0xEA"), metadata("0xea")[:-1] + ":4%",
            metadata("PP2_TYPE_UNIQUE_ID"),
            metadata("PP2_SUBTYPE_SSL_VERSION"), metadata("PP2_SUBTYPE_SSL_CN"), metadata("PP2_SUBTYPE_SSL_CIPHER"),
            metadata("PP2_TYPE_ALPN"),
        ]
    )  # fmt: skip
    assert render(form, info) == (
        "10.0.35.28:40000 10.0.0.9:7 7 db.example.com sh\\x22op vpce-1 vpce \\x00\\xff TLSv1.3 anna - -"
    )


def test_what_did_not_happen_is_a_dash_or_null() -> None:
    info = StreamInfo(1460751420.0)
    form = " ".join(f"%{name}%" for name in OPERATORS if name not in ("HOSTNAME",))
    numbers = {"RESPONSE_CODE", "BYTES_RECEIVED", "BYTES_SENT", "UPSTREAM_REQUEST_ATTEMPT_COUNT"}
    expected = " ".join("0" if name in numbers else "-" for name in OPERATORS if name != "HOSTNAME")
    assert render(form, info) == expected
    assert render("%REQ(A)% %RESP(B)% %REQ(:PATH)% %REQ(USER-AGENT)%", info) == "- - - -"


def test_the_hostname_is_this_machines() -> None:
    assert re.fullmatch(r"\S+", render("%HOSTNAME%"))


def test_an_unrewritten_path_has_no_original() -> None:
    info = exchange()
    info.path = info.original_path
    assert render("%REQ(X-ENVOY-ORIGINAL-PATH)%", info) == "-"


def test_a_field_of_the_client_does_not_pose_as_the_original_path() -> None:
    info = exchange()
    info.path = info.original_path
    info.request_headers = HeaderPairs([(b"x-envoy-original-path", b"/forged")])
    assert "/forged" not in render(None, info)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ("a %RESPONSE_COD%", "unknown operator %RESPONSE_COD% at position 3; did you mean %RESPONSE_CODE%?"),
        ("%response_code%", "unknown operator %response_code% at position 1; did you mean %RESPONSE_CODE%?"),
        ("%ZZZ%", "unknown operator %ZZZ% at position 1; docs/access-log.md"),
        ("%DURATION", "%DURATION at position 1 is not closed"),
        ("%REQ(A%", "%REQ at position 1 is not closed"),
        ("50% of", "a lone % at position 3; write %% for a percent"),
        ("%", "a lone % at position 1"),
        ("%d", "%d at position 1 is not an operator"),
        ("%REQ%", "%REQ% at position 1 needs the name of a field"),
        ("%REQ()%", "%REQ% at position 1 needs the name of a field"),
        ("%REQ(A?B?C)%", "one field and one alternative"),
        ("%REQ(A?)%", "'' is not the name of a field"),
        ("%REQ(A B)%", "'A B' is not the name of a field"),
        ("%REQ(:FOO)%", "there is no :FOO; there is :METHOD, :PATH"),
        ("%RESP(:PATH)%", "there is no :PATH; there is :STATUS"),
        ("%DURATION(x)%", "takes neither an argument nor a length"),
        ("%DURATION:3%", "takes neither an argument nor a length"),
        ("%START_TIME:3%", "takes no length"),
        ("%DYNAMIC_METADATA%", "the only metadata are envoy.filters.listener.proxy_protocol:PP2_TYPE_AUTHORITY"),
        ("%DYNAMIC_METADATA(com.example:x)%", "%DYNAMIC_METADATA% at position 1: the only metadata are envoy"),
        (
            "%DYNAMIC_METADATA(envoy.filters.listener.proxy_protocol:x)%",
            "'x' is neither the number of a TLV, such as 0xEA, nor one of PP2_TYPE_ALPN, PP2_TYPE_AUTHORITY",
        ),
        ("%START_TIME(%n)%", "'%n' is not a time specifier"),
        ("one\ntwo\n", "position 4: one exchange is one line"),
        ("one\rtwo", "position 4: one exchange is one line"),
    ],
)
def test_a_bad_format_says_what_and_where(form: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        LogFormat.compile(form)


# --- input that tries to break out --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "printed"),
    [
        (b"a\r\n[2016] forged", r"a\x0d\x0a[2016] forged"),
        (b'" 200 "', r"\x22 200 \x22"),
        (b"back\\x0aslash", r"back\x5cx0aslash"),
        (b"\x1b[31m\x00\x7f", r"\x1b[31m\x00\x7f"),
        ("größe".encode(), "größe"),
        (b"\xff\xc3", r"\xff\xc3"),
        ("\u202e\u2028\x85".encode(), r"\xe2\x80\xae\xe2\x80\xa8\xc2\x85"),
        (b"%s%d %%", "%s%d %%"),
    ],
)
def test_values_cannot_end_the_line_or_the_quotes(sent: bytes, printed: str) -> None:
    info = exchange()
    info.user_agent = sent.decode("latin-1")
    info.request_headers = HeaderPairs([(b"x-any", sent)])
    assert render('"%REQ(USER-AGENT)%" "%REQ(X-ANY)%"', info) == f'"{printed}" "{printed}"'


def test_truncation_counts_characters_and_cuts_none() -> None:
    info = exchange()
    info.user_agent = "größe".encode().decode("latin-1")
    assert render("%REQ(USER-AGENT):3%", info) == "grö"


@given(st.binary(max_size=40), st.text(max_size=20))
def test_whatever_comes_in_one_exchange_is_one_line(sent: bytes, ours: str) -> None:
    info = exchange()
    for name in ("method", "authority", "path", "original_path", "user_agent", "x_forwarded_for", "request_id"):
        setattr(info, name, sent.decode("latin-1"))
    for name in ("route", "cluster", "details", "upstream_remote", "protocol", "listener"):
        setattr(info, name, ours)
    info.request_headers = HeaderPairs([(b"x-any", sent)])
    for form in (None, "json", "%REQ(X-ANY)% %ROUTE_NAME% %UPSTREAM_CLUSTER% %UPSTREAM_REMOTE_PORT% %PROTOCOL%"):
        line = render(form, info)
        assert line.isprintable()
        if form == "json":
            assert json.loads(line)["bytes_received"] == 154
        elif form is None:
            assert line.count('"') == 12


# --- JSON -----------------------------------------------------------------------------------------------------------


def test_json_has_the_customary_keys_with_numbers_as_numbers() -> None:
    info = exchange()
    info.details = ""
    assert json.loads(render("json", info)) == {
        "start_time": "2016-04-15T20:17:00.310Z",
        "method": "POST",
        "path": "/api/v1/locations",
        "protocol": "HTTP/1.1",
        "response_code": 204,
        "response_flags": None,
        "response_code_details": None,
        "bytes_received": 154,
        "bytes_sent": 0,
        "duration": 226,
        "upstream_service_time": 100,
        "x_forwarded_for": "10.0.35.28",
        "user_agent": "nsq2http",
        "request_id": "cc21d9b0-cf5c-432b-8c7e-98aeb7988cd2",
        "authority": "locations",
        "upstream_host": "10.0.2.1:80",
        "upstream_cluster": "api",
        "upstream_local_address": "10.0.2.9:50000",
        "upstream_request_attempt_count": 1,
        "route_name": "locations",
        "virtual_host": "everything",
        "listener": "web",
        "downstream_remote_address": "10.0.35.28:40000",
        "downstream_local_address": "[::1]:8080",
    }


def test_json_keeps_text_and_shows_bytes_that_are_none() -> None:
    info = exchange()
    info.user_agent = 'größe "x"\n'.encode().decode("latin-1")
    info.original_path = "/\xff"
    fields = json.loads(render("json", info))
    assert (fields["user_agent"], fields["path"]) == ('größe "x"\n', "/\\xff")


def test_json_that_must_be_short_is_still_json() -> None:
    info = exchange()
    info.original_path = "/" + "\xff" * 60_000
    info.user_agent = ""
    info.request_headers = HeaderPairs([(b"user-agent", b'"' * 5000)])
    line = LogFormat.compile("json").render_within(info, 4096)
    assert len(line) <= 4096
    fields = json.loads(line)
    assert fields["path"].endswith("...[truncated]")
    assert fields["user_agent"].startswith('"""')
    assert info.original_path == "/" + "\xff" * 60_000


wire = st.one_of(
    st.text('ab /"\\%\n\x7f\xe9', max_size=6), st.binary(max_size=6).map(lambda sent: sent.decode("latin-1"))
)


@given(st.lists(wire, min_size=6, max_size=6), st.integers(-1, 3))
def test_a_line_is_what_its_operators_print(values: list[str], limit: int) -> None:
    """Lines in which nothing has to be escaped are made another way."""
    info = exchange()
    info.method, info.original_path, info.authority, info.user_agent, info.upstream_remote, info.route = values
    cut = f":{limit}" if limit > 0 else ""
    names = [
        f"REQ(:METHOD){cut}",
        "REQ(:PATH)",
        f"REQ(:AUTHORITY){cut}",
        "REQ(USER-AGENT)",
        "REQ(X-TRACE):3",
        "DURATION",
    ]
    names += ["UPSTREAM_HOST", "ROUTE_NAME", "REQUEST_DURATION", "RESP(X-EMPTY)", "UPSTREAM_REMOTE_PORT", "START_TIME"]
    together = render("|".join(f"%{name}%" for name in names), info)
    one_by_one = [render(f'"%{name}%', info)[1:] for name in names]
    info.protocol = '"'
    slowly = render("|".join(f"%{name}%" for name in [*names, "PROTOCOL"]), info)
    assert together == slowly.removesuffix("|\\x22") == "|".join(one_by_one)
