"""Reading files: who may have written them, how large they are, and whether they are text at all."""

from __future__ import annotations

import grp
import hashlib
import os
import pwd
import re
import stat
from dataclasses import dataclass, field
from typing import Final

# 20,000 routes fill about 2 MiB. Larger than 8 MiB is not a config but a mistake.
MAX_BYTES: Final = 8 * 1024 * 1024
STDIN: Final = "/dev/stdin"

# YAML 1.1's line breaks, as libyaml counts them; otherwise its line numbers and ours differ.
_LINE_BREAK: Final = re.compile("\r\n|[\r\n\x85\u2028\u2029]")
# YAML 1.2 section 5.1 (c-printable), plus lone surrogates, which only text from elsewhere can hold.
_NOT_YAML: Final = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(eq=False, slots=True)
class Source:
    """The text of one file. `name` is how problems call it, `directory` what its relative paths are relative to."""

    name: str
    directory: str
    text: str
    order: int = 0  # the main file is 0, then the files it draws in, as they are read
    digest: str = ""  # SHA-256 of its bytes, in hex; "": not from a file
    lines: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.text = self.text.removeprefix("\ufeff")
        self.lines = _LINE_BREAK.split(self.text)

    def offset(self, line: int, column: int) -> int:
        """The index in `text` of a place that counts from 0."""
        position = 0
        for match in _LINE_BREAK.finditer(self.text):
            if line == 0:
                break
            line, position = line - 1, match.end()
        return min(position + column, len(self.text))


class SourceError(Exception):
    """A file that cannot be used. `line` and `column` count from 0, or are -1 for the file as a whole."""

    def __init__(
        self, message: str, hint: str = "", line: int = -1, column: int = -1, source: Source | None = None
    ) -> None:
        super().__init__(message)
        self.hint = hint
        self.line = line
        self.column = column
        self.source = source


def read_source(path: str, order: int = 0, name: str = "") -> Source:
    """The file at `path` ("-" is standard input) as text; raises SourceError."""
    if path == "-":
        path, name = STDIN, "<stdin>"
    shown = name or path
    try:
        data = _read(path)
    except OSError as error:
        raise SourceError(f"cannot read {shown}: {(error.strerror or str(error)).lower()}") from error
    directory = os.getcwd() if path == STDIN else os.path.dirname(os.path.abspath(path))
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        source = Source(shown, directory, data.decode("utf-8", "replace"), order)
        before = Source(shown, directory, data[: error.start].decode("utf-8"), order)
        raise SourceError(
            f"byte 0x{data[error.start]:02x} is not UTF-8",
            "save the file as UTF-8",
            len(before.lines) - 1,
            len(before.lines[-1]),
            source,
        ) from error
    return checked(Source(shown, directory, text, order, hashlib.sha256(data).hexdigest()))


def checked(source: Source) -> Source:
    """The same source when it holds only characters that YAML allows; raises SourceError at the first other one."""
    if len(source.text) > MAX_BYTES:
        raise SourceError(f"the config is larger than {MAX_BYTES // 1024 // 1024} MiB")
    match = _NOT_YAML.search(source.text)
    if match is None:
        return source
    for line, text in enumerate(source.lines):
        if (found := _NOT_YAML.search(text)) is not None:
            code = ord(found[0])
            what = "a NUL byte" if code == 0 else f"the control character U+{code:04X}"
            raise SourceError(f"{what} is not allowed in a config", "", line, found.start(), source)
    raise AssertionError("a line break is an allowed character")


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        if stat.S_ISREG(status.st_mode):  # pipes and terminals belong to whoever started us
            _refuse_foreign_writers(path, status)
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise SourceError(f"{path} is larger than {MAX_BYTES // 1024 // 1024} MiB")
    return data


def _refuse_foreign_writers(path: str, status: os.stat_result) -> None:
    """Whoever may write the config decides where traffic goes, so it must be its owner alone.

    One exception: write permission for a user's private group, which is what umask 002 gives on many distributions.
    """
    mode = status.st_mode
    if mode & stat.S_IWOTH:
        who = "everybody"
    elif mode & stat.S_IWGRP and not _is_private_group(status.st_uid, status.st_gid):
        who = "its group"
    else:
        return
    raise SourceError(
        f"{path} may be written by {who} (mode {stat.S_IMODE(mode):04o})",
        f"only its owner may write a config file: chmod go-w {path}",
    )


def _is_private_group(uid: int, gid: int) -> bool:
    """The group has its owner's name and no other member (root's does not count: root needs no umask 002)."""
    if uid == 0:
        return False
    try:
        owner, group = pwd.getpwuid(uid), grp.getgrgid(gid)
    except KeyError:
        return False
    return owner.pw_gid == gid and group.gr_name == owner.pw_name and set(group.gr_mem) <= {owner.pw_name}
