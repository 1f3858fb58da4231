"""The compiled kernels, which may be missing: without Cython or a C compiler the package is plain Python, and slower.

Everything else about the package is in pyproject.toml. `hotproxy version` says which kernel runs, and why.
HOTPROXY_BUILD_FLAGS adds compiler and linker flags (`make fuzz`: -fsanitize=address).
"""

import os
import sys

from setuptools import Extension, setup

MODULES = (
    "hotproxy.http._headers",
    "hotproxy.http._kernel",
    "hotproxy.net._transfer",
    "hotproxy.shm._cells",
    "hotproxy.telemetry._line",
)


def extensions() -> list[Extension]:
    try:
        from Cython.Build import cythonize
    except ImportError:
        sys.stderr.write("hotproxy: no Cython here, so no compiled kernel\n")
        return []
    flags = os.environ.get("HOTPROXY_BUILD_FLAGS", "").split()
    sources = {name: f"{name.replace('.', '/')}.pyx" for name in MODULES}
    made: list[Extension] = cythonize(
        [Extension(name, [source], extra_compile_args=flags, extra_link_args=flags) for name, source in sources.items()]
    )
    for extension in made:  # not as an argument above: Cython makes new objects and forgets it
        extension.optional = True  # a compiler that is missing or fails is told, and the installation goes on
    return made


setup(ext_modules=extensions())
