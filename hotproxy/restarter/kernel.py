"""The calls of Linux that Python has no name for: prctl(2) and capset(2), through ctypes."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Final

_LIBC: Final = ctypes.CDLL(None, use_errno=True)

_PR_SET_NAME: Final = 15
_PR_CAPBSET_DROP: Final = 24
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
_CAPABILITY_VERSION_3: Final = 0x20080522  # linux/capability.h: two words of 32 bits for each set


def _prctl(option: int, argument: int | bytes = 0) -> None:
    value = argument if isinstance(argument, bytes) else ctypes.c_ulong(argument)
    if _LIBC.prctl(option, value, ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def set_process_name(name: str) -> None:
    """What `ps` and `top` show; 15 bytes at most (the kernel cuts the rest)."""
    _prctl(_PR_SET_NAME, name.encode()[:15] + b"\0")


def become_subreaper() -> None:
    """Processes whose parent dies become our children: nobody else would reap a dead zygote's slots."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def drop_all_capabilities() -> None:
    """For good: none is left, none can be inherited, and no exec brings one back.

    Raises OSError only when a capability would remain.
    """
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    try:
        _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    except OSError as error:
        if error.errno != errno.EINVAL:  # before Linux 4.3 there are no ambient ones
            raise
    for capability in range(64):
        try:
            _prctl(_PR_CAPBSET_DROP, capability)
        except OSError:
            break  # EINVAL: past the last one; EPERM: without CAP_SETPCAP, where no_new_privs does the same
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    if _LIBC.capset(header, nothing) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
