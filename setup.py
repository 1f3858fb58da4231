"""What is compiled, and may be missing: without a compiler, Cython or mypyc the package is plain Python, and slower.

Everything else about the package is in pyproject.toml. `hotproxy version` says what is compiled, and why not.
HOTPROXY_BUILD_FLAGS adds compiler and linker flags (`make fuzz`: -fsanitize=address).
"""

import ast
import hashlib
import json
import os
import runpy
import shutil
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.metadata import version
from importlib.util import source_hash
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

KERNELS = (
    "hotproxy.http._headers",
    "hotproxy.http._kernel",
    "hotproxy.net._transfer",
    "hotproxy.shm._cells",
    "hotproxy.telemetry._line",
)
DATA_PATH = runpy.run_path("hotproxy/data_path.py")  # not imported: a package that is being built is not there yet
LIBRARY = f"hotproxy.{DATA_PATH['FOLDER']}.{DATA_PATH['LIBRARY']}"
FLAGS = (
    "-O2",
    "-g0",
    "-w",
    "-fvisibility=hidden",  # a call inside the library is a call, and not one through a table that others may change
)


def kernels() -> list[Extension]:
    try:
        from Cython.Build import cythonize
    except ImportError:
        sys.stderr.write("hotproxy: no Cython here, so no compiled kernel\n")
        return []
    flags = os.environ.get("HOTPROXY_BUILD_FLAGS", "").split()
    sources = {name: f"{name.replace('.', '/')}.pyx" for name in KERNELS}
    made: list[Extension] = cythonize(
        [Extension(name, [source], extra_compile_args=flags, extra_link_args=flags) for name, source in sources.items()]
    )
    for extension in made:  # not as an argument above: Cython makes new objects and forgets it
        extension.optional = True  # a compiler that is missing or fails is told, and the installation goes on
    return made


class DataPath(Extension):
    """`hotproxy.data_path.MODULES` in one library. mypyc writes its C when it is built, and not each time that
    setuptools asks what there is to build."""

    def __init__(self) -> None:
        super().__init__(LIBRARY, [], extra_compile_args=list(FLAGS), extra_link_args=["-Wl,--strip-debug"])
        self.optional = True

    def write_sources(self, folder: Path) -> dict[str, object]:
        """C into `folder`; the manifest. CompileError where there is no mypyc, or it fails."""
        modules = sorted(DATA_PATH["MODULES"])
        digests = {name: source_hash(Path("hotproxy", name).read_bytes()).hex() for name in sources(modules)}
        try:
            from mypyc.build import mypycify
        except ImportError as error:
            raise CompileError(f"no mypyc here, so the data path stays plain Python ({error})") from error
        built_by = f"mypy {version('mypy')}"
        # The group's name is in the library's entry point: manifest and library that do not belong together don't load.
        identity = json.dumps([digests, modules, EXTENSION_SUFFIXES[0], built_by])
        group = f"hotproxy_{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
        # What it can't see (no stubs in a build environment) it takes as Any. Our rules are `make check`'s business.
        options = ["--config-file=", "--ignore-missing-imports", f"--cache-dir={os.devnull}"]
        paths = [f"{name.replace('.', '/')}.py" for name in modules]
        try:
            shared, *shims = mypycify(options + paths, target_dir=str(folder), group_name=group)
        except (Exception, SystemExit) as error:  # mypy exits, and mypyc has bugs
            raise CompileError(f"mypyc failed, so the data path stays plain Python ({error!r})") from error
        self.sources = [*shared.sources, str(one_file(shims, folder))]
        self.include_dirs = shared.include_dirs
        return {
            "built by": built_by,
            "group": f"{group}__mypyc",
            "suffix": EXTENSION_SUFFIXES[0],
            "modules": modules,
            "sources": digests,
        }


def one_file(shims: list[Extension], folder: Path) -> Path:
    """mypyc makes an extension of each module, some lines that ask the library for it: all of them in the library."""
    text = ""
    for number, shim in enumerate(shims):
        (source,) = shim.sources
        text += f"#define PyInit___init__ PyInit___init__{number}\n"
        text += f'#include "{Path(source).resolve()}"\n#undef PyInit___init__\n'
    made = folder / "entry_points.c"
    made.write_text(text)
    return made


def sources(modules: list[str]) -> list[str]:
    """The files, seen from `hotproxy/`, of these modules and of all that they import of hotproxy: mypyc also writes the
    constants of other modules into its code."""
    found: set[str] = set()
    left = list(modules)
    while left:
        path = Path(left.pop().replace(".", "/"))
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        name = str(file.relative_to("hotproxy"))
        if name in found or not file.is_file():
            continue
        found.add(name)
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.Import):
                left += [alias.name for alias in node.names if alias.name.startswith("hotproxy.")]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hotproxy."):
                left += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return sorted(found)


class BuildExt(build_ext):
    def build_extension(self, ext: Extension) -> None:
        if not isinstance(ext, DataPath):
            super().build_extension(ext)
            return
        library = Path(self.get_ext_fullpath(ext.name))
        shutil.rmtree(library.parent, ignore_errors=True)
        manifest = ext.write_sources(Path(self.build_temp, "mypyc"))
        super().build_extension(ext)
        manifest["bytes"] = library.stat().st_size
        library.with_name(DATA_PATH["MANIFEST"]).write_text(json.dumps(manifest, indent=1) + "\n")

    def copy_extensions_to_source(self) -> None:
        """For an editable installation, which runs from here."""
        built, here = (Path(place, "hotproxy", DATA_PATH["FOLDER"]) for place in (self.build_lib, ""))
        shutil.rmtree(here, ignore_errors=True)
        if built.is_dir():
            here.mkdir()
            shutil.copy(built / DATA_PATH["MANIFEST"], here)
        super().copy_extensions_to_source()


# Flags are for looking at the kernels: then only they are built.
both = [*kernels(), *([] if os.environ.get("HOTPROXY_BUILD_FLAGS") else [DataPath()])]
setup(ext_modules=both, cmdclass={"build_ext": BuildExt})
