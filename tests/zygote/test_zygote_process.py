"""hotproxy's own generation under a real supervisor: what it must not do after it has begun to fork."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest

from hotproxy.cli import admin_line
from hotproxy.cli.place import Place
from tests.kit import audited_zygote
from tests.kit.plane import PATIENCE_S, Plane, Refused, plane

CONFIG = """
workers: 1
listeners:
  - name: a
    address: 127.0.0.1:0
    routes:
      - match: {prefix: /}
        direct_response: {status: 200, body: here}
"""


def get(it: Plane) -> bytes:
    with socket.create_connection(("127.0.0.1", it.port()), PATIENCE_S) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        answer = b""
        while more := sock.recv(65536):
            answer += more
        return answer


def test_nothing_is_imported_once_it_forks(tmp_path: Path) -> None:
    """An upgrade replaces the files: a worker that imports later gets code of another version, or none."""
    with plane(tmp_path, zygote=Path(audited_zygote.__file__)) as it:
        it.config.write_text(CONFIG)
        it.launch()
        it.until_serving()
        assert get(it).endswith(b"here")
        (pid,) = it.slots()
        os.kill(pid, signal.SIGKILL)
        assert get(it).endswith(b"here")
        assert it.ask("reload")["last_restart"]["ok"]
        assert get(it).endswith(b"here")
        it.eventually(it.last_good.exists)
        place = Place(it.instance_dir.name, it.runtime_dir)
        assert admin_line.get(place, "/config_changed", ["changed"])["changed"] == []
        it.signal(signal.SIGTERM)
        assert it.wait() == 0
        assert "late import" not in it.log


def test_no_process_of_a_generation_has_a_capability(tmp_path: Path) -> None:
    with plane(tmp_path, zygote=Path(audited_zygote.__file__)) as it:
        it.config.write_text(CONFIG)
        it.launch()
        it.until_serving()
        generation = it.serving()
        for pid in (generation["pid"], generation["control"]["pid"], *it.slots()):
            status = Path(f"/proc/{pid}/status").read_text()
            assert "CapEff:\t0000000000000000" in status and "CapPrm:\t0000000000000000" in status
            assert "NoNewPrivs:\t1" in status


def test_a_config_that_is_refused_says_where(tmp_path: Path) -> None:
    with plane(tmp_path, zygote=Path(audited_zygote.__file__)) as it:
        it.config.write_text("listeners: [{name: a, colour: green}]\n")
        it.launch()
        assert it.wait() == 1
        assert f"{it.config}:1:" in it.log


def test_who_is_forked_again_after_a_refused_reload_counts_in_its_own_cells(tmp_path: Path) -> None:
    """The list of statistics is read at the first fork and kept. A refused reload makes it longer meanwhile."""
    with plane(tmp_path, zygote=Path(audited_zygote.__file__)) as it, socket.create_server(("127.0.0.1", 0)) as taken:
        it.config.write_text(CONFIG)
        it.launch()
        it.until_serving()
        assert get(it).endswith(b"here")
        clash = f"  - {{name: more, address: '127.0.0.1:{taken.getsockname()[1]}', tcp: {{cluster: c}}}}\n"
        it.config.write_text(CONFIG + clash + "clusters: [{name: c, endpoints: ['127.0.0.1:1']}]\n")
        with pytest.raises(Refused, match="in use"):
            it.ask("reload")
        assert it.stats()["cluster.c.upstream_rq_200"] == 0
        (pid,) = it.slots()
        os.kill(pid, signal.SIGKILL)
        assert get(it).endswith(b"here")
        it.eventually(lambda: it.stats()["http.a.downstream_rq_completed"] == 2)
        assert it.stats()["http.a.rq_direct_response"] == 2
