"""`explain`, `config` and `clusters` about a running instance: its file, its environment, its ports, its counters."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.instance import Instance, eventually
from tests.kit.instance import instance as running_instance

CONFIG = """
workers: 1
listeners:
  - name: web
    address: "127.0.0.1:0"
    routes:
      - match: {prefix: /, headers: {x-api-key: "${CHOSEN_API_KEY}"}}
        cluster: "${CHOSEN_CLUSTER}"
      - match: {prefix: /}
        direct_response: {status: 200, body: here}
clusters: [{name: api, endpoints: ["127.0.0.1:1"]}]
"""


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    directory = tmp_path_factory.mktemp("chosen")
    with running_instance(directory, CONFIG, start=False) as made:
        made.environment |= {"CHOSEN_API_KEY": "hunter2", "CHOSEN_CLUSTER": "api"}
        made.start()
        # Whoever asks has another environment than the proxy.
        del made.environment["CHOSEN_API_KEY"], made.environment["CHOSEN_CLUSTER"]
        yield made


@pytest.fixture(autouse=True)
def unchanged(proxy: Instance) -> Iterator[None]:
    yield
    proxy.write(CONFIG)


def test_explain_uses_the_file_and_the_environment_of_what_runs(proxy: Instance) -> None:
    url = f"http://127.0.0.1:{proxy.port('web')}/x"
    answer = proxy.command("explain", "GET", url, "--json", "-H", "X-Api-Key: hunter2")
    facts = json.loads(answer.stdout)
    assert (answer.returncode, facts["outcome"], facts["cluster"]["name"]) == (0, "forward", "api")
    assert facts["config"] == {"path": str(proxy.config), "note": ""}
    assert facts["listener"]["addresses"] == [url.removeprefix("http://").removesuffix("/x")]
    assert "hunter2" not in answer.stdout
    answer = proxy.command("explain", "GET", url)
    assert "routes[0]     prefix /, header x-api-key: ***: no, there is no 'x-api-key'" in answer.stdout


def test_a_file_that_was_changed_is_not_taken_for_what_runs(proxy: Instance) -> None:
    proxy.write(CONFIG + "# a comment changes nothing\n")
    assert proxy.command("config").stderr == ""
    proxy.write(CONFIG.replace("body: here", "body: there"))
    epoch = proxy.status()["epoch"]
    answer = proxy.command("config", "--effective")
    assert f"{proxy.config} differs from what generation {epoch} runs" in answer.stderr
    assert "body: there" in answer.stdout and "hunter2" not in answer.stdout
    url = f"http://127.0.0.1:{proxy.port('web')}/"
    assert "`hotproxy reload` brings it in" in proxy.command("explain", "GET", url).stdout


def test_without_the_control_process_it_says_so(proxy: Instance) -> None:
    socket = Path(proxy.directory / "run" / proxy.name / "admin.sock")
    hidden = socket.rename(socket.with_suffix(".hidden"))
    try:
        assert "could not be compared with what runs" in proxy.command("config").stderr
    finally:
        hidden.rename(socket)


def test_clusters_show_their_counters(proxy: Instance) -> None:
    request = urllib.request.Request(f"http://127.0.0.1:{proxy.port('web')}/", headers={"x-api-key": "hunter2"})
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(request, timeout=60)
    eventually(lambda: proxy.stats()["cluster.api.upstream_rq_5xx"] == 1, "counted")
    (api,) = json.loads(proxy.command("clusters", "--json").stdout)["clusters"]
    assert api["endpoints"] == [{"address": "127.0.0.1:1", "weight": 1}]
    assert api["stats"]["upstream_rq_5xx"] == 1 and api["stats"]["upstream_cx_connect_fail"] == 2
    proxy.write(CONFIG.replace("clusters: [", "clusters: [{name: new, endpoints: ['127.0.0.1:2']}, "))
    text = proxy.command("clusters").stdout
    assert "differs from what generation" in text
    assert "new: static, round_robin\n  endpoint 127.0.0.1:2, weight 1\n  not running\n" in text
    assert "requests: 0 under way, 0 in all: 0 2xx, 0 3xx, 0 4xx, 1 5xx; 1 retried, 0 timed out" in text
