"""`hotproxy explain` from outside: the story, the JSON, exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hotproxy.cli.main import call

CONFIG = """
listeners:
  - name: web
    address: "127.0.0.1:80"
    virtual_hosts:
      - domains: [api.example.com]
        routes:
          - match: {prefix: /v1/, methods: [POST]}
            cluster: api
          - match: {prefix: /v1/, headers: {authorization: "Bearer hunter2"}}
            cluster: api
          - name: v1
            match: {prefix: /v1/}
            cluster: api
            prefix_rewrite: /
            host_rewrite: api.internal
            timeout: 7s
          - {match: {path: /old}, redirect: {path: /new, status: 302}}
          - {match: {path: /hi}, direct_response: {status: 201, body: "hi"}}
      - {domains: ["*.shop.example.com"], cluster: api}
  - name: db
    address: "127.0.0.1:5432"
    tcp: {cluster: api}
  - name: shared
    address: "127.0.0.1:5433"
    proxy_protocol: {trusted: ["0.0.0.0/0"]}
    tcp:
      routes: [{sni: [db.example.com], cluster: api}]
      weighted_clusters: {announced: 1}
  - name: other
    address: "127.0.0.1:81"
    virtual_hosts: [{domains: [other.example.com], cluster: api}]
clusters:
  - {name: api, endpoints: ["127.0.0.1:9001", {address: "127.0.0.1:9002", weight: 3}], connect_timeout: 2s}
  - {name: announced, endpoints: ["127.0.0.1:9003"], proxy_protocol: v1}
"""


@pytest.fixture
def config(tmp_path: Path) -> str:
    file = tmp_path / "web.yaml"
    file.write_text(CONFIG)
    file.chmod(0o600)
    return str(file)


@pytest.fixture
def explain(config: str, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*arguments: str) -> tuple[int, str]:
        code = call(["explain", *arguments, "-c", config])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return run


def test_a_request_that_is_forwarded_as_a_story(explain: Any, config: str) -> None:
    code, story = explain("GET", "http://api.example.com/v1/%41/../b?q=1", "-H", "X-Envoy-A: 1", "-H", "accept: */*")
    assert code == 0
    assert (
        story.splitlines()
        == f"""\
