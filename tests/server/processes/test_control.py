"""Messages between two processes arrive whole, and the end of one is noticed by the other."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tensorus_server.processes.control import Channel, Kind, Message

WAIT_S = 10.0


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    one, other = Channel.pair()
    two = Channel(other)
    yield one, two
    one.close()
    two.close()


@pytest.mark.parametrize(
    "message",
    [
        Message(Kind.READY),
        Message(Kind.FAILED, 'cannot open "a\nb": \udcff \N{SNOWMAN}'),
        Message(Kind.NEWER, "x" * 128, 2**63 - 1),
        Message(Kind.FAILED, "x" * 10_000),
    ],
    ids=["without a text", "with any text", "with a large ticket", "long"],
)
def test_a_message_arrives_as_it_was_sent(ends: tuple[Channel, Channel], message: Message) -> None:
    one, two = ends
    assert one.send(message)
    assert two.receive() == message


def test_messages_arrive_in_order_each_by_itself(ends: tuple[Channel, Channel]) -> None:
    one, two = ends
    sent = [Message(Kind.NEWER, str(number), number) for number in range(20)]
    assert all(map(one.send, sent))
    assert [two.receive() for _ in sent] == sent


def test_the_end_comes_after_what_was_said_before(ends: tuple[Channel, Channel]) -> None:
    one, two = ends
    # Not read by the one that ends, which the other one is told of in a way of its own.
    assert two.send(Message(Kind.STOP))
    assert one.send(Message(Kind.FAILED, "why"))
    one.close()
    assert [two.receive(), two.receive(), two.receive()] == [Message(Kind.FAILED, "why"), None, None]
    assert not two.send(Message(Kind.STOP))


def test_sending_never_waits(ends: tuple[Channel, Channel]) -> None:
    one, two = ends
    sent = 0
    while one.send(Message(Kind.STOP)):
        sent += 1
        assert sent < 1_000_000
    assert two.receive() == Message(Kind.STOP)
    assert one.send(Message(Kind.READY))


def test_a_child_inherits_its_end_and_does_not_pass_it_on() -> None:
    source = """
import os, sys
from tensorus_server.processes.control import Channel, Kind, Message
channel = Channel.inherited(int(sys.argv[1]))
channel.send(Message(Kind.READY, str(os.get_inheritable(channel.fileno()))))
channel.receive()
"""
    ours, theirs = Channel.pair()
    assert not os.get_inheritable(ours.fileno())
    with theirs:
        child = subprocess.Popen(
            [sys.executable, "-c", source, str(theirs.fileno())], pass_fds=[theirs.fileno()], stderr=subprocess.PIPE
        )
    assert ours.receive() == Message(Kind.READY, "False")
    child.kill()
    assert ours.receive() is None
    child.communicate(timeout=WAIT_S)
    ours.close()


def test_a_channel_is_waited_for_by_its_descriptor() -> None:
    end, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with other:
        channel = Channel(end)
        assert channel.fileno() == end.fileno()
        channel.close()
        channel.close()
