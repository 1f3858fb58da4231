"""Which route a request takes, what is forwarded, where redirects lead."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotproxy.config.model import Redirect, Route, VirtualHost
from hotproxy.data_path import why_plain
from hotproxy.http.codec import HTTP_1_1, RequestHead
from hotproxy.http.headers import Headers
from hotproxy.proxy.route import Misfit, RouteTable, normalise
from hotproxy.proxy.route import Route as LiveRoute


def head(method: bytes = b"GET", *fields: tuple[bytes, bytes]) -> RequestHead:
    return RequestHead(method, b"/", HTTP_1_1, Headers(fields))


def table(*routes: Route, domains: tuple[str, ...] = ("*",)) -> RouteTable:
    return RouteTable([VirtualHost("host", domains, routes)])


def found(routes: RouteTable, authority: bytes = b"a", path: bytes = b"/", request: RequestHead | None = None) -> str:
    route = routes.find(authority, path, request or head())
    return "" if route is None else route.name


def hosts(**domains: tuple[str, ...]) -> RouteTable:
    return RouteTable([VirtualHost(name, list_, (Route(name, prefix="/"),)) for name, list_ in domains.items()])


HOSTS = hosts(
    exact=("api.example.com", "localhost"),
    near=("*.example.com",),
    nearer=("*.eu.example.com",),
    rest=("*",),
    six=("[::1]",),
)


@pytest.mark.parametrize(
    ("authority", "name"),
    [
        (b"api.example.com", "exact"),
        (b"API.Example.COM", "exact"),
        (b"api.example.com:8443", "exact"),
        (b"api.example.com.", "exact"),
        (b"api.example.com.:80", "exact"),
        (b"www.example.com", "near"),
        (b"WWW.example.com:80", "near"),
        (b"a.b.example.com", "near"),
        (b"a.eu.example.com", "nearer"),
        (b"eu.example.com", "near"),
        (b"example.com", "rest"),
        (b"example.com.evil.org", "rest"),
        (b"notexample.com", "rest"),
        (b"", "rest"),
        (b"[::1]:80", "six"),
        (b"[::1]", "six"),
        (b"[::2]:80", "rest"),
        (b"." * 60_000, "rest"),
    ],
)
def test_virtual_hosts_exact_then_longest_suffix_then_any(authority: bytes, name: str) -> None:
    assert found(HOSTS, authority) == name


def test_a_host_that_nobody_knows_has_no_route() -> None:
    assert found(hosts(one=("one.org",)), b"two.org") == ""


def test_a_virtual_host_without_a_match_does_not_fall_back_to_another_one() -> None:
    routes = RouteTable(
        [
            VirtualHost("one", ("one.org",), (Route("a", path="/a"),)),
            VirtualHost("any", ("*",), (Route("b", prefix="/"),)),
        ]
    )
    assert (found(routes, b"one.org", b"/b"), found(routes, b"two.org", b"/b")) == ("", "b")


@pytest.mark.parametrize(
    ("path", "name"),
    [(b"/v1/x", "v1"), (b"/v1", "any"), (b"/exact", "exact"), (b"/exact/", "any"), (b"/", "any"), (b"*", "")],
)
def test_prefixes_and_paths(path: bytes, name: str) -> None:
    routes = table(Route("v1", prefix="/v1/"), Route("exact", path="/exact"), Route("any", prefix="/"))
    assert found(routes, path=path) == name


def test_the_first_route_that_matches_wins_whatever_its_length() -> None:
    routes = table(Route("short", prefix="/a"), Route("long", prefix="/a/b"), Route("exact", path="/a/b/c"))
    assert [found(routes, path=path) for path in (b"/a/b", b"/a/b/c", b"/a")] == ["short"] * 3


def test_methods_and_headers_decide_too() -> None:
    routes = table(
        Route("post", prefix="/", methods=frozenset({"POST", "PUT"})),
        Route("canary", prefix="/", headers=(("x-canary", "1"), ("x-env", "a,b"))),
        Route("rest", prefix="/"),
    )
    both = ((b"X-Canary", b"1"), (b"x-env", b"a"), (b"X-Env", b"b"))
    requests = [head(b"POST"), head(b"GET", *both), head(b"GET", *both[:2]), head(b"GET", (b"x-canary", b"2"))]
    assert [found(routes, request=request) for request in requests] == ["post", "canary", "rest", "rest"]


def test_a_route_without_path_or_prefix_takes_every_target() -> None:
    assert found(table(Route("all")), path=b"*") == "all"


@pytest.mark.parametrize(
    ("target", "path", "forwarded"),
    [
        (b"/", b"/", b"/"),
        (b"/a?b=/../c", b"/a", b"/a?b=/../c"),
        (b"/a//b", b"/a//b", b"/a//b"),
        (b"/%41%7Eb", b"/A~b", b"/%41%7Eb"),  # what is only spelled otherwise goes on as it came
        (b"/a%2Fb", b"/a%2Fb", b"/a%2Fb"),
        (b"/a%2fb%20c", b"/a%2fb%20c", b"/a%2fb%20c"),
        (b"/a/./b?q", b"/a/b", b"/a/b?q"),
        (b"/a/../b", b"/b", b"/b"),
        (b"/a/b/..", b"/a/", b"/a/"),
        (b"/a/b/.", b"/a/b/", b"/a/b/"),
        (b"/a/%2e%2E/b?x", b"/b", b"/b?x"),
        (b"/a/.%2e/%62", b"/b", b"/b"),
        (b"/a//../b", b"/a/b", b"/a/b"),
        (b"/.well-known/x", b"/.well-known/x", b"/.well-known/x"),
        (b"/.%77ell", b"/.well", b"/.%77ell"),
        (b"/..a/...", b"/..a/...", b"/..a/..."),
        (b"/%252e%252e/a", b"/%252e%252e/a", b"/%252e%252e/a"),
        (b"/%zz%", b"/%zz%", b"/%zz%"),
        (b"*", b"*", b"*"),
        (b"/..%2Fa", b"/..%2Fa", b"/..%2Fa"),  # a segment called "..%2Fa"
    ],
)
def test_normalised_for_matching_and_what_is_forwarded(target: bytes, path: bytes, forwarded: bytes) -> None:
    assert normalise(target) == (path, forwarded)


@pytest.mark.parametrize(
    "target", [b"/..", b"/../a", b"/a/../../b", b"/%2e%2e/a", b"/./..", b"/a/b/../../../", b"/a\\..\\b", b"/a\\"]
)
def test_paths_that_are_refused(target: bytes) -> None:
    assert normalise(target) is None


@pytest.mark.parametrize(
    ("match", "rewrite", "target", "forwarded"),
    [
        ({"prefix": "/v1/"}, "/", b"/v1/a?b", b"/a?b"),
        ({"prefix": "/v1"}, "/v2", b"/v1/a", b"/v2/a"),
        ({"prefix": "/v1"}, "/v2", b"/x/../v%31/a%41?q", b"/v2/aA?q"),
        ({"path": "/old"}, "/new", b"/old?x=1", b"/new?x=1"),
        ({"prefix": "/"}, None, b"/%41?", b"/%41?"),
        ({"prefix": "/v1"}, "", b"/v1?q", b"/?q"),
        ({"prefix": "/v1/"}, "", b"/v1/a", b"/a"),
    ],
)
def test_prefix_rewrite(match: dict[str, str], rewrite: str | None, target: bytes, forwarded: bytes) -> None:
    normal = normalise(target)
    assert normal is not None
    route = table(Route(prefix_rewrite=rewrite, **match)).find(b"a", normal[0], head())  # type: ignore[arg-type]
    assert route is not None and route.rewrite(*normal) == forwarded


@pytest.mark.parametrize(
    ("redirect", "authority", "target", "location"),
    [
        (Redirect(path="/new"), b"h:81", b"/old?q", b"http://h:81/new?q"),
        (Redirect(path="/new?z"), b"h", b"/old?q", b"http://h/new?z"),
        (Redirect(path="/new?z", strip_query=True), b"h", b"/old?q", b"http://h/new?z"),
        (Redirect(path="/new", strip_query=True), b"h", b"/old?q", b"http://h/new"),
        (Redirect(scheme="https"), b"h:80", b"/a?q", b"https://h/a?q"),
        (Redirect(scheme="https"), b"h:8080", b"/a", b"https://h:8080/a"),
        (Redirect(scheme="https", port=8443), b"h:80", b"/a", b"https://h:8443/a"),
        (Redirect(scheme="http"), b"h:80", b"/a", b"http://h:80/a"),
        (Redirect(host="other"), b"h:80", b"/a", b"http://other/a"),
        (Redirect(host="other", port=81), b"h", b"/a", b"http://other:81/a"),
        (Redirect(port=81), b"[::1]:80", b"/a", b"http://[::1]:81/a"),
        (Redirect(scheme="https"), b"[::1]:80", b"/a", b"https://[::1]/a"),
        (Redirect(prefix_rewrite="/v2/"), b"h", b"/v1/a/%41?q", b"http://h/v2/a/A?q"),
        (Redirect(strip_query=True), b"h", b"/%41?q", b"http://h/%41"),
        (Redirect(path="/new"), b"", b"/old", b"/new"),
    ],
)
def test_redirects_lead_where_envoy_leads(redirect: Redirect, authority: bytes, target: bytes, location: bytes) -> None:
    normal = normalise(target)
    assert normal is not None
    prefix = "/v1/" if redirect.prefix_rewrite else "/"
    route = table(Route(prefix=prefix, redirect=redirect)).find(b"a", normal[0], head())
    assert route is not None and route.location(*normal, authority, b"http") == location


@pytest.mark.skipif(not why_plain(), reason="compiled code looks into a set without asking it: this is the plain run's")
def test_thousands_of_routes_cost_no_more_than_a_few() -> None:
    """Not by the clock: the number of routes that are looked at does not grow."""
    routes = table(
        *[Route(f"p{number}", prefix=f"/service-{number:05}/", methods=frozenset({"GET"})) for number in range(5000)],
        *[Route(f"e{number}", path=f"/exact-{number}") for number in range(5000)],
    )
    asked = 0

    class Asked(frozenset[bytes]):
        def __contains__(self, value: object) -> bool:
            nonlocal asked
            asked += 1
            return super().__contains__(value)

    for route in (routes.find(b"a", b"/service-%05d/" % number, head()) for number in range(0, 5000, 500)):
        assert route is not None
        route.methods = Asked(route.methods)
    assert found(routes, path=b"/service-04500/x") == "p4500"
    assert found(routes, path=b"/exact-4999") == "e4999"
    assert asked == 1


SOME_PATHS = st.sampled_from(["/", "/a", "/a/", "/a/b", "/b"])
SOME_ROUTES = st.builds(
    lambda kind, text, methods, headers: Route(**{kind: text}, methods=methods, headers=headers),
    st.sampled_from(["path", "prefix"]),
    SOME_PATHS,
    st.frozensets(st.sampled_from(["GET", "POST"]), max_size=1),
    st.sampled_from([(), (("x", "1"),), (("x", "1, 2"),)]),
)
SOME_HEADS = st.builds(
    lambda method, fields: head(method, *fields),
    st.sampled_from([b"GET", b"POST"]),
    st.lists(st.sampled_from([(b"X", b"1"), (b"x", b"2"), (b"y", b"1")]), max_size=2),
)


@given(st.lists(SOME_ROUTES, max_size=6), SOME_PATHS.map(str.encode), SOME_HEADS)
def test_the_route_that_is_found_is_the_first_without_a_misfit(routes, path, request):
    """`explain` says why with `misfit`; what serves is the look-up. They must never disagree."""
    fits = [each for each in routes if LiveRoute(each, "").misfit(path, request) is None]
    route = table(*routes).find(b"a", path, request)
    assert (route.config if route is not None else None) is (fits[0] if fits else None)


@pytest.mark.parametrize(
    ("route", "misfit"),
    [
        (Route(path="/b"), Misfit("path", "", "/b")),
        (Route(prefix="/a/b/"), Misfit("prefix", "", "/a/b/")),
        (Route(prefix="/a", methods=frozenset({"PUT", "POST"})), Misfit("method", "", "POST PUT")),
        (Route(prefix="/a", headers=(("x", "1"),)), Misfit("header", "x", "1", "2")),
        (Route(prefix="/a", headers=(("y", "1"),)), Misfit("header", "y", "1")),
        (Route(prefix="/a", headers=(("x", "2"),)), None),
    ],
)
def test_a_misfit_is_the_first_thing_that_does_not_fit(route: Route, misfit: Misfit | None) -> None:
    assert LiveRoute(route, "").misfit(b"/a/b", head(b"GET", (b"x", b"2"))) == misfit


def test_the_virtual_host_can_be_asked_for():
    for authority, name in ((b"API.example.com:80", "exact"), (b"x.example.com", "near"), (b"other", "rest")):
        host = HOSTS.virtual_host(authority)
        assert host is not None and host.name == name
    assert hosts(one=("a",)).virtual_host(b"b") is None
