"""What the end of a unix socket is called in logs and headers: never so that it could be taken for something else."""

from __future__ import annotations


def unix_text(path: str) -> str:
    """A path, or "@name" of an abstract socket; "" for a socket without a name.

    The client chooses it, any bytes: whoever binds its own end to the file "10.0.0.1:80" of its working directory is
    not 10.0.0.1 for that, and a line feed in it begins no line.
    """
    if not path:
        return ""
    if not path.isprintable():
        path = "".join([char if char.isprintable() else "?" for char in path])
    return path if path.startswith(("/", "@")) else f"./{path}"
