"""A private installation of hotproxy whose code a test may change, as an upgrade does: an interpreter of its own with a
copy of the package, and the dependencies of the environment that the tests run in."""

from __future__ import annotations

import shutil
import sys
import sysconfig
import venv
from pathlib import Path

import hotproxy


class Installation:
    """`python` runs it; `edit` changes a file of its package, and `restore` undoes all of that: a rollback."""

    def __init__(self, directory: Path) -> None:
        self._edited: set[str] = set()
        venv.create(directory, symlinks=True, with_pip=False)
        self.python = str(directory / "bin" / "python")
        self.base_python = str(Path(sys.executable).resolve())
        site = directory / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
        self.package = site / "hotproxy"
        shutil.copytree(Path(hotproxy.__file__).parent, self.package, ignore=shutil.ignore_patterns("__pycache__"))
        # After the private copy on the path, so that only the dependencies are found there.
        (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")

    def edit(self, file: str, old: str, new: str) -> None:
        """Replace one piece of text, atomically; it must be there exactly once."""
        path = self.package / file
        text = path.read_text()
        assert text.count(old) == 1, f"{file} has {old!r} {text.count(old)} times"
        part = path.with_suffix(".new")
        part.write_text(text.replace(old, new))
        part.replace(path)
        self._edited.add(file)

    def restore(self) -> None:
        while self._edited:
            file = self._edited.pop()
            part = (self.package / file).with_suffix(".new")
            shutil.copy2(Path(hotproxy.__file__).parent / file, part)  # its time too: Python compares it
            part.replace(self.package / file)
