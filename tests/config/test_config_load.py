"""From files to a `Config`: defaults, scopes, includes, variables, and files that cannot be used."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hotproxy.config import ConfigErrors, Examined, examine, examine_text, load, load_text, render_text
from hotproxy.config.address import Address
from hotproxy.config.model import AccessLog, Cluster, Config, EndpointConfig, Listener, Route, Tcp, VirtualHost

API = "clusters: [{name: api, endpoints: ['127.0.0.1:9000']}]\n"


def _write(path: Path, text: str, mode: int = 0o644) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def _messages(examined: Examined) -> list[str]:
    return [problem.message for problem in examined.problems]


def test_the_smallest_config_and_every_default() -> None:
    config = load_text(f"listeners: [{{name: web, address: ':8080', cluster: api}}]\n{API}", "a.yaml")
    route = Route(prefix="/", cluster="api")
    assert config == Config(
        listeners=(Listener("web", (Address("tcp", "", 8080),), virtual_hosts=(VirtualHost("*", ("*",), (route,)),)),),
        clusters=(Cluster("api", (EndpointConfig(Address("tcp", "127.0.0.1", 9000)),)),),
    )
    assert (config.workers, config.admin, config.drain_timeout_s) == (0, None, 30.0)
    assert (route.timeout_s, route.idle_timeout_s, route.upgrades) == (15.0, 300.0, frozenset({"websocket"}))
    web, api = config.listeners[0], config.clusters[0]
    assert (web.request_headers_timeout_s, web.keepalive_timeout_s, web.max_connections, web.backlog) == (
        10,
        3600,
        0,
        4096,
    )
    assert (api.type, api.lb_policy, api.connect_timeout_s, api.idle_timeout_s) == ("static", "round_robin", 1.0, 60.0)


def test_everything_that_can_be_set() -> None:
    text = """
workers: 4
drain_timeout: 0s
admin: {address: "127.0.0.1:9901"}
listeners:
  - name: web
    address: ["127.0.0.1:80", {path: /tmp/web.sock, mode: 0600, owner: root, group: 0}]
    access_log: {path: /dev/stdout, format: json}
    request_headers_timeout: 1s
    keepalive_timeout: 2s
    max_connections: 10
    backlog: 20
    routes:
      - name: first
        match: {path: /a, methods: [GET, PURGE], headers: {X-A: "1"}}
        cluster: api
        prefix_rewrite: /b
        host_rewrite: Example.org:8080
        timeout: 0s
        idle_timeout: 3s
        upgrades: [WebSocket, foo/2]
      - match: {prefix: /b}
        redirect: {scheme: https, host: a.org, port: 8443, prefix_rewrite: /c, strip_query: true, status: 308}
      - match: {prefix: /c}
        direct_response: {status: 503, body: gone}
  - name: db
    address: "[::1]:5432"
    tcp: {cluster: api, idle_timeout: 4s, max_connect_attempts: 5}
clusters:
  - name: api
    type: static
    endpoints: ["unix:/tmp/a.sock", {address: "[::1]:1", weight: 3}]
    lb_policy: random
    connect_timeout: 5s
    idle_timeout: 6s
"""
    config = load_text(text, "/etc/a.yaml")
    assert (config.workers, config.drain_timeout_s, str(config.admin and config.admin.address)) == (
        4,
        0.0,
        "127.0.0.1:9901",
    )
    web, db = config.listeners
    assert web.addresses[1] == Address("unix", path="/tmp/web.sock", mode=0o600, owner="root", group="0")
    assert web.access_log == AccessLog("/dev/stdout", "json")
    assert (web.request_headers_timeout_s, web.keepalive_timeout_s, web.max_connections, web.backlog) == (1, 2, 10, 20)
    first, second, third = web.virtual_hosts[0].routes
    assert first == Route(
        name="first",
        path="/a",
        methods=frozenset({"GET", "PURGE"}),
        headers=(("x-a", "1"),),
        cluster="api",
        prefix_rewrite="/b",
        host_rewrite="example.org:8080",
        timeout_s=0.0,
        idle_timeout_s=3.0,
        upgrades=frozenset({"websocket", "foo/2"}),
    )
    assert second.redirect is not None
    assert (second.redirect.port, second.redirect.status, second.redirect.strip_query) == (8443, 308, True)
    assert third.direct_response is not None
    assert (third.direct_response.status, third.direct_response.body) == (503, "gone")
    assert db.tcp == Tcp("api", 4.0, 5)
    assert db.virtual_hosts == ()
    assert [(str(e.address), e.weight) for e in config.clusters[0].endpoints] == [
        ("unix:/tmp/a.sock", 1),
        ("[::1]:1", 3),
    ]
    assert hash(config) == hash(load_text(text, "/etc/a.yaml"))


def test_the_nearest_scope_wins() -> None:
    text = f"""
