"""Compiled code never hides a source that somebody changed; whatever is wrong with it, the sources run, and say why."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

import hotproxy
from hotproxy.data_path import FOLDER, LIBRARY, MANIFEST, MODULES
from tests.kit import clients
from tests.kit.installation import Installation
from tests.kit.instance import instance
from tests.kit.kernels import compiled_data_path

PACKAGE = Path(hotproxy.__file__).parent
ROUTER = "proxy/router.py"
LIBRARY_FILE = f"{FOLDER}/{LIBRARY}{EXTENSION_SUFFIXES[0]}"

# Why the data path is plain, and which kind of function ConnectionManager.start is.
ASK = (
    "from hotproxy import data_path\n"
    "from hotproxy.proxy.connection_manager import ConnectionManager\n"
    "print(data_path.why_plain(), type(ConnectionManager.start).__name__, sep='\\n')"
)
COMPILED = ["", "method_descriptor"]


def plain(why: str) -> list[str]:
    return [why, "function"]


def run(python: str, code: str, **environment: str) -> list[str]:
    """What it prints, of an interpreter that ignores PYTHON* and does not look into the folder that we are in."""
    inherited = {name: value for name, value in os.environ.items() if name != "HOTPROXY_KERNEL"}
    done = subprocess.run([python, "-I", "-c", code], env=inherited | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[Installation]:
    compiled_data_path()
    yield Installation(tmp_path / "venv")


def asked(installation: Installation, **environment: str) -> list[str]:
    return run(installation.python, ASK, **environment)


def change_manifest(installation: Installation, **changes: object) -> None:
    path = installation.package / FOLDER / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# -- which modules


def test_each_module_exists_and_has_a_last_name_of_its_own() -> None:
    last = [name.rpartition(".")[2] for name in MODULES]
    assert len(set(last)) == len(last)
    assert [name for name in MODULES if not (PACKAGE.parent / f"{name.replace('.', '/')}.py").is_file()] == []


@pytest.mark.parametrize("process", ["hotproxy.restarter.supervisor", "hotproxy.cli.main"])
def test_who_needs_no_data_path_does_not_pay_for_one(process: str) -> None:
    code = (
        f"import sys, {process}; from hotproxy.data_path import MODULES\n"
        "print(*sorted(MODULES.intersection(sys.modules)), *(name for name in sys.modules if name.endswith('__mypyc')))"
    )
    assert run(sys.executable, code) == [""]


# -- compiled, or why not


def test_what_was_built_is_used(installed: Installation) -> None:
    assert asked(installed) == COMPILED


def test_a_copy_of_the_package_uses_its_own(installed: Installation) -> None:
    code = "import hotproxy.proxy.router as router; print(router.__spec__.origin)"
    assert run(installed.python, code) == [str(installed.package / LIBRARY_FILE)]


def test_a_source_that_was_changed_is_what_runs(installed: Installation) -> None:
    installed.edit(ROUTER, "class Router:", "CHANGED = 1\n\n\nclass Router:")
    why = "hotproxy/proxy/router.py was changed since it was compiled; `pip install .` compiles it anew"
    assert asked(installed) == plain(why)
    assert run(installed.python, "from hotproxy.proxy.router import CHANGED; print(CHANGED)") == ["1"]
    installed.edit(ROUTER, "CHANGED = 1\n\n\n", "")
    assert asked(installed) == COMPILED


def test_so_is_one_whose_constants_were_compiled_into_others(installed: Installation) -> None:
    """mypyc writes the value of a Final into the code of each module that imports it."""
    with open(installed.package / "errors.py", "a") as file:
        file.write("# changed\n")
    why = "hotproxy/errors.py was changed since it was compiled; `pip install .` compiles it anew"
    assert asked(installed) == plain(why)


def test_several_are_counted(installed: Installation) -> None:
    for name in (ROUTER, "clock.py", "http/body.py"):
        with open(installed.package / name, "a") as file:
            file.write("# changed\n")
    assert asked(installed) == plain(
        "hotproxy/clock.py and 2 other files were changed since it was compiled; `pip install .` compiles it anew"
    )


def test_a_source_that_is_not_compiled_may_change(installed: Installation) -> None:
    with open(installed.package / "worker" / "main.py", "a") as file:
        file.write("# changed\n")
    assert asked(installed) == COMPILED


def test_a_source_that_is_gone(installed: Installation) -> None:
    (installed.package / "proxy" / "tunnel.py").unlink()
    code = "from hotproxy.data_path import why_plain; print(why_plain())"
    assert run(installed.python, code) == [
        "hotproxy/proxy/tunnel.py was changed since it was compiled; `pip install .` compiles it anew"
    ]


def test_it_was_not_built(installed: Installation) -> None:
    (installed.package / FOLDER / MANIFEST).unlink()
    assert asked(installed) == plain("it was not built")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"suffix": 1}'])
def test_a_broken_manifest(installed: Installation, text: str) -> None:
    (installed.package / FOLDER / MANIFEST).write_text(text)
    why, kind = asked(installed)
    assert why.startswith("hotproxy/_compiled/manifest.json is broken (") and kind == "function"


def test_it_was_compiled_for_another_python(installed: Installation) -> None:
    change_manifest(installed, suffix=".cpython-39-riscv64-linux-gnu.so")
    why, kind = asked(installed)
    assert why.startswith("it was compiled for .cpython-39-riscv64-linux-gnu.so, and this Python loads .cpython-")
    assert kind == "function"


def test_other_modules_are_listed_than_were_compiled(installed: Installation) -> None:
    change_manifest(installed, modules=["hotproxy.clock"])
    assert asked(installed) == plain(
        "other modules were compiled than hotproxy/data_path.py lists; `pip install .` compiles it anew"
    )


def test_a_library_that_does_not_belong_to_the_manifest(installed: Installation) -> None:
    change_manifest(installed, group="hotproxy_of_another_build__mypyc")
    why, kind = asked(installed)
    assert "PyInit_hotproxy_of_another_build__mypyc" in why and kind == "function"


def replace_library(installation: Installation, content: bytes) -> None:
    library = installation.package / LIBRARY_FILE
    part = library.with_suffix(".part")
    part.write_bytes(content)
    part.replace(library)


def test_half_a_library(installed: Installation) -> None:
    """An upgrade is under way, or a disk was full: loading it would be a SIGBUS."""
    library = installed.package / LIBRARY_FILE
    replace_library(installed, library.read_bytes()[:5000])
    assert asked(installed) == plain(f"{library} is incomplete; `pip install .` compiles it anew")


def test_a_broken_library(installed: Installation) -> None:
    replace_library(installed, bytes(len((installed.package / LIBRARY_FILE).read_bytes())))
    why, kind = asked(installed)
    assert LIBRARY in why and why.endswith("`pip install .` compiles it anew") and kind == "function"


def test_a_library_that_is_gone(installed: Installation) -> None:
    (installed.package / LIBRARY_FILE).unlink()
    why, kind = asked(installed)
    assert LIBRARY in why and kind == "function"


def test_it_can_be_switched_off(installed: Installation) -> None:
    assert asked(installed, HOTPROXY_KERNEL="pure") == plain("switched off by HOTPROXY_KERNEL=pure")


def test_it_is_too_late_once_a_module_runs_from_its_source(installed: Installation) -> None:
    """A mixture would have two classes of each name."""
    code = (
        "import sys, hotproxy; finder = sys.meta_path.pop(0); import hotproxy.clock; sys.meta_path.insert(0, finder)\n"
        "print(hotproxy.data_path.why_plain())"
    )
    assert run(installed.python, code) == ["hotproxy.clock was imported before"]


# -- who says so


def test_version_says_what_runs(installed: Installation) -> None:
    code = "from hotproxy.cli.version import print_version; print_version()"
    assert "data path: compiled" in run(installed.python, code)
    installed.edit(ROUTER, "class Router:", "class Router:  # changed")
    (line,) = [line for line in run(installed.python, code) if line.startswith("data path:")]
    assert line.startswith("data path: plain Python (hotproxy/proxy/router.py was changed since it was compiled; ")


def test_a_traceback_names_the_source() -> None:
    code = (
        "import traceback\nfrom hotproxy.clock import TimerWheel\n"
        "try:\n    TimerWheel(None).advance()\nexcept Exception:\n    print(traceback.format_exc())"
    )
    assert any("hotproxy/clock.py" in line for line in run(sys.executable, code))


CONFIG = """
listeners:
  - name: web
    address: 127.0.0.1:0
    routes:
      - match: {prefix: /}
        direct_response: {status: 200, body: hello}
"""
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


def test_a_generation_says_that_it_runs_from_source(installed: Installation, short_path: Path) -> None:
    notice = "data path: plain Python: hotproxy/proxy/router.py was changed since it was compiled; `pip install .`"
    with instance(short_path, CONFIG, python=installed.python) as proxy:
        assert "data path:" not in proxy.log_text()
        installed.edit(ROUTER, "class Router:", "class Router:  # changed")
        proxy.reload()
        assert proxy.log_text().count(notice) == 1
        assert clients.exchange(proxy.port("web"), REQUEST).startswith(b"HTTP/1.1 200")
