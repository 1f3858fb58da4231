"""Which modules are compiled, and the finder that imports them compiled as long as that is what their sources say.

`setup.py` compiles MODULES with mypyc, all of them into one library in `hotproxy/_compiled`, and writes a manifest with
the digest of each source that went in. Compiled code must never hide a source that somebody changed: so the library
does not lie where Python would prefer it, and it is used only while every source still has its digest. Native calls
cross modules, so it is all or nothing: otherwise all run from their sources, and `why_plain` says why.

Nothing is read before the first of MODULES is imported; a supervisor imports none of them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, ModuleSpec
from types import ModuleType
from typing import Final

# What is on the way of a byte or a request. Not here: what reads its own classes (telemetry.stats), and what runs once
# for a config or a process. Each has a last name of its own: the library has one entry point for each (PyInit_router).
MODULES: Final = frozenset({
    "hotproxy.clock",
    "hotproxy.http.body",
    "hotproxy.http.codec",
    "hotproxy.http.http1_client",
    "hotproxy.http.http1_exchange",
    "hotproxy.http.http1_server",
    "hotproxy.http.hpack_fields",
    "hotproxy.http.http2_exchange",
    "hotproxy.http.http2_frames",
    "hotproxy.http.http2_heads",
    "hotproxy.http.http2_limits",
    "hotproxy.http.http2_output",
    "hotproxy.http.http2_saved",
    "hotproxy.http.http2_server",
    "hotproxy.http.http2_stream",
    "hotproxy.http.rules",
    "hotproxy.http.syntax",
    "hotproxy.net.bypass",
    "hotproxy.net.client_hello",
    "hotproxy.net.connection",
    "hotproxy.net.connection_state",
    "hotproxy.net.pipes",
    "hotproxy.net.openssl_records",
    "hotproxy.net.poller",
    "hotproxy.net.proxy_protocol",
    "hotproxy.net.saved_state",
    "hotproxy.net.socket_options",
    "hotproxy.net.tls_handshake",
    "hotproxy.net.tls_loop",
    "hotproxy.net.tls_records",
    "hotproxy.proxy.byte_meter",
    "hotproxy.proxy.connection_manager",
    "hotproxy.proxy.downstream",
    "hotproxy.proxy.forwarding",
    "hotproxy.proxy.held_body",
    "hotproxy.proxy.http2_connection_manager",
    "hotproxy.proxy.http2_lane",
    "hotproxy.proxy.http2_moving",
    "hotproxy.proxy.http_moving",
    "hotproxy.proxy.http_terminal",
    "hotproxy.proxy.introduction",
    "hotproxy.proxy.last_hop",
    "hotproxy.proxy.listener",
    "hotproxy.proxy.route",
    "hotproxy.proxy.router",
    "hotproxy.proxy.runtime",
    "hotproxy.proxy.snapshot",
    "hotproxy.proxy.splice",
    "hotproxy.proxy.stream",
    "hotproxy.proxy.stream_moving",
    "hotproxy.proxy.tcp_moving",
    "hotproxy.proxy.tcp_leg",
    "hotproxy.proxy.tcp_proxy",
    "hotproxy.proxy.tcp_routes",
    "hotproxy.proxy.trusted_hops",
    "hotproxy.proxy.trusted_proxies",
    "hotproxy.proxy.tls_accept",
    "hotproxy.proxy.tunnel",
    "hotproxy.saved",
    "hotproxy.telemetry.access_log",
    "hotproxy.telemetry.log_format",
    "hotproxy.telemetry.log_operators",
    "hotproxy.telemetry.log_sink",
    "hotproxy.telemetry.log_time",
    "hotproxy.telemetry.log_values",
    "hotproxy.telemetry.proxy_tlvs",
    "hotproxy.telemetry.stream_info",
    "hotproxy.upstream.cluster",
    "hotproxy.upstream.connect",
    "hotproxy.upstream.endpoint",
    "hotproxy.upstream.load_balancer",
    "hotproxy.upstream.moving",
    "hotproxy.upstream.pool",
    "hotproxy.upstream.upstream_connection",
})  # fmt: skip

FOLDER: Final = "_compiled"
LIBRARY: Final = "data_path"  # and the suffix of this interpreter's extension modules
MANIFEST: Final = "manifest.json"

_CURE: Final = "`pip install .` compiles it anew"


class Finder:
    """On `sys.meta_path`, before the finders that know sources. One for each copy of the package."""

    def __init__(self, package: str) -> None:
        self._package = package
        self._library = os.path.join(package, FOLDER, LIBRARY + EXTENSION_SUFFIXES[0])
        self._group = ""  # the name under which the modules look for what they share
        self._why: str | None = None  # not decided yet

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name in MODULES:
            if path is None or not any(place.startswith(self._package) for place in path) or self.why_plain():
                return None
        elif not self._group or name != self._group:
            return None
        return self._spec(name)

    def why_plain(self) -> str:
        """ "" when the modules are imported compiled. Decides it, if no module has been imported."""
        if self._why is None:
            self._why = ""  # the library asks for its group while it is loaded
            self._why = self._decide()
            if self._why:
                self._group = ""
        return self._why

    def _spec(self, name: str) -> ModuleSpec:
        return ModuleSpec(name, ExtensionFileLoader(name, self._library), origin=self._library)

    def _decide(self) -> str:
        # Imported here: whoever runs none of MODULES does not pay for it.
        import importlib
        import json
        from importlib.util import source_hash

        from hotproxy.shm.kernel import NOT_BUILT, why_not

        why = why_not()
        if why:
            return why
        loaded = sorted(MODULES.intersection(sys.modules))
        if loaded:
            return f"{loaded[0]} was imported before"
        try:
            with open(os.path.join(self._package, FOLDER, MANIFEST), encoding="utf-8") as file:
                manifest = json.load(file)
            suffix, modules, size = manifest["suffix"], manifest["modules"], manifest["bytes"]
            sources, group = manifest["sources"].items(), manifest["group"]
        except FileNotFoundError:
            return NOT_BUILT
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            return f"hotproxy/{FOLDER}/{MANIFEST} is broken ({error!r}); {_CURE}"
        if suffix != EXTENSION_SUFFIXES[0]:
            return f"it was compiled for {suffix}, and this Python loads {EXTENSION_SUFFIXES[0]}; {_CURE}"
        changed = []
        for source, digest in sources:
            try:
                with open(os.path.join(self._package, source), "rb") as code:
                    same = source_hash(code.read()).hex() == digest
            except FileNotFoundError:
                same = False
            if not same:
                changed.append(source)
        if changed:
            others = f" and {len(changed) - 1} other files were" if len(changed) > 1 else " was"
            return f"hotproxy/{changed[0]}{others} changed since it was compiled; {_CURE}"
        if modules != sorted(MODULES):
            return f"other modules were compiled than hotproxy/data_path.py lists; {_CURE}"
        self._group = group
        try:
            # Where a file ends too early, loading it is a SIGBUS; an upgrade may be under way.
            if os.stat(self._library).st_size != size:
                return f"{self._library} is incomplete; {_CURE}"
            importlib.import_module(self._group)
        except (OSError, ImportError) as error:
            return f"{error}; {_CURE}"
        return ""


_finder: Finder | None = None


def install(package: str) -> None:
    """For the package in this folder; `hotproxy/__init__.py` calls it before anything else is imported."""
    global _finder
    _finder = Finder(package)
    sys.meta_path.insert(0, _finder)


def why_plain() -> str:
    """Why the data path runs as plain Python in this process; "" when it is compiled."""
    assert _finder is not None, "hotproxy/__init__.py installs it"
    return _finder.why_plain()
