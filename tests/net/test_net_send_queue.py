"""What the kernel says of bytes that are on their way."""

from __future__ import annotations

import socket

from hotproxy.net.send_queue import unacknowledged_bytes
from tests.kit.instance import eventually


def test_what_the_peers_kernel_has_not_confirmed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        ours = socket.create_connection(listening.getsockname())
        theirs, _ = listening.accept()
    with ours, theirs:
        assert unacknowledged_bytes(ours) == 0
        ours.setblocking(False)
        theirs.setblocking(False)
        sent = received = 0
        try:
            while True:
                sent += ours.send(bytes(100_000))
        except BlockingIOError:
            pass
        assert 0 < unacknowledged_bytes(ours) <= sent
        while received < sent:
            try:
                received += len(theirs.recv(100_000))
            except BlockingIOError:
                pass
        eventually(lambda: unacknowledged_bytes(ours) == 0, "the last acknowledgement")


def test_a_unix_socket_has_delivered_what_it_has_taken() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.send(b"x")
        assert unacknowledged_bytes(ours) == 0
        ours.close()
        assert theirs.recv(10) == b"x"
