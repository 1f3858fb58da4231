"""Samples of `perf script`, and what each of them was spent on.

A sample is a stack of frames, innermost first. It belongs to one group of the table: in the kernel by the system call,
in Python by what its innermost function does, elsewhere by the shared object.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

# "  7f12ab name+0x1f (/path/of/object.so)"; names of C++ and Python functions may have spaces and brackets in them.
_FRAME = re.compile(r"\s*[0-9a-f]+ (?P<name>.*?)(?:\+0x[0-9a-f]+)? \((?P<object>[^()]*(?:\([^()]*\))?[^()]*)\)$")
_INLINED = "inlined"
# "py::Poller.receive:/path/of/hotproxy/net/poller.py", by Python 3.12 and later
_PYTHON_FUNCTION = re.compile(r"py::(?P<name>.*):(?P<path>[^:]*)$")
_SUFFIX = re.compile(r"\.(?:cpython-|abi3|so\b|cp3).*$")


class Frame(NamedTuple):
    name: str
    object: str  # path of the shared object; "[kernel.kallsyms]", "[vdso]", "inlined"


Stack = Sequence[Frame]  # innermost first


def read(text: str) -> Iterator[list[Frame]]:
    """The stacks of `perf script -F ip,sym,dso`, one for each sample."""
    stack: list[Frame] = []
    for line in text.splitlines():
        if line.strip():
            match = _FRAME.match(line)
            if match is not None:
                stack.append(Frame(_readable(match["name"]), match["object"]))
        elif stack:
            yield stack
            stack = []
    if stack:
        yield stack


def _readable(name: str) -> str:
    match = _PYTHON_FUNCTION.match(name)
    if match is None:
        return name
    path = match["path"].rpartition("/hotproxy/")[2]
    return f"{match['name']} ({path})"


# The kernel: (group, what is in a name of its frames), the first that fits. The sender does the receiver's work on
# loopback: what is found under a send is split into its own part, the peer's TCP, and waking the peer.
_KERNEL = (
    ("kernel: waking the peer", re.compile(r"sock_def_readable|ep_poll_callback|try_to_wake_up")),
    ("kernel: TCP of the peer, done by the sender (loopback)", re.compile(r"__netif_receive_skb|process_backlog")),
    ("kernel: sending", re.compile(r"__x64_sys_(?:sendto|sendmsg)|sock_write_iter")),
    ("kernel: receiving", re.compile(r"__x64_sys_(?:recvfrom|recvmsg)|sock_read_iter")),
    ("kernel: epoll", re.compile(r"__x64_sys_epoll_")),
    (
        "kernel: opening and closing connections",
        re.compile(
            r"__x64_sys_(?:accept4?|connect|socket|close|shutdown|[gs]etsockopt|getsockname|getpeername|ioctl)$"
        ),
    ),
    ("kernel: writing the access log", re.compile(r"__x64_sys_(?:write|writev|pwrite64)$")),
    ("kernel: page faults", re.compile(r"exc_page_fault")),
    (
        "kernel: entry and exit of system calls",
        re.compile(r"entry_SYSCALL|syscall_(?:enter|exit|return)|do_syscall_64"),
    ),
)
_KERNEL_REST = "kernel: other"

# Python: as above, for the innermost functions up to the first one that is not inlined.
_PYTHON = (
    (
        "Python: making and freeing objects",
        re.compile(
            r"alloc|arena|address_in_range|[Ff]ree(?!var)|dealloc|_PyObject_GC_|gc_|_Py_NewReference|_PyMem_|subtype_clear"
            r"|clear_slots|PyBytes_FromStringAndSize|PyUnicode_New"
        ),
    ),
    ("Python: byte code", re.compile(r"_PyEval_|Py_INCREF|Py_DECREF|Py_XDECREF|_Py_Dealloc")),
    (
        "Python: calls",
        re.compile(
            r"[Vv]ectorcall|Call|_PyFunction|_PyFrame|PyArg_|getargs|vgetargs|cfunction|method_|_PyStack|initialize_locals"
        ),
    ),
    ("Python: attributes", re.compile(r"[GS]etAttr|_PyType_Lookup|member_[gs]et|lookup_maybe|getattro|setattro|descr")),
    (
        "Python: bytes, str, int, dict, list and their like",
        re.compile(
            r"[Uu]nicode|[Bb]ytes|[Dd]ict|[Ll]ist|[Tt]uple|[Ll]ong|[Ff]loat|[Ss]et_|stringlib|PyObject_(?:Size|Length|Hash|IsTrue)"
            r"|richcompare|RichCompare|iter|bool|join|find|split"
        ),
    ),
)
_PYTHON_REST = "Python: other"
_ALLOCATOR = re.compile(r"malloc|calloc|realloc|free|_int_|tcache|sysmalloc")


def group_of(stack: Stack) -> str:
    """The row of the table that this sample belongs to."""
    inner = list(_innermost(stack))
    where = inner[-1].object if inner else "[unknown]"
    if where.startswith(("[kernel", "[guest.kernel")):
        names = [frame.name for frame in stack if "kernel" in frame.object]
        return next((group for group, wanted in _KERNEL if any(map(wanted.search, names))), _KERNEL_REST)
    name = PurePosixPath(where).name
    if name.startswith("perf-"):  # the trampolines that give Python functions their names
        return "Python: calls"
    if re.match(r"(?:lib)?python3", name):
        called = [frame.name for frame in inner]
        return next((group for group, wanted in _PYTHON if any(map(wanted.search, called))), _PYTHON_REST)
    if name.startswith(("libc.so", "libc-")):
        called = [frame.name for frame in inner]
        return "Python: making and freeing objects" if any(map(_ALLOCATOR.search, called)) else "libc"
    if where == "[vdso]":
        return "reading the clock"
    if "uvloop" in where:
        return "event loop (uvloop)"
    # The whole virtual environment may lie in a checkout of that name.
    if "/hotproxy/" in where and "/site-packages/" not in where.rpartition("/hotproxy/")[2]:
        return f"compiled: {_module(where.rpartition('/hotproxy/')[2])}"
    return f"other: {_module(name) if where.startswith('/') else where}"


def _innermost(stack: Stack) -> Iterator[Frame]:
    """The innermost function, behind what the compiler has put into it."""
    for frame in stack:
        yield frame
        if frame.object != _INLINED:
            return


def _module(path: str) -> str:
    """http/_kernel.cpython-311-x86_64-linux-gnu.so → http/_kernel"""
    return _SUFFIX.sub("", path)


def groups(stacks: Sequence[Stack]) -> Counter[str]:
    return Counter(map(group_of, stacks))


def functions(stacks: Sequence[Stack]) -> Counter[tuple[str, str]]:
    """(function, object) of the innermost frames that are not inlined."""
    found: Counter[tuple[str, str]] = Counter()
    for stack in stacks:
        *_, frame = _innermost(stack)
        found[frame.name, PurePosixPath(frame.object).name] += 1
    return found


def folded(stacks: Sequence[Stack]) -> Counter[tuple[str, ...]]:
    """Equal stacks counted: function names, outermost first, without inlined and unknown ones; the group on top."""
    found: Counter[tuple[str, ...]] = Counter()
    for stack in stacks:
        names = [frame.name for frame in reversed(stack) if frame.object != _INLINED and "unknown" not in frame.name]
        found[(*names, group_of(stack))] += 1
    return found


def python_functions(stacks: Sequence[Stack]) -> Counter[str]:
    """The innermost Python function of each sample, with whatever C it has called; nothing where perf does not know."""
    found: Counter[str] = Counter()
    for stack in stacks:
        name = next((frame.name for frame in stack if PurePosixPath(frame.object).name.startswith("perf-")), None)
        if name is not None:
            found[name] += 1
    return found
