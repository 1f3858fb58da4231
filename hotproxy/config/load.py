"""The config, from its files to one `Config`: read, parse, include, check; every problem of every file in one run."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from collections.abc import Mapping as MappingType
from dataclasses import dataclass, field
from typing import Final

from hotproxy.config import model, scalars, shapes
from hotproxy.config.address import UNIX
from hotproxy.config.clusters import read_cluster
from hotproxy.config.collector import Collector
from hotproxy.config.environment import read_assignments
from hotproxy.config.fields import Fields, LogFormatCheck, Reader
from hotproxy.config.listeners import read_address, read_listener
from hotproxy.config.names import Names
from hotproxy.config.on_disk import Files, matching
from hotproxy.config.problems import ERROR, ConfigErrors, ConfigProblem
from hotproxy.config.references import check_references
from hotproxy.config.sources import Source, SourceError, checked, read_source
from hotproxy.config.yaml_mistakes import read_nodes
from hotproxy.config.yaml_nodes import Node, Scalar, absolute

# Each worker is a process of several MB; the segment's slabs are allotted for no more.
MAX_WORKERS: Final = 1024
# A pattern that matches more than this is a mistake such as `/**`.
MAX_INCLUDED: Final = 10_000


@dataclass(frozen=True, slots=True)
class Examined:
    """All problems by place, warnings among them; `config` is None when one of them is an error.

    `roots`: what the files hold, variables replaced, the main file first. `secrets`: what of it nobody should see.
    `files`: those that were read, to be compared with what is there later.
    """

    config: model.Config | None
    problems: tuple[ConfigProblem, ...]
    roots: tuple[Node, ...] = ()
    secrets: frozenset[str] = frozenset()
    files: Files = field(default_factory=Files)

    @property
    def warnings(self) -> tuple[ConfigProblem, ...]:
        return tuple(problem for problem in self.problems if problem.severity != ERROR)


def load(
    path: str,
    *,
    environ: MappingType[str, str] | None = None,
    offline: bool = False,
    log_format: LogFormatCheck | None = None,
) -> model.Config:
    """The config at `path` ("-" is standard input); raises ConfigErrors. Warnings are dropped: `examine` has them."""
    return _or_raise(examine(path, environ=environ, offline=offline, log_format=log_format))


def load_text(
    text: str, path: str, *, environ: MappingType[str, str] | None = None, offline: bool = False
) -> model.Config:
    """As `load`, for text that would stand in a file at `path` (which need not exist)."""
    return _or_raise(examine_text(text, path, environ=environ, offline=offline))


def examine(
    path: str,
    *,
    environ: MappingType[str, str] | None = None,
    offline: bool = False,
    log_format: LogFormatCheck | None = None,
) -> Examined:
    """Everything that is to say about the config at `path`. Raises nothing that the files' contents could cause.

    `environ` (default: this process's) is where `${VAR}` comes from; `offline`: do not look whether the directories,
    users and groups that the config names exist on this machine; `log_format`: what judges an access log's format.
    """
    run = _Run(os.environ if environ is None else environ, offline, log_format)
    try:
        source = read_source(path)
    except SourceError as error:
        run.problems.unreadable("<stdin>" if path == "-" else path, 0, error)
        return run.finish(None)
    if path != "-":
        run.read[os.path.abspath(path)] = source.digest
    return run.finish(source)


def examine_text(
    text: str,
    path: str,
    *,
    environ: MappingType[str, str] | None = None,
    offline: bool = False,
    log_format: LogFormatCheck | None = None,
) -> Examined:
    """As `examine`, for text that would stand in a file at `path`."""
    run = _Run(os.environ if environ is None else environ, offline, log_format)
    try:
        source = checked(Source(path, os.path.dirname(os.path.abspath(path)), text))
    except SourceError as error:
        run.problems.unreadable(path, 0, error)
        return run.finish(None)
    return run.finish(source)


def _or_raise(examined: Examined) -> model.Config:
    if examined.config is None:
        raise ConfigErrors(examined.problems)
    return examined.config


class _Run:
    """One reading of one config."""

    def __init__(self, environ: MappingType[str, str], offline: bool, log_format: LogFormatCheck | None) -> None:
        self.problems = Collector()
        self.names = Names()
        self.variables = dict(environ)
        self.reader = Reader(self.problems, self.variables, self.names, offline, log_format)
        self.complete = True  # False once a file that may define something could not be read
        self.files = 1
        self.read: dict[str, str] = {}  # absolute path -> digest
        self.patterns: list[str] = []
        self.roots: list[Node] = []
        self.listeners: list[model.Listener] = []
        self.clusters: list[model.Cluster] = []

    def finish(self, source: Source | None) -> Examined:
        """Read everything that the main file leads to."""
        config = None
        if source is not None:
            config = self._main(source)
            check_references(self.names, self.problems, self.complete)
        problems = self.problems.sorted()
        roots, secrets = tuple(self.roots), frozenset(self.reader.secrets)
        files = Files(tuple(self.read.items()), tuple(self.patterns))
        return Examined(None if self.problems.failed else config, problems, roots, secrets, files)

    def _main(self, source: Source) -> model.Config | None:
        root = self._parse(source)
        fields = self.reader.section(root, shapes.CONFIG, "") if root is not None else None
        if fields is None:
            return None
        self._env_files(fields)  # before anything that may hold a ${VAR}
        workers = fields.value("workers", _workers)
        drain_timeout_s = fields.duration("drain_timeout", model.DEFAULT_DRAIN_TIMEOUT_S)
        handoff_timeout_s = fields.duration("handoff_timeout", model.DEFAULT_HANDOFF_TIMEOUT_S)
        orphan_timeout_s = fields.duration("orphan_timeout", model.DEFAULT_ORPHAN_TIMEOUT_S)
        admin = self._admin(fields)
        self._sections(fields)
        self._includes(fields, source)
        if not self.listeners and not self.problems.failed:
            self.problems.warning(fields.node, "no listener is defined: this proxy would serve nothing")
        return model.Config(
            workers=workers or 0,
            admin=admin,
            drain_timeout_s=drain_timeout_s,
            handoff_timeout_s=handoff_timeout_s,
            orphan_timeout_s=orphan_timeout_s,
            listeners=tuple(self.listeners),
            clusters=tuple(self.clusters),
        )

    def _parse(self, source: Source) -> Node | None:
        root, mistakes = read_nodes(source)
        for mistake in mistakes:
            self.problems.error(mistake.node, str(mistake), mistake.hint)
        self.complete = self.complete and root is not None
        if root is not None:
            self.roots.append(root)
        return root

    def _admin(self, fields: Fields) -> model.Admin | None:
        admin = fields.section("admin", shapes.ADMIN)
        node = admin.get("address") if admin is not None and admin.need("address") else None
        if admin is None or node is None:
            return None
        address = read_address(self.reader, node, admin.at("address"), admin.key("address"))
        if address is not None and address.family == UNIX:
            message = "the admin address is one of TCP"
            admin.error(node, message, "its unix socket is always there: admin.sock", admin.at("address"))
        return None if address is None else model.Admin(address)

    def _sections(self, fields: Fields) -> None:
        for item, where in fields.items("listeners", "[{name: web, ...}]", empty=True):
            listener = read_listener(self.reader, item, where)
            if listener is not None:
                self.listeners.append(listener)
        for item, where in fields.items("clusters", "[{name: api, ...}]", empty=True):
            cluster = read_cluster(self.reader, item, where)
            if cluster is not None:
                self.clusters.append(cluster)

    def _env_files(self, fields: Fields) -> None:
        """Variables of the files win over those of the process, which no reload can change."""
        for node, where, path in self._paths(fields, "env_files"):
            source = self._open(node, where, absolute(node, path))
            if source is None:
                continue
            try:
                self.variables.update(read_assignments(source))
            except SourceError as error:
                self.problems.unreadable(source.name, source.order, error)

    def _includes(self, fields: Fields, main: Source) -> None:
        seen = {os.path.realpath(os.path.join(main.directory, os.path.basename(main.name)))}
        for node, where, pattern in self._paths(fields, "include"):
            for path in self._matches(node, where, absolute(node, pattern)):
                real = os.path.realpath(path)
                if real in seen:
                    continue
                seen.add(real)
                if len(seen) > MAX_INCLUDED:
                    self.problems.error(node, f"more than {MAX_INCLUDED} files are included", "", where)
                    return
                self._include(node, where, path)

    def _include(self, node: Node, where: str, path: str) -> None:
        source = self._open(node, where, path)
        root = self._parse(source) if source is not None else None
        self.complete = self.complete and root is not None
        if root is None:
            return
        fields = self.reader.section(root, shapes.INCLUDED, "")
        if fields is not None:
            self._sections(fields)

    def _matches(self, node: Node, where: str, pattern: str) -> list[str]:
        """The files of one pattern in lexical order. No wildcard: the file must be there."""
        if not glob.has_magic(pattern):
            return [pattern]
        root = pattern
        while glob.has_magic(root):
            root = os.path.dirname(root)
        if os.path.isdir(root) and not os.access(root, os.R_OK | os.X_OK):
            self.problems.error(node, f"cannot read the directory '{root}': permission denied", "", where)
            self.complete = False
        if not os.path.isdir(root):
            self.problems.warning(node, f"the directory '{root}' does not exist, so nothing is included", "", where)
        self.patterns.append(pattern)
        return matching(pattern)

    def _paths(self, fields: Fields, name: str) -> Iterator[tuple[Node, str, str]]:
        node = fields.get(name)
        if node is None:
            return
        one = isinstance(node, Scalar) and not node.is_null
        items = [(node, fields.at(name))] if one else fields.items(name, "[...]", empty=True)
        for item, where in items:
            text = self.reader.value(item, scalars.plain_text, where)
            if text is not None:
                yield item, where, text

    def _open(self, node: Node, where: str, path: str) -> Source | None:
        shown = os.path.relpath(path) if not os.path.isabs(node.source.name) else path
        try:
            self.files += 1
            source = read_source(path, self.files, shown)
            self.read[path] = source.digest
            return source
        except SourceError as error:
            if error.source is not None:
                self.problems.unreadable(shown, self.files, error)
            else:
                self.problems.error(node, str(error), error.hint, where)
            return None


def _workers(text: str) -> int:
    if text == "auto":
        return 0
    if not text.isdigit():
        raise scalars.ScalarError(f"'{text}' is not a number of workers", f"'auto', or a number up to {MAX_WORKERS}")
    return scalars.whole_number(text, 1, MAX_WORKERS)