listeners:
  - name: web
    address: ":80"
    timeout: 1s
    idle_timeout: 2s
    virtual_hosts:
      - domains: [a.org]
        timeout: 3s
        routes:
          - {{match: {{path: /a}}, cluster: api, timeout: 4s}}
          - {{match: {{path: /b}}, cluster: api}}
      - {{domains: ["*"], cluster: api, idle_timeout: 5s}}
{API}"""
    a, b = load_text(text, "a.yaml").listeners[0].virtual_hosts
    times = [(route.timeout_s, route.idle_timeout_s) for host in (a, b) for route in host.routes]
    assert times == [(4.0, 2.0), (3.0, 2.0), (1.0, 5.0)]
    assert (a.name, b.name) == ("a.org", "*")


def test_includes_merge_in_lexical_order(tmp_path: Path) -> None:
    main = _write(tmp_path / "main.yaml", "include: [l.d/*.yaml, 'c.d/*.yaml', c.d/1.yaml]\n")
    for name in ("b", "a"):
        _write(tmp_path / "l.d" / f"{name}.yaml", f"listeners: [{{name: {name}, address: ':0', cluster: '1'}}]\n")
    _write(tmp_path / "l.d" / ".hidden.yaml", "nonsense: 1\n")
    _write(tmp_path / "c.d" / "1.yaml", "x-a: 1\nclusters: [{name: '1', endpoints: ['1.1.1.1:1']}]\n")
    config = load(main)
    assert [listener.name for listener in config.listeners] == ["a", "b"]
    assert [cluster.name for cluster in config.clusters] == ["1"]


def test_a_name_twice_names_both_places(tmp_path: Path) -> None:
    main = _write(tmp_path / "main.yaml", "include: ['?.yaml']\n")
    for name in ("a", "b"):
        _write(tmp_path / f"{name}.yaml", API)
    (problem,) = [p for p in examine(main).problems if p.severity == "error"]
    assert problem.message == "the cluster 'api' is defined twice"
    assert (problem.file, problem.line, problem.column) == (str(tmp_path / "b.yaml"), 1, 19)
    assert problem.hint == f"first at {tmp_path / 'a.yaml'}:1:19"


def test_what_included_files_may_not_do(tmp_path: Path) -> None:
    main = _write(tmp_path / "main.yaml", "include: [a.yaml, missing.yaml, 'none*.yaml', nodir/*.yaml]\n")
    _write(
        tmp_path / "a.yaml", "include: [b.yaml]\nworkers: 3\nlisteners: [{name: w, address: ':1', cluster: there}]\n"
    )
    examined = examine(main)
    assert _messages(examined) == [
        f"cannot read {tmp_path}/missing.yaml: no such file or directory",
        f"the directory '{tmp_path}/nodir' does not exist, so nothing is included",
        "unknown field 'include' in an included file",
        "unknown field 'workers' in an included file",
    ]  # and not that the cluster 'there' is unknown: the missing file may define it
    assert [p.column for p in examined.problems] == [19, 47, 1, 1]
    assert len(examined.warnings) == 1


def test_a_config_that_includes_itself_is_read_once(tmp_path: Path) -> None:
    main = _write(
        tmp_path / "main.yaml", f"include: ['*.yaml']\nlisteners: [{{name: a, address: ':1', cluster: api}}]\n{API}"
    )
    assert len(load(main).clusters) == 1


def test_environment_files_win_over_the_environment_and_are_read_again(tmp_path: Path) -> None:
    main = _write(tmp_path / "main.yaml", "env_files: [a.env, b.env]\nworkers: ${N}\nlisteners: []\n")
    _write(tmp_path / "a.env", "N=2\nM=1\n")
    env = _write(tmp_path / "b.env", "N=3\n")
    assert load(main, environ={"N": "9"}).workers == 3
    _write(Path(env), "N=4\n")
    assert load(main, environ={"N": "9"}).workers == 4
    _write(Path(env), "N=4\nnonsense\n")
    (problem,) = [p for p in examine(main, environ={}).problems if p.severity == "error"]
    assert (problem.file, problem.line, problem.column) == (env, 2, 1)
    os.unlink(env)
    (problem,) = [p for p in examine(main, environ={}).problems if p.severity == "error"]
    assert (problem.file, problem.line, problem.column) == (main, 1, 20)


def test_a_variable_adds_no_structure() -> None:
    text = "workers: ${N}\nlisteners: []\n"
    examined = examine_text(text, "a.yaml", environ={"N": "1\nadmin: {address: ':1'}"})
    assert examined.config is None
    assert load_text("workers: '${N:-3}'\nlisteners: []\n", "a.yaml", environ={}).workers == 3


def test_an_unset_variable_in_an_ignored_section_is_nobodys_business() -> None:
    assert load_text("x-a: ${NOPE}\nworkers: 1\nlisteners: []\n", "a.yaml", environ={}).workers == 1


@pytest.mark.parametrize(("mode", "who"), [(0o666, "everybody"), (0o646, "everybody"), (0o664, "its group")])
def test_a_file_that_others_may_write_is_refused(tmp_path: Path, mode: int, who: str) -> None:
    if os.getuid() != 0 and mode == 0o664:
        pytest.skip("the group may be this user's private one, which is allowed")
    bad = _write(tmp_path / "bad.yaml", API, mode)
    (problem,) = examine(bad).problems
    assert problem.message == f"{bad} may be written by {who} (mode {mode:04o})"
    assert problem.hint.endswith(f"chmod go-w {bad}")
    for main_text in ("include: [bad.yaml]\n", "env_files: [bad.yaml]\n"):
        main = _write(tmp_path / "main.yaml", main_text)
        errors = [p for p in examine(main).problems if p.severity == "error"]
        assert [(p.file, p.line) for p in errors] == [(main, 1)]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert _messages(examine(str(tmp_path))) == [f"cannot read {tmp_path}: is a directory"]
    missing = str(tmp_path / "missing.yaml")
    examined = examine(missing)
    assert _messages(examined) == [f"cannot read {missing}: no such file or directory"]
    assert (examined.problems[0].line, examined.problems[0].file) == (0, missing)
    loop = tmp_path / "loop.yaml"
    loop.symlink_to(loop)
    assert len(examine(str(loop)).problems) == 1
    with pytest.raises(ConfigErrors):
        load(missing)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"workers: 1\nx-\xc3\xa4: \xff\n")
    path.chmod(0o600)
    (problem,) = examine(str(path)).problems
    assert (problem.message, problem.line, problem.column) == ("byte 0xff is not UTF-8", 2, 6)
    path.write_bytes("workers: 1\n".encode("utf-16"))
    assert len(examine(str(path)).problems) == 1
    path.write_bytes(b"a" * (8 * 1024 * 1024 + 1))
    assert _messages(examine(str(path))) == [f"{path} is larger than 8 MiB"]


def test_pipes_and_standard_input(tmp_path: Path) -> None:
    program = "import sys; from hotproxy.config import load; print(load('-').workers, load.__module__)"
    done = subprocess.run(
        [sys.executable, "-c", program], input="workers: 7\nlisteners: []\n", capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[0] == "7"
    read, write = os.pipe()
    os.write(write, b"workers: 5\nlisteners: []\n")
    os.close(write)
    assert load(f"/dev/fd/{read}").workers == 5
    os.close(read)


def test_relative_paths_belong_to_their_file(tmp_path: Path) -> None:
    main = _write(tmp_path / "main.yaml", "include: [sub/a.yaml]\n")
    text = f"listeners: [{{name: a, address: 'unix:a.sock', access_log: {{path: a.log}}, cluster: api}}]\n{API}"
    _write(tmp_path / "sub" / "a.yaml", text)
    listener = load(main).listeners[0]
    assert listener.addresses[0].path == str(tmp_path / "sub" / "a.sock")
    assert listener.access_log == AccessLog(str(tmp_path / "sub" / "a.log"))


def test_this_machine_is_looked_at_unless_offline() -> None:
    text = (
        "listeners: [{name: a, address: [{path: /no/such/a.sock, owner: no-such-user, group: no-such-group}],"
        f" access_log: {{path: /no/such/log}}, cluster: api}}]\n{API}"
    )
    assert sorted(_messages(examine_text(text, "a.yaml"))) == [
        "no group 'no-such-group' on this machine",
        "no user 'no-such-user' on this machine",
        "the directory '/no/such' does not exist",
        "the directory '/no/such' does not exist",
    ]
    assert examine_text(text, "a.yaml", offline=True).problems == ()
    text = f"listeners: [{{name: a, address: ':1', access_log: {{path: /tmp}}, cluster: api}}]\n{API}"
    assert _messages(examine_text(text, "a.yaml")) == ["'/tmp' is a directory"]


def test_problems_are_in_the_order_of_the_files_and_of_the_lines(tmp_path: Path) -> None:
    main = _write(tmp_path / "z.yaml", "b: 1\ninclude: [a.yaml]\na: 1\n")
    _write(tmp_path / "a.yaml", "c: 1\nclusters: [*x.y]\n")
    places = [(Path(p.file).name, p.line) for p in examine(main).problems]
    assert places == [("z.yaml", 1), ("z.yaml", 3), ("a.yaml", 1), ("a.yaml", 2)]


def test_names_of_included_files_are_relative_when_the_main_files_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(tmp_path / "main.yaml", "include: [d/*.yaml]\n")
    _write(tmp_path / "d" / "a.yaml", "c: 1\n")
    monkeypatch.chdir(tmp_path)
    assert "d/a.yaml:1:1" in render_text(examine("main.yaml").problems)


def test_a_thousand_routes_are_found_unreachable_in_linear_time() -> None:
    routes = "".join(f"      - {{match: {{prefix: /p{n}/}}, cluster: api}}\n" for n in range(1000))
    text = f"listeners:\n  - name: web\n    address: ':80'\n    routes:\n{routes}{API}"
    examined = examine_text(text, "a.yaml")
    assert examined.problems == ()
    assert examined.config is not None
    assert len(examined.config.listeners[0].virtual_hosts[0].routes) == 1000
