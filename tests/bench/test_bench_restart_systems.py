"""Proxies under trial: configs that are filled in, descriptions of one's own, and who is gone when."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from bench.restart.systems import own
from bench.restart.systems.system import Place, Refused, alive
from bench.restart.watch import Departure
from bench.startup import free_port
from tests.kit.instance import eventually

# A proxy that serves nothing: it listens on both ports, and at HUP replaces its child.
STAND_IN = """
import os, signal, socket, sys, time
sockets = [socket.create_server(("127.0.0.1", int(port))) for port in sys.argv[1:]]
def fork():
    child = os.fork()
    if not child:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        while True:
            time.sleep(60)
    return child
child = fork()
def replace(*_):
    global child
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    child = fork()
def end(*_):
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os._exit(0)
signal.signal(signal.SIGHUP, replace)
signal.signal(signal.SIGTERM, end)
while True:
    signal.pause()
"""

MINIMAL = 'name = "mine"\nstart = ["mine"]\nsignal = "HUP"\n'


def place(directory: Path) -> Place:
    cpu = min(os.sched_getaffinity(0))
    return Place(directory, cpu, 2, free_port(), free_port(), free_port(), "127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3")


def test_a_config_is_filled_in_whatever_braces_and_dollars_it_has(tmp_path: Path) -> None:
    where = place(tmp_path)
    text = where.fill("log { $host ${x} } listen @http_port@; to @origin_http@ @more@ @unknown@", more="else")
    assert text == f"log {{ $host ${{x}} }} listen {where.http_port}; to 127.0.0.1:1 else @unknown@"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (MINIMAL + 'contfig = ""', "nobody knows contfig"),
        ('start = ["mine"]\nsignal = "HUP"', "name must be there"),
        ('name = "mine"\nstart = ["mine"]', "one of restart"),
        (MINIMAL + 'restart = ["mine", "reload"]', "one of restart"),
        (MINIMAL.replace("HUP", "HANGUP"), "there is no signal HANGUP"),
        ("name = ", "Invalid value"),
    ],
)
def test_a_description_that_is_wrong_is_refused_with_the_reason(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(own.BadDescription, match=complaint):
        own.read(path)


def test_the_example_is_a_description() -> None:
    caddy = own.read(Path(own.__file__).parent.parent / "caddy.toml")
    assert (caddy.title, caddy.has_tcp) == ("Caddy, caddy reload", False)


def described(directory: Path, more: str) -> own.Own:
    path = directory / "mine.toml"
    start = [sys.executable, "-c", STAND_IN, "@http_port@", "@tcp_port@"]
    path.write_text(f'name = "mine"\nstart = {json.dumps(start)}\n{more}')
    return own.read(path)


def test_a_proxy_of_ones_own_is_started_restarted_asked_and_ended(tmp_path: Path) -> None:
    system = described(tmp_path, 'signal = "HUP"\ncount = ["echo", "@workers@"]\nfile = "c"\nconfig = "@tcp_port@"')
    with system.running(place(tmp_path / "proxy")):
        assert (tmp_path / "proxy" / "c").read_text() == str(system.place.tcp_port)
        main = system.trees[0].process.pid
        eventually(lambda: len(system.processes()) == 2, "the child")
        (child,) = (process for process in system.processes() if process.pid != main)
        leaving = system.restart()
        assert leaving == [child]
        eventually(lambda: child not in system.processes(), "the child to be replaced")
        eventually(lambda: len(system.processes()) == 2, "the new child")
        assert system.counted() == 2
    assert system.processes() == []


def test_whoever_leaves_because_of_one_restart_is_not_waited_for_in_the_next(tmp_path: Path) -> None:
    system = described(tmp_path, 'restart = ["true"]')
    with system.running(place(tmp_path / "proxy")):
        eventually(lambda: len(system.processes()) == 2, "the child")
        assert len(system.restart()) == 1
        assert system.restart() == []


def test_a_restart_that_fails_is_refused_with_its_own_words(tmp_path: Path) -> None:
    system = described(tmp_path, 'restart = ["sh", "-c", "echo no such config >&2; exit 3"]')
    with system.running(place(tmp_path / "proxy")):
        with pytest.raises(Refused, match="exit code 3: no such config"):
            system.restart()


def test_a_zombie_is_gone() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    try:
        known = psutil.Process(process.pid)
        assert alive(known)
        process.send_signal(signal.SIGKILL)
        eventually(lambda: known.status() == psutil.STATUS_ZOMBIE, "its death")
        assert not alive(known)
    finally:
        process.kill()
        process.wait()


def test_the_old_processes_are_gone_with_the_last_of_them() -> None:
    this, parent = psutil.Process(), psutil.Process().parent()
    assert parent is not None
    departure = Departure(10.0, {this, parent})
    departure.look(10.5, {this, parent})
    departure.look(11.0, {this})
    assert departure.gone_s is None
    assert departure.within(60) == 60
    departure.look(12.0, set())
    departure.look(13.0, set())
    assert departure.gone_s == 2.0
    assert departure.within(60) == 2.0
    assert departure.within(1) == 1
