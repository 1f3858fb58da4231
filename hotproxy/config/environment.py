"""`${VAR}`, `${VAR:-default}` and `$$` inside one scalar, and the files that set such variables."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from hotproxy.config.secrets import is_secret_name
from hotproxy.config.sources import Source, SourceError

# Into one scalar; a variable may hold 128 KiB (execve(2)), and a scalar thousands of references to it.
MAX_SUBSTITUTED: Final = 1024 * 1024

_NAME: Final = r"[A-Za-z_][A-Za-z0-9_]*"
_REFERENCE: Final = re.compile(rf"\$(?:\$|\{{(?P<name>{_NAME})(?::-(?P<default>[^}}$]*))?\}}|(?P<bad>\{{[^}}]*\}}?))")
_ASSIGNMENT: Final = re.compile(rf"(?:export\s+)?(?P<name>{_NAME})=(?P<value>.*)\Z")


@dataclass(frozen=True, slots=True)
class BadReference:
    """One reference that cannot be replaced: its text, and what is wrong with it."""

    text: str
    message: str
    hint: str


@dataclass(frozen=True, slots=True)
class Substituted:
    """A scalar after substitution; `secrets` are the values of variables with a telling name that went into it."""

    text: str
    bad: tuple[BadReference, ...]
    secrets: tuple[str, ...]

    @property
    def secret(self) -> bool:
        return bool(self.secrets)


def substitute(text: str, variables: Mapping[str, str]) -> Substituted:
    """Replace every reference in `text`. A dollar that begins neither `${` nor `$$` stays as it is."""
    bad: list[BadReference] = []
    secrets: list[str] = []
    size = 0

    def replace(match: re.Match[str]) -> str:
        nonlocal size
        if match[0] == "$$":
            return "$"
        if match["bad"] is not None:
            hint = "write '${NAME}' or '${NAME:-default}'; a dollar sign is '$$'"
            bad.append(BadReference(match[0], f"'{match[0]}' is not a variable", hint))
            return ""
        name, default = match["name"], match["default"]
        value = variables.get(name)
        if value is None or (value == "" and default is not None):  # as in a shell: `:-` also replaces an empty value
            if default is None:
                hint = f"set it, or give a default: '${{{name}:-default}}'"
                bad.append(BadReference(match[0], f"the variable '{name}' is not set", hint))
                return ""
            return default
        size += len(value)
        if size > MAX_SUBSTITUTED:
            bad.append(BadReference(match[0], f"more than {MAX_SUBSTITUTED} characters come from variables", ""))
            return ""
        if is_secret_name(name):
            secrets.append(value)
        return value

    result = _REFERENCE.sub(replace, text)
    return Substituted(result, tuple(bad), tuple(secrets))


def read_assignments(source: Source) -> dict[str, str]:
    """The variables of an environment file: NAME=value lines, `#` comments, optional quotes; raises SourceError."""
    found: dict[str, str] = {}
    for number, raw in enumerate(source.lines):
        line = raw.strip()
        if not line or line[0] in "#;":
            continue
        match = _ASSIGNMENT.match(line)
        if match is None:
            column = len(raw) - len(raw.lstrip())
            raise SourceError("this is not an assignment", "write NAME=value", number, column, source)
        value = match["value"].strip()
        if len(value) >= 2 and value[0] in "\"'" and value[-1] == value[0]:
            value = value[1:-1]
        found[match["name"]] = value
    return found
