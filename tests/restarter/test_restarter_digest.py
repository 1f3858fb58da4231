"""The digest of a supervisor's code covers what a supervisor imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import hotproxy
from hotproxy.restarter.digest import PARTS

PACKAGE = Path(hotproxy.__file__).resolve().parent


def test_it_covers_all_that_a_supervisor_imports() -> None:
    code = (
        "import sys, hotproxy.restarter.supervisor\n"
        "print(*(module.__file__ for name, module in sys.modules.items() if name.startswith('hotproxy.')), sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    covered = {path for part in PARTS for path in PACKAGE.glob(part)}
    imported = {Path(file).resolve() for file in done.stdout.split()}
    assert PACKAGE / "restarter" / "supervisor.py" in imported
    assert [path for path in imported - covered if path.suffix == ".py"] == []
