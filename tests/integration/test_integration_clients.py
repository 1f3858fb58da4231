"""Real clients and real origins: what people will point at the proxy on the first day."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import httpx
import pytest
import requests

from tests.kit import clients, origin
from tests.kit.instance import Instance, eventually, instance

CONFIG = """
workers: 2
listeners:
  - name: web
    address: 127.0.0.1:0
    access_log: {{path: {directory}/access.log}}
    routes:
      - match: {{path: /old}}
        redirect: {{path: /new, status: 301}}
      - match: {{path: /hello}}
        direct_response: {{status: 200, body: "hello from the proxy\\n"}}
      - match: {{prefix: /python/}}
        cluster: python
        prefix_rewrite: /
      - match: {{prefix: /}}
        cluster: nginx
clusters:
  - name: nginx
    endpoints: ["{nginx}"]
  - name: python
    endpoints: ["{python}"]
"""
FILE_BYTES = 3_000_000


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Instance, str]]:
    """A proxy before an nginx and a Python origin; its URL."""
    import shutil
    import tempfile

    directory = Path(tempfile.mkdtemp(prefix="hp-"))
    nginx_directory = directory / "nginx"
    nginx_directory.mkdir()
    python_address = f"unix:{directory}/python.sock"
    respond = None
    try:
        with origin.nginx(nginx_directory) as nginx:
            (nginx_directory / "files" / "large").write_bytes(os.urandom(FILE_BYTES))
            text = CONFIG.format(directory=directory, nginx=nginx, python=python_address)
            with instance(directory, text) as proxy:
                respond = subprocess.Popen(
                    [*proxy.hotproxy, "respond", "--listen", python_address], stdout=subprocess.PIPE
                )
                assert respond.stdout is not None
                assert respond.stdout.readline().startswith(b"responding")
                yield proxy, f"http://127.0.0.1:{proxy.port('web')}"
    finally:
        if respond is not None:
            respond.kill()
            respond.communicate()
        shutil.rmtree(directory)


def large_digest(proxy: Instance) -> str:
    return hashlib.sha256((proxy.directory / "nginx" / "files" / "large").read_bytes()).hexdigest()


def test_curl(served: tuple[Instance, str]) -> None:
    proxy, url = served
    curl = origin.need("curl")
    answer = subprocess.run(
        [curl, "-sS", "-i", "-H", "X-Number: 7", f"{url}/", f"{url}/hello", f"{url}/old"],
        capture_output=True,
    )
    assert answer.returncode == 0, answer.stderr
    assert re.findall(rb"^HTTP/1.1 (\d+)", answer.stdout, re.M) == [b"200", b"200", b"301"]
    assert b"\r\n\r\n7\n" in answer.stdout
    assert b"hello from the proxy\n" in answer.stdout
    assert f"location: {url}/new\r\n".encode() in answer.stdout
    download = subprocess.run([curl, "-sS", f"{url}/files/large"], capture_output=True)
    assert hashlib.sha256(download.stdout).hexdigest() == large_digest(proxy)
    upload = subprocess.run(
        [curl, "-sS", "-o", "/dev/null", "-w", "%{http_code}", "-T", "-", f"{url}/python/x"],
        input=os.urandom(500_000),
        capture_output=True,
    )
    assert upload.stdout == b"200", upload


def test_requests(served: tuple[Instance, str]) -> None:
    proxy, url = served
    with requests.Session() as session:
        for number in range(20):
            assert session.get(f"{url}/", headers={"X-Number": str(number)}).text == f"{number}\n"
        assert hashlib.sha256(session.get(f"{url}/files/large").content).hexdigest() == large_digest(proxy)
        assert session.post(f"{url}/python/a/b", data=iter([b"a" * 1000] * 100)).json()["path"] == "/a/b"
        assert session.head(f"{url}/files/large").headers["Content-Length"] == str(FILE_BYTES)


def test_httpx(served: tuple[Instance, str]) -> None:
    _, url = served
    with httpx.Client(base_url=url) as client:
        assert client.get("/hello").text == "hello from the proxy\n"
        assert client.get("/old").status_code == 301
        assert client.get("/python/q?a=1&b=2").json()["query"] == {"a": "1", "b": "2"}


def test_aiohttp(served: tuple[Instance, str]) -> None:
    _, url = served

    async def many() -> list[str]:
        async with aiohttp.ClientSession() as session:

            async def one(number: int) -> str:
                async with session.get(f"{url}/", headers={"X-Number": str(number)}) as response:
                    return await response.text()

            return await asyncio.gather(*(one(number) for number in range(200)))

    assert asyncio.run(many()) == [f"{number}\n" for number in range(200)]


def test_node_fetch(served: tuple[Instance, str]) -> None:
    _, url = served
    node = origin.need("node")
    program = f"""
      const answers = await Promise.all([...Array(50).keys()].map(
        async n => (await fetch("{url}/", {{headers: {{"x-number": String(n)}}}})).text()));
      const posted = await fetch("{url}/python/p", {{method: "POST", body: "x".repeat(100000)}});
      console.log(JSON.stringify([answers, (await posted.json()).method]));
    """
    answer = subprocess.run([node, "--input-type=module", "-e", program], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout) == [[f"{number}\n" for number in range(50)], "POST"]


def test_wrk(served: tuple[Instance, str]) -> None:
    proxy, url = served
    wrk = origin.need("wrk")
    before = proxy.stats()
    answer = subprocess.run([wrk, "-t1", "-c20", "-d1s", f"{url}/"], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert "Socket errors" not in answer.stdout and "Non-2xx" not in answer.stdout, answer.stdout
    after = proxy.stats()
    done = int(re.findall(r"(\d+) requests in", answer.stdout)[0])
    counted = after["http.web.downstream_rq_2xx"] - before["http.web.downstream_rq_2xx"]
    assert done <= counted <= done + 20, "wrk drops what is under way at its end"


def test_the_access_log_has_a_line_for_each_request(served: tuple[Instance, str]) -> None:
    proxy, url = served
    path = f"/hello?{os.urandom(4).hex()}"
    requests.get(url + path, headers={"User-Agent": 'evil"\xe9 agent'})
    log = proxy.directory / "access.log"

    eventually(lambda: path in log.read_text(), "the line")
    line = next(line for line in log.read_text().splitlines() if path in line)
    time_and_request = rf'\[\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{{3}}Z\] "GET {re.escape(path)} HTTP/1.1"'
    assert re.match(time_and_request + r' 200 - 0 21 \d+ - "127.0.0.1" "evil', line), line
    assert line.count('"') == 12, "the client's own quote is escaped"


def test_the_same_number_in_stats_as_json_text_and_prometheus(served: tuple[Instance, str]) -> None:
    proxy, url = served
    clients.exchange(int(url.rpartition(":")[2]), b"GET /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    from prometheus_client.parser import text_string_to_metric_families

    value = proxy.stats()["http.web.rq_direct_response"]
    text = proxy.command("stats", "rq_direct_response").stdout
    assert f"http.web.rq_direct_response: {value}\n" in text
    families = {
        sample.name: sample.value
        for family in text_string_to_metric_families(proxy.command("stats", "--prometheus").stdout)
        for sample in family.samples
        if sample.labels.get("envoy_http_conn_manager_prefix") == "web"
    }
    assert value in families.values()
