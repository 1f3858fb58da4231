"""A config printed with all its defaults loads to the config that it was printed from."""

from __future__ import annotations

import string
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from hotproxy.config import examine, examine_text, load_text, model
from hotproxy.config.address import TCP, UNIX, Address
from hotproxy.config.effective import config_digest, duration_text, effective_yaml
from hotproxy.config.scalars import MAX_DURATION_S, duration_s
from hotproxy.config.secrets import Hidden

durations = st.one_of(
    st.builds(
        lambda number, unit: duration_s(f"{number}{unit}"), st.integers(0, 8000), st.sampled_from(["s", "m", "h"])
    ),
    st.integers(0, 10**7).map(lambda ms: duration_s(f"{ms}ms")),
    st.floats(0, MAX_DURATION_S, allow_subnormal=False),
)
names = st.text(string.ascii_letters + string.digits + "_.-", min_size=1, max_size=8)
labels = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=6)
domains = st.one_of(labels, st.builds("{}.{}".format, labels, labels), st.builds("*.{}".format, labels))
free_names = st.text(st.characters(categories=["L", "N", "P", "S"], exclude_characters='"'), max_size=6)
paths = st.text(string.ascii_letters + "$!'(),;=:@&~*_-", max_size=8).map(lambda text: f"/{text}")
headers = st.dictionaries(
    st.text(string.ascii_lowercase + "-", min_size=1, max_size=8),
    st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=0, max_size=8),
    max_size=2,
)
ports = st.integers(1, 65535)
OWNERS = st.sampled_from(["", "1"])


def routes(timeout_s: float, idle_timeout_s: float) -> st.SearchStrategy[model.Route]:
    """Of one virtual host: what is no cluster has its scope's timeouts."""
    match = {
        "name": free_names,
        "methods": st.frozensets(st.sampled_from(["GET", "POST", "FROB"])),
        "headers": headers.map(lambda pairs: tuple(pairs.items())),
    }
    matches = st.one_of(
        st.fixed_dictionaries({**match, "prefix": paths}), st.fixed_dictionaries({**match, "path": paths})
    )
    cluster = st.fixed_dictionaries(
        {
            "cluster": st.just("c"),
            "prefix_rewrite": st.none() | paths,
            "host_rewrite": st.none() | labels | st.builds("{}:{}".format, labels, ports),
            "timeout_s": durations,
            "idle_timeout_s": durations,
            "upgrades": st.frozensets(st.sampled_from(["websocket", "foo/2"])),
        }
    )
    redirect = st.builds(
        model.Redirect,
        scheme=st.sampled_from([None, "http", "https"]),
        host=st.none() | labels,
        port=st.none() | ports,
        path=paths,
        strip_query=st.booleans(),
        status=st.sampled_from([301, 302, 303, 307, 308]),
    )
    own = {"timeout_s": st.just(timeout_s), "idle_timeout_s": st.just(idle_timeout_s)}
    body = st.text(st.characters(categories=["L", "N", "P", "S", "Zs", "Cc"], exclude_characters="\0"), max_size=30)
    answer = st.builds(model.DirectResponse, status=st.integers(400, 599), body=body)
    actions = st.one_of(
        cluster,
        st.fixed_dictionaries({**own, "redirect": redirect}),
        st.fixed_dictionaries({**own, "direct_response": answer}),
    )
    return st.builds(lambda match, action: model.Route(**match, **action), matches, actions)


# One cluster, or shares for one that is there; both are the same config for whoever connects.
targets = st.one_of(
    st.just({"cluster": "c"}), st.integers(1, 1_000_000).map(lambda weight: {"weighted_clusters": (("c", weight),)})
)
sni_routes = st.lists(domains.filter(lambda name: not name.isdigit()), min_size=1, max_size=4, unique=True).flatmap(
    lambda names: st.lists(targets, min_size=len(names), max_size=len(names)).map(
        lambda to: tuple(model.SniRoute((name,), **one) for name, one in zip(names, to, strict=True))
    )
)
tcp_sections = st.one_of(
    st.builds(lambda to, *rest: model.Tcp(**to, idle_timeout_s=rest[0], max_connect_attempts=rest[1], routes=rest[2]),
              targets, durations, st.integers(1, 100), st.just(()) | sni_routes),
    st.builds(lambda routes: model.Tcp(routes=routes), sni_routes),
)  # fmt: skip
networks = st.lists(
    st.sampled_from(["10.0.0.0/8", "127.0.0.1/32", "::1/128", "fd00::/8", "0.0.0.0/0"]), min_size=1, unique=True
).map(tuple)


def socket_options(defer: st.SearchStrategy[float]) -> st.SearchStrategy[model.SocketOptions]:
    seconds = st.integers(0, 32767).map(float)
    keepalive = st.builds(model.TcpKeepalive, seconds, seconds, st.integers(0, 127))
    patience = st.integers(0, 2_147_483).map(float)
    return st.builds(model.SocketOptions, st.booleans(), st.none() | keepalive, patience, defer)


