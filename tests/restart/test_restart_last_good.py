"""A machine starts at 4 a.m. with a config that somebody has half edited: it runs what served last."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from tests.kit import clients
from tests.kit.instance import Instance, eventually, instance
from tests.restart.test_restart_under_load import one_generation

REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
FALLBACK = "--fallback-last-good"


def config(body: str) -> str:
    return f"""
env_files: [settings.env]
include: [more.d/*.yaml]
listeners:
  - name: web
    address: 127.0.0.1:0
    routes:
      - match: {{prefix: /}}
        direct_response: {{status: 200, body: "{body} ${{TOKEN}}"}}
"""


def broken(body: str) -> str:
    return config(body).replace("direct_response", "direct_respons")


def answer(proxy: Instance) -> bytes:
    return clients.exchange(proxy.port("web"), REQUEST).partition(b"\r\n\r\n")[2]


def kept(proxy: Instance) -> Path:
    return proxy.directory / "state" / "test.last-good.yaml"


def until_changed(proxy: Instance, paths: list[str]) -> None:
    """The control process says so; nobody waits longer than a second for it, so that it may be None meanwhile."""
    eventually(lambda: proxy.status()["config_changed"] == paths, f"changed: {paths}")


def prepare(directory: Path) -> None:
    (directory / "more.d").mkdir()
    (directory / "settings.env").write_text("TOKEN=secret-1\n")


def stop(proxy: Instance) -> None:
    assert proxy.command("stop").returncode == 0
    assert proxy.wait() == 0


def test_a_start_with_a_broken_config_runs_what_served_last(short_path: Path) -> None:
    prepare(short_path)
    state = ["--state-dir", str(short_path / "state")]
    with instance(short_path, config("one"), *state) as proxy:
        eventually(lambda: "one secret-1" in kept(proxy).read_text(), "the first config to be kept")
        proxy.write(config("two"))
        proxy.reload()
        eventually(lambda: "two secret-1" in kept(proxy).read_text(), "the second one to be kept")
        assert kept(proxy).stat().st_mode & 0o777 == 0o600

        # What is refused is not kept, and the next start meets it.
        proxy.write(broken("three"))
        (short_path / "settings.env").write_text("TOKEN=secret-2\n")
        assert proxy.command("reload").returncode == 1
        until_changed(proxy, [str(proxy.config), str(short_path / "settings.env")])
        stop(proxy)
        assert "two secret-1" in kept(proxy).read_text()

        plain = proxy.command("run", "-c", str(proxy.config), *state)
        assert plain.returncode == 1 and "did you mean 'direct_response'?" in plain.stderr

        proxy.start(FALLBACK, *state)
        assert answer(proxy) == b"two secret-1"
        assert "direct_respons" in proxy.status()["config_fallback"]
        until_changed(proxy, [str(proxy.config)])
        assert "BROKEN, the last good config runs instead: error: " in proxy.command("status").stdout
        assert proxy.stats()["server.config_fallback"] == 1
        assert "error zygote 1: the config is broken, this generation runs the last good one" in proxy.log_text()

        # A reload takes no excuse, and a good one ends it.
        refused = proxy.command("reload")
        assert refused.returncode == 1 and "did you mean 'direct_response'?" in refused.stderr
        assert proxy.stats()["server.config_fallback"] == 1
        proxy.write(config("three"))
        proxy.reload()
        eventually(lambda: one_generation(proxy), "the last good one to be gone")
        assert answer(proxy) == b"three secret-2"
        assert proxy.status()["config_fallback"] == ""
        until_changed(proxy, [])
        assert proxy.stats()["server.config_fallback"] == 0
        eventually(lambda: "three secret-2" in kept(proxy).read_text(), "what serves now to be kept")


def test_a_valid_config_that_can_not_serve_is_not_kept(short_path: Path) -> None:
    """Its port is taken, which is known when all else is well."""
    prepare(short_path)
    with (
        instance(short_path, config("one"), "--state-dir", str(short_path / "state")) as proxy,
        socket.create_server(("127.0.0.1", 0)) as taken,
    ):
        eventually(lambda: kept(proxy).exists(), "the config to be kept")
        before = kept(proxy).read_bytes()
        proxy.write(config("two").replace("127.0.0.1:0", f"127.0.0.1:{taken.getsockname()[1]}"))
        refused = proxy.command("reload")
        assert refused.returncode == 1 and "address in use" in refused.stderr
        eventually(lambda: one_generation(proxy), "the refused one to be gone")
        assert kept(proxy).read_bytes() == before
        assert [each.name for each in kept(proxy).parent.iterdir()] == [kept(proxy).name]


def test_with_nothing_kept_a_broken_config_does_not_start(short_path: Path) -> None:
    prepare(short_path)
    with instance(short_path, broken("one"), start=False) as proxy:
        answer = proxy.command("run", "-c", str(proxy.config), FALLBACK)
        assert answer.returncode == 1
        assert "did you mean 'direct_response'?" in answer.stderr
        assert "there is no last good config to fall back on: cannot read" in answer.stderr


def test_a_kept_config_that_others_may_write_is_not_run(short_path: Path) -> None:
    prepare(short_path)
    state = ["--state-dir", str(short_path / "state")]
    with instance(short_path, config("one"), *state) as proxy:
        eventually(lambda: kept(proxy).exists(), "the config to be kept")
        stop(proxy)
        os.chmod(kept(proxy), 0o666)
        proxy.write(broken("two"))
        answer = proxy.command("run", "-c", str(proxy.config), FALLBACK, *state)
        assert answer.returncode == 1 and "may be written by everybody" in answer.stderr


def test_a_control_process_that_is_killed_is_told_again_to_keep_it(short_path: Path) -> None:
    """It may have died of the very write, or before it."""
    prepare(short_path)
    with instance(short_path, config("one"), "--state-dir", str(short_path / "state")) as proxy:
        eventually(lambda: kept(proxy).exists(), "the config to be kept")
        before = proxy.status()["generations"][0]["control"]["pid"]
        kept(proxy).unlink()
        os.kill(before, 9)
        eventually(lambda: kept(proxy).exists(), "it to be kept by another control process")