GET /v1/%41/../b?q=1 for api.example.com
  config        {config}
  listener      web (127.0.0.1:80): it listens on port 80
  virtual host  api.example.com, for api.example.com
  path          /v1/%41/../b is compared as /v1/b
  routes[0]     prefix /v1/, method POST: no, the method is GET
  routes[1]     prefix /v1/, header authorization: ***: no, there is no 'authorization'
  routes[2]     'v1', prefix /v1/: matches
  cluster       api, round_robin
  endpoint      127.0.0.1:9001  25%, weight 1
  endpoint      127.0.0.1:9002  75%, weight 3
  forwarded     GET /b?q=1 HTTP/1.1
                ~ host: api.internal    (was api.example.com)
                  accept: */*
                + x-forwarded-for: 127.0.0.1
                + x-forwarded-proto: http
                + x-request-id: (a new UUID for each request)
                + via: 1.1 hotproxy
                - x-envoy-a
  timeouts      connect 2s, response 7s, nothing moves 5m
                request head 10s, between requests 1h, unused connection to an endpoint 1m
  retries       no connection: 2 attempts, then 503 UF
                a kept connection ends before it answers: sent once more
""".splitlines()
    )


def test_a_post_is_not_sent_twice(explain: Any) -> None:
    _, story = explain("POST", "http://api.example.com/v1/")
    assert "routes[0]     prefix /v1/, method POST: matches" in story
    assert "sent once more if none of it left" in story


def test_redirects_and_answers(explain: Any) -> None:
    code, story = explain("GET", "http://api.example.com/old?q")
    assert code == 0 and "redirect      302\n                location: http://api.example.com/new?q\n" in story
    code, story = explain("GET", "http://api.example.com/hi")
    assert code == 0 and "answer        201\n                hi\n" in story


def test_no_route(explain: Any) -> None:
    code, story = explain("GET", "http://api.example.com/nothing")
    assert code == 1
    assert "routes[3]     path /old: no, the path is /nothing" in story
    assert "none of the 5 routes of 'api.example.com' matches" in story
    assert "refused       404 NR (route_not_found)" in story


def test_no_virtual_host_says_which_there_are(explain: Any) -> None:
    code, story = explain("GET", "http://api.exmaple.com/")
    assert code == 1
    assert "none has the domain 'api.exmaple.com'" in story
    assert "did you mean 'api.example.com'? this listener has api.example.com, *.shop.example.com" in story
    _, story = explain("GET", "http://other.example.com/")
    assert "listener other has that domain" in story


def test_what_is_refused_before_the_routes(explain: Any) -> None:
    code, story = explain("GET", "http://api.example.com/../x")
    assert code == 1 and "refused       400 DPE (path_normalization_failed)" in story and "route" not in story[1:]


@pytest.mark.parametrize("method", ["OPTIONS", "TRACE"])
def test_the_last_hop_of_max_forwards_answers_and_refuses_nothing(explain: Any, method: str) -> None:
    """It said "refused 200", and exited 1."""
    code, story = explain(method, "http://api.example.com/v1/", "-H", "Max-Forwards: 0")
    assert code == 0 and story.endswith("  answer        200 (max_forwards_reached)\n")
    code, text = explain(method, "http://api.example.com/v1/", "-H", "Max-Forwards: 0", "--json")
    assert code == 0 and json.loads(text)["outcome"] == "last_hop"
    code, story = explain(method, "http://api.example.com/v1/", "-H", "Max-Forwards: 1")
    assert code == 0 and "~ max-forwards: 0    (was 1)" in story
    code, story = explain(method, "http://api.example.com/v1/", "-H", "Max-Forwards: x")
    assert code == 1 and "refused       400 DPE (invalid_max_forwards)" in story


def test_what_is_refused_behind_a_route_that_would_redirect(explain: Any) -> None:
    code, story = explain("GET", "http://api.example.com/old", "-H", "via: " + "1.1 hotproxy, " * 16 + "1.1 x")
    assert code == 1 and "refused       508 (via_loop)" in story


def test_a_field_of_several_lines_is_one(explain: Any) -> None:
    _, story = explain("GET", "http://api.example.com/v1/", "-H", "a: 1", "-H", "A: 2", "-H", "expect: 100-continue")
    assert "                  a: 1, 2\n" in story and "routes[2]     'v1', prefix /v1/: matches" in story


def test_a_tcp_listener(explain: Any) -> None:
    code, story = explain("GET", "http://127.0.0.1:5432/")
    assert code == 0 and "a tcp listener" in story and "2 attempts, then closed UF URX" in story


def test_a_tcp_listener_with_routes_sends_what_is_no_tls_to_its_own_cluster(explain: Any) -> None:
    code, story = explain("GET", "http://127.0.0.1:5433/")
    assert code == 0 and "announced" in story and "127.0.0.1:9003" in story and "127.0.0.1:9001" not in story


def test_json(explain: Any) -> None:
    code, text = explain("GET", "http://api.example.com/v1/x", "-H", "Authorization: Bearer mine", "--json")
    facts = json.loads(text)
    assert code == 0 and "hunter2" not in text and "mine" not in text
    assert facts["outcome"] == "forward" and facts["route"]["number"] == 2
    passed = facts["passed_over"][1]
    assert [passed[key] for key in ("number", "name", "part", "header", "wanted", "given")] == [
        1, "", "header", "authorization", "***", "***"
    ]  # fmt: skip
    assert [each["share"] for each in facts["cluster"]["endpoints"]] == [0.25, 0.75]
    assert facts["forwarded"]["target"] == "/x" and facts["timeouts"]["response"] == "7s"
    assert facts["retries"] == {
        "connect_attempts": 2, "then": {"status": 503, "flags": ["UF"]}, "replay_when_kept_connection_dies": True
    }  # fmt: skip


def test_an_invalid_config_is_told_with_its_places(
    explain: Any, config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(config).write_text("listeners: [{nam: a}]\n")
    code, text = explain("GET", "http://a/")
    assert code == 1 and "web.yaml:1:14" in text and "is not valid" in text


def test_usage(explain: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert explain("GET", "/x") == (
        2,
        "hotproxy: the path '/x' alone needs a host: -H 'Host: …', or write http://host/x\n",
    )
    assert explain("GET", "http://a/", "--listener", "x")[0] == 2
    assert call(["--instance", "nobody", "--runtime-dir", str(tmp_path), "explain", "GET", "http://a/"]) == 3
    assert "-c FILE" in capsys.readouterr().err


TEXTS = st.text(st.characters(max_codepoint=0x17F), max_size=10)
HOSTS = st.sampled_from(["api.example.com", "a", "[::1]:80", "a:99999", "x@y", "[:80", "api.example.com:5432"])
NAMES = st.sampled_from(["host", "via", "content-length", "transfer-encoding", "connection", "upgrade", "expect", "x"])


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["GET", "POST", "CONNECT", "OPTIONS"]) | TEXTS,
    st.builds("http://{}{}".format, HOSTS, TEXTS) | TEXTS,
    st.lists(st.builds("{}: {}".format, NAMES, TEXTS) | TEXTS, max_size=3),
    st.booleans(),
)
def test_whatever_is_asked_there_is_an_answer(
    config: str, capsys: pytest.CaptureFixture[str], method: str, url: str, headers: list[str], as_json: bool
) -> None:
    options = [word for header in headers for word in ("-H", header)] + ["--json"] * as_json
    assert call(["explain", "-c", config, *options, "--", method, url]) in (0, 1, 2)
    capsys.readouterr()
