"""What a channel makes of packets, descriptors and states that are not as they should be."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator

import pytest

from hotproxy.restarter.frames import Channel, ChannelClosed, ChannelStarved, DescriptorsLost, FrameError


@pytest.fixture
def pair() -> Iterator[tuple[Channel, Channel]]:
    before = len(os.listdir("/proc/self/fd"))
    ours, theirs = Channel.pair()
    yield ours, theirs
    for channel in (ours, theirs):
        channel.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_empty_packet_is_no_end(pair: tuple[Channel, Channel]) -> None:
    """`recvmsg` gives the same for both. Who gives connections takes a wave back at the end of its channel; the other
    side was alive, and said COMMITTED behind the empty packet."""
    ours, theirs = pair
    theirs.sock.send(b"")
    theirs.send("COMMITTED", {"wave": 1})
    with pytest.raises(FrameError, match="empty"):
        ours.receive()
    message = ours.receive()
    assert message is not None and message.kind == "COMMITTED"
    assert ours.receive() is None


@pytest.mark.parametrize("how", ["close", "shutdown"])
def test_an_end_is_an_end(pair: tuple[Channel, Channel], how: str) -> None:
    ours, theirs = pair
    theirs.send("COMMITTED", {"wave": 1})
    theirs.close() if how == "close" else theirs.sock.shutdown(socket.SHUT_WR)
    assert ours.receive() is not None
    for _ in range(2):
        with pytest.raises(ChannelClosed):
            ours.receive()


def test_a_state_that_finds_no_memory_waits_like_anything_else(pair: tuple[Channel, Channel]) -> None:
    """A large state lies in a memfd. When it could not be made the frame was tried again, but not when it could not be
    written: that was an exception in the middle of a wave."""
    ours, theirs = pair
    fields = {"wave": 1, "last": True, "records": [b"x" * 1_000_000]}
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)  # a memfd obeys it too
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, limit[1]))
    try:
        with pytest.raises(ChannelStarved):
            ours.send("OFFER", fields)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert theirs.receive() is None
    ours.send("OFFER", fields)
    message = theirs.receive()
    assert message is not None and message.fields == fields


def test_a_message_whose_descriptors_are_lost_says_what_it_was(pair: tuple[Channel, Channel]) -> None:
    ours, theirs = pair
    fields = {"serial": 3, "pairs": [[1, 5]], "step_s": 1.0, "until_s": 2.0}
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    for sent in (fields, {**fields, "more": b"x" * 200_000}):  # the second one's fields are lost as well
        ours.send("GIVE", sent, [ours.fileno()] * 3)
        free = os.open("/dev/null", os.O_RDONLY)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, limit[1]))
        try:
            with pytest.raises(DescriptorsLost) as lost:
                theirs.receive()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limit)
        assert (lost.value.kind, lost.value.fields) == ("GIVE", fields if sent is fields else {})
