"""Session tickets that every worker of every generation can open.

OpenSSL makes up a key of its own for each context, and Python has no call that sets it; so `SSL_CTX_ctrl` of the very
library that Python uses is called by ctypes. Whether that works here is tried in a forked child first (a wrong guess
about the layout of an `SSLContext` would be a crash): where it does not, sessions resume within one generation at most.

Keys belong to a listener and to the CA that its clients' certificates are verified with: a ticket that was given when
another CA was trusted opens nothing.
"""

from __future__ import annotations

import ctypes
import os
import ssl
from typing import Any, Final

from hotproxy.restarter.ticket_chain import TicketChain

# openssl/ssl.h
_GET_TICKET_KEYS: Final = 58
_SET_TICKET_KEYS: Final = 59
# The key's name 16, HMAC-SHA256 32, AES-256 32: SSL_CTX_set_tlsext_ticket_keys since OpenSSL 1.1.0.
KEY_BYTES: Final = 80


class TicketKeys:
    """Gives contexts the keys of a chain."""

    __slots__ = ("_chain", "_control")

    def __init__(self, chain: TicketChain) -> None:
        """Only where `why_not` has found nothing."""
        self._chain = chain
        self._control = _control()

    def advance(self, wall_s: float) -> bool:
        """True: contexts need their keys anew."""
        return self._chain.advance(wall_s)

    def give(self, context: ssl.SSLContext, scope: bytes) -> None:
        """`scope`: whose tickets these are, as bytes that no other listener has."""
        keys = self._chain.derive(b"ticket keys of " + scope, KEY_BYTES)
        if self._control(_address(context), _SET_TICKET_KEYS, KEY_BYTES, keys) != 1:
            raise ssl.SSLError("OpenSSL has not taken the ticket keys")


def why_not() -> str:
    """Why other generations can't resume sessions; "" when they can. Forks: not with an event loop or threads."""
    try:
        pid = os.fork()
    except OSError as error:
        return f"cannot be tried: {error.strerror}"
    if pid == 0:
        code = 1
        try:
            code = 0 if _try() else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    if status == 0:
        return ""
    return "OpenSSL's SSL_CTX_ctrl can't be reached from Python here"


def _try() -> bool:
    """What is written can be read back, and the options of this context are those that Python sees."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.options |= ssl.OP_NO_RENEGOTIATION
    library, address = _library(), _address(context)
    library.SSL_CTX_get_options.restype = ctypes.c_uint64
    library.SSL_CTX_get_options.argtypes = [ctypes.c_void_p]
    if library.SSL_CTX_get_options(address) != int(context.options):
        return False
    keys, back = os.urandom(KEY_BYTES), ctypes.create_string_buffer(KEY_BYTES)
    control = _control()
    return (
        control(address, _SET_TICKET_KEYS, KEY_BYTES, keys) == 1
        and control(address, _GET_TICKET_KEYS, KEY_BYTES, back) == 1
        and back.raw == keys
    )


def _library() -> ctypes.CDLL:
    """The libssl that Python's ssl module is linked with, and no other one."""
    import _ssl

    return ctypes.CDLL(getattr(_ssl, "__file__", None))


def _control() -> Any:
    function = _library().SSL_CTX_ctrl
    function.restype = ctypes.c_long
    function.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_char_p]
    return function


def _address(context: ssl.SSLContext) -> int:
    """Of the SSL_CTX: the first field of Python's object (Modules/_ssl.c, PySSLContext)."""
    address = ctypes.c_void_p.from_address(id(context) + object.__basicsize__).value
    assert address is not None
    return address
