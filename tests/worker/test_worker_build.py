"""From a config to what serves it, and what is refused before anything is forked."""

from __future__ import annotations

import asyncio
import random
import resource
import socket
from dataclasses import replace

import pytest

from hotproxy.clock import SystemClock, TimerWheel
from hotproxy.config.address import Address
from hotproxy.config.model import (
    AccessLog,
    CertificateFiles,
    Cluster,
    ClusterTls,
    Config,
    EndpointConfig,
    Listener,
    ListenerTls,
    ProxyProtocol,
    Route,
    SniRoute,
    SocketOptions,
    Tcp,
    VirtualHost,
)
from hotproxy.net.poller import Poller
from hotproxy.proxy.snapshot import HttpListener, TcpListener
from hotproxy.shm.cells import Slab
from hotproxy.upstream.load_balancer import LeastRequest, RoundRobin
from hotproxy.worker.build import build, check_buildable, connection_limit, declare_stats, load_tls
from tests.kit.tls import Files

ANY = (Address.parse("127.0.0.1:0"),)
WEB = Listener("web", ANY, virtual_hosts=(VirtualHost("all", ("*",), (Route(prefix="/", cluster="api"),)),))
DB = Listener("db", ANY, tcp=Tcp("db", idle_timeout_s=7.0, max_connect_attempts=5), max_connections=9)
API = Cluster("api", (EndpointConfig(Address.parse("127.0.0.1:1"), 3),), lb_policy="least_request")
CONFIG = Config(listeners=(WEB, DB), clusters=(API, Cluster("db", (EndpointConfig(Address.parse("unix:/x")),))))


@pytest.fixture
def poller():
    loop = asyncio.new_event_loop()
    made = Poller(loop, lambda callback, error: None)
    yield made
    made.close()
    loop.close()


def assemble(config: Config, poller: Poller, reports: list[str] | None = None):
    clock = SystemClock()
    slab = Slab.private(declare_stats(config))
    report = ([] if reports is None else reports).append
    return build(config, slab, poller, TimerWheel(clock), clock, random.Random(1), report), slab


def test_every_statistic_that_is_used_is_declared_and_none_twice(poller):
    assemble(CONFIG, poller)
    names = [stat.name for stat in declare_stats(CONFIG)]
    assert len(names) == len(set(names))
    assert {"http.web.downstream_rq_total", "tcp.db.idle_timeout", "cluster.api.upstream_cx_total"} < set(names)
    assert not any(name.startswith(("tcp.web.", "http.db.")) for name in names)


def test_the_snapshot_is_the_config_in_working_order(poller):
    parts, slab = assemble(CONFIG, poller)
    snapshot = parts.runtime.snapshot
    web, db = snapshot.listeners["web"], snapshot.listeners["db"]
    assert isinstance(web, HttpListener)
    assert isinstance(db, TcpListener)
    assert (db.cluster, db.idle_timeout_s, db.max_connect_attempts, db.max_connections) == ("db", 7.0, 5, 9)
    api = snapshot.clusters["api"]
    assert isinstance(api.balancer, LeastRequest)
    assert isinstance(snapshot.clusters["db"].balancer, RoundRobin)
    assert [(endpoint.name, endpoint.weight) for endpoint in api.endpoints] == [("127.0.0.1:1", 3)]
    assert set(parts.listeners) == {"web", "db"}
    parts.runtime.buffered.add(5)
    assert slab.buffered_bytes == 5
    parts.admission.close()


def test_what_a_config_says_about_clients_and_their_connections_is_in_the_snapshot(poller):
    choice = Tcp("db", routes=(SniRoute(("a.org",), weighted_clusters=(("api", 0), ("db", 1))),))
    web = replace(WEB, proxy_protocol=ProxyProtocol(("10.0.0.0/8",), False), listener_filters_timeout_s=3.0)
    config = replace(
        CONFIG,
        listeners=(replace(web, socket_options=SocketOptions(tcp_nodelay=False)), replace(DB, tcp=choice)),
        clusters=(
            replace(API, proxy_protocol=2, socket_options=SocketOptions(tcp_user_timeout_s=9.0)),
            CONFIG.clusters[1],
        ),
    )
    parts, slab = assemble(config, poller)
    snapshot = parts.runtime.snapshot
    found, db = snapshot.listeners["web"], snapshot.listeners["db"]
    assert found.proxy_protocol.trusts("10.1.1.1:5", True) and not found.proxy_protocol.required
    assert (found.filters_timeout_s, db.proxy_protocol, db.proxy_stats) == (3.0, None, None)
    assert [db.routes.pick(name, random.Random(1)) for name in ("a.org", "b.org")] == ["db", "db"]
    api = snapshot.clusters["api"]
    assert api.proxy_protocol == 2
    with socket.socket() as sock:
        api.endpoints[0].options.apply(sock)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 9000
        found.options.apply_again(sock)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 0
    found.proxy_stats.count_header(2, True)
    assert slab.counter("proxy_proto.web.versions.v2.found").value == 1
    parts.admission.close()


def test_listeners_that_log_to_one_file_share_it(poller, tmp_path):
    log = AccessLog(str(tmp_path / "access.log"), "%RESPONSE_FLAGS%")
    config = replace(CONFIG, listeners=(replace(WEB, access_log=log), replace(DB, access_log=log)))
    parts, _ = assemble(config, poller)
    parts.logs.close()
    parts.admission.close()
    assert (tmp_path / "access.log").exists()


def test_an_access_log_that_cannot_be_opened_is_an_error(poller, tmp_path):
    config = replace(CONFIG, listeners=(replace(WEB, access_log=AccessLog(str(tmp_path / "none" / "access.log"))),))
    with pytest.raises(OSError, match=r"access\.log"):
        assemble(config, poller)


def test_what_the_zygote_refuses():
    check_buildable(CONFIG)
    named = Cluster("api", (EndpointConfig(Address.parse("example.org:80")),))
    with pytest.raises(ValueError, match=r"cluster 'api': the endpoint example\.org:80 is no IP address"):
        check_buildable(replace(CONFIG, clusters=(named,)))


def test_certificates_that_the_zygote_refuses(tmp_path):
    files = Files(tmp_path, "web.example")
    pair = CertificateFiles(str(files.cert), str(files.key))
    web, api = replace(WEB, tls=ListenerTls((pair,))), replace(CONFIG.clusters[0], tls=ClusterTls(certificate=pair))
    for config, named in (
        (replace(CONFIG, listeners=(web,)), f"listener '{web.name}'"),
        (replace(CONFIG, clusters=(api,)), f"cluster '{api.name}'"),
    ):
        load_tls(config)
        key = files.key.read_text()
        files.key.write_text("nonsense")
        with pytest.raises(ValueError, match=f"{named}: no key can be read from"):
            load_tls(config)
        files.key.write_text(key)


def test_connections_take_at_most_45_percent_of_the_descriptors():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1000, hard))
        assert connection_limit() == 450
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