@st.composite
def configs(draw: st.DrawFn) -> model.Config:
    listeners = []
    for number, name in enumerate(draw(st.lists(names.map("l-{}".format), max_size=3, unique=True))):
        addresses = (
            Address(TCP, host=draw(st.sampled_from(["", "10.0.0.1", "::1"])), port=1000 + number),
            Address(UNIX, path=f"/run/{number}$.sock", mode=draw(st.integers(0, 0o777)), owner=draw(OWNERS)),
        )[: draw(st.integers(1, 2))]
        log = draw(
            st.none() | st.builds(model.AccessLog, st.just("/var/$a"), st.sampled_from([None, "json", "%STATUS%"]))
        )
        limits = {
            "max_connections": draw(st.integers(0, 10**6)),
            "backlog": draw(st.integers(1, 65535)),
            "proxy_protocol": draw(st.none() | st.builds(model.ProxyProtocol, networks, st.booleans())),
            "listener_filters_timeout_s": draw(durations),
            "socket_options": draw(socket_options(st.integers(0, 3600).map(float))),
        }
        if draw(st.booleans()):
            tcp = draw(tcp_sections)
            listeners.append(model.Listener(name, addresses, log, tcp, **limits))
            continue
        hosts = []
        for domain in draw(st.lists(domains, min_size=1, max_size=3, unique=True)):
            scope = routes(draw(durations), draw(durations))
            found = draw(st.lists(scope, min_size=1, max_size=3))
            hosts.append(model.VirtualHost(domain, (domain,), tuple(found)))
        listeners.append(
            model.Listener(
                name,
                addresses,
                log,
                None,
                tuple(hosts),
                draw(durations),
                draw(durations),
                **limits,
                xff_num_trusted_hops=draw(st.integers(0, 100)),
                forwarded_certificate=model.ForwardedCertificate(
                    draw(st.sampled_from([model.SANITIZE, model.SANITIZE_SET, model.ALWAYS_FORWARD_ONLY]))
                ),
            )
        )
    tcp_addresses = st.builds(lambda port: Address(TCP, host="127.0.0.1", port=port), ports)
    endpoint_addresses = st.one_of(tcp_addresses, st.just(Address(UNIX, path="/a")))
    endpoint = st.builds(model.EndpointConfig, endpoint_addresses, st.integers(1, 1_000_000))
    endpoints = draw(st.lists(endpoint, min_size=1, max_size=3, unique_by=lambda each: str(each.address)))
    policy = draw(st.sampled_from(["round_robin", "least_request", "random"]))
    version = draw(st.integers(0, 2))
    tlvs = draw(st.sets(st.integers(0, 255)).map(sorted).map(tuple) | st.just(model.ALL_TLVS)) if version == 2 else ()
    cluster = model.Cluster("c", tuple(endpoints), "static", policy, draw(durations), draw(durations), version,
                            draw(socket_options(st.just(0.0))), pass_through_tlvs=tlvs)  # fmt: skip
    admin = draw(st.none() | st.just(model.Admin(Address(TCP, host="127.0.0.1", port=999))))
    return model.Config(
        draw(st.integers(0, 1024)),
        admin,
        draw(durations),
        draw(durations),
        draw(durations),
        tuple(listeners),
        (cluster,),
    )


@settings(max_examples=60, deadline=None)
@given(configs())
def test_what_is_printed_loads_to_the_same(config: model.Config) -> None:
    text = effective_yaml(config)
    assert load_text(text, "/etc/printed.yaml", environ={}, offline=True) == config
    assert examine_text(effective_yaml(config, Hidden(())), "/etc/x.yaml", environ={}, offline=True).config is not None


@given(durations)
def test_a_duration_keeps_its_exact_value(seconds: float) -> None:
    assert duration_s(duration_text(seconds)) == seconds


def test_durations_are_written_as_people_do() -> None:
    assert [duration_text(each) for each in (0.0, 0.25, 1.0, 90.0, 300.0, 3600.0, 86400.0, 1.5)] == [
        "0s", "250ms", "1s", "90s", "5m", "1h", "1d", "1500ms"
    ]  # fmt: skip


def test_the_digest_is_of_what_a_config_means() -> None:
    short = "listeners: [{name: a, address: ':1', cluster: c}]\nclusters: [{name: c, endpoints: ['1.1.1.1:1']}]\n"
    long = effective_yaml(load_text(short, "/a.yaml"))
    assert config_digest(load_text(short, "/a.yaml")) == config_digest(load_text(long, "/b.yaml"))
    assert config_digest(load_text(short.replace(":1'", ":2'"), "/a.yaml")) != config_digest(load_text(long, "/b.yaml"))


def test_two_hosts_of_one_name_are_still_two() -> None:
    text = """
listeners:
  - name: a
    address: ":1"
    virtual_hosts:
      - {name: b.org, domains: [a.org], cluster: c}
      - {domains: [b.org], cluster: c}
clusters: [{name: c, endpoints: ["1.1.1.1:1"]}]
"""
    config = load_text(text, "/a.yaml")
    assert load_text(effective_yaml(config), "/b.yaml") == config


def test_secrets_are_masked_and_the_rest_still_loads(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("""
listeners:
  - name: a
    address: ":1"
    access_log: {path: "/var/log/a", format: "%REQ(X-TOKEN:Y)% ${API_TOKEN}"}
    routes:
      - match: {prefix: "/hook/${API_TOKEN}", headers: {authorization: "Bearer hunter2", x-a: "${API_TOKEN}"}}
        cluster: c
      - match: {path: /x}
        redirect: {path: "/y?api_key=hunter2"}
      - match: {prefix: /}
        direct_response: {status: 200, body: "http://joe:hunter2@here/ $$"}
clusters: [{name: c, endpoints: ["1.1.1.1:1"]}]
""")
    file.chmod(0o600)
    examined = examine(str(file), environ={"API_TOKEN": "hunter2"}, offline=True)
    assert examined.config is not None
    text = effective_yaml(examined.config, Hidden(examined.secrets))
    assert "hunter2" not in text and "prefix: /hook/***" in text and "%REQ(X-TOKEN:Y)% ***" in text
    assert examine_text(text, "/b.yaml", environ={}, offline=True).problems == ()
