"""A gRPC channel to a server that each process creates on first use, and the channel options of both clients."""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from grpc.experimental import ChannelOptions

from tensorus._forks import leave_behind, watch
from tensorus._grpc.credentials import credentials_of
from tensorus.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tensorus._connection import Tls
    from tensorus._grpc.servers import Server
    from tensorus.errors import TensorusError

__all__ = ["REPLACED_MAX", "LazyChannel", "begun", "is_outdated", "options_for", "require_fork_support"]

T = TypeVar("T")

_MESSAGE_BYTES_MAX = 4 * 1024 * 1024
"""Of the contract."""

_OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.max_receive_message_length", _MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", _MESSAGE_BYTES_MAX),
    ("grpc.keepalive_time_ms", 60_000),
    # How soon a connection that broke is tried again: `Patience` decides how often.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # In spite of its name, how long one attempt to connect may take, TLS included: several round trips around the earth.
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.ping_timeout_ms", 20_000),
    # Two clients of one process do not share a connection: each gets its own share of the network.
    ("grpc.use_local_subchannel_pool", 1),
)

_SYNCHRONOUS: tuple[tuple[str, int], ...] = (
    # The thread that reads a stream also receives it, without a gRPC thread in between: a sixth less processor time for a get.
    (ChannelOptions.SingleThreadedUnaryStream, 1),
)

REPLACED_MAX = 8
"""Channels to one server that wait for their calls to end, after certificates have changed. Of more, the oldest is closed, and
what may still use it ends."""

_OFF = frozenset({"0", "f", "false", "n", "no"})
"""Values of an environment variable that gRPC treats as off."""


class LazyChannel:
    """One channel to one server per process. Thread-safe."""

    was_inherited = False
    """Whether this process was forked from one that had a channel."""

    def __init__(self, server: Server, tls: Tls | None = None) -> None:
        """Create no channel yet."""
        self._server = server
        self._tls = tls
        self._state: object = None
        self._replaced: list[grpc.Channel] = []
        self._lock = threading.Lock()
        self._channel: grpc.Channel | None = None
        self._closed = False
        watch(self)

    def after_fork(self) -> None:
        """See `ForkAware`."""
        self._lock = threading.Lock()
        if self._channel is not None or self._replaced:
            LazyChannel.was_inherited = True
            leave_behind((self._channel, self._replaced))
            self._channel, self._replaced = None, []

    def get(self) -> grpc.Channel:
        """Return the channel, which connects on first use.

        Raises:
            UnavailableError: the client is closed, or gRPC cannot work in this process.
        """
        with self._lock:
            if self._closed:
                raise UnavailableError("the client is closed", reason="UNAVAILABLE")
            if self._channel is None:
                require_fork_support()
                self._channel = self._made()
            return self._channel

    def failed(self, error: TensorusError) -> None:
        """Let the next call make a new channel, if this one failed to connect and its certificates have changed since."""
        with self._lock:
            if self._channel is not None and is_outdated(self._tls, self._state, error):
                # Not closed yet: other calls may still be using a connection that it has.
                self._replaced.append(self._channel)
                self._channel = None
                if len(self._replaced) > REPLACED_MAX:
                    self._replaced.pop(0).close()

    def close(self) -> None:
        """End all calls. Idempotent."""
        with self._lock:
            self._closed = True
            for channel in (self._channel, *self._replaced):
                if channel is not None:
                    channel.close()

    def _made(self) -> grpc.Channel:
        options = (*options_for(self._server), *_SYNCHRONOUS)
        if self._tls is None:
            return grpc.insecure_channel(self._server.target, options, grpc.Compression.NoCompression)
        # Before the files are read: what changes meanwhile is read again.
        self._state = self._tls.state()
        credentials = credentials_of(self._tls)
        return grpc.secure_channel(self._server.target, credentials, options, grpc.Compression.NoCompression)


def is_outdated(tls: Tls | None, state: object, error: TensorusError) -> bool:
    """Return whether a call may have failed because of certificates that have been replaced since.

    Args:
        state: of the files, when its channel was made.
        error: of the call.
    """
    return tls is not None and error.reason == "UNAVAILABLE" and tls.state() != state


def options_for(server: Server) -> tuple[tuple[str, int | str], ...]:
    """Return the options of a channel to a server."""
    return _OPTIONS if server.authority is None else (*_OPTIONS, ("grpc.default_authority", server.authority))


def begun(begin: Callable[[], T]) -> T:
    """Return the streaming call that `begin` starts, protected from Ctrl-C.

    An exception raised while gRPC starts a call orphans the call: the channel then never closes, and later streams on it hang.
    Signal handlers raise only in the main thread, so another thread starts the call.
    """
    if threading.current_thread() is not threading.main_thread():
        return begin()
    call: Future[T] = Future()

    def run() -> None:
        try:
            call.set_result(begin())
        except BaseException as error:  # noqa: BLE001 - raised in the waiting thread
            call.set_exception(error)

    try:
        threading.Thread(target=run, name="tensorus-begin", daemon=True).start()
        return call.result()
    except BaseException:
        call.add_done_callback(_end)
        raise


def _end(call: Future[Any]) -> None:
    """Cancel a call that nobody waits for any more, if it was started."""
    if call.exception() is None:
        call.result().cancel()


def require_fork_support() -> None:
    """Refuse to use gRPC if calls would wait forever.

    Raises:
        UnavailableError: this process was forked from one that used gRPC, while gRPC's fork support was switched off.
    """
    switch = os.environ.get("GRPC_ENABLE_FORK_SUPPORT", "")
    if LazyChannel.was_inherited and switch.lower() in _OFF:
        raise UnavailableError(
            f"gRPC was in use before this process was forked, and cannot work in the child because GRPC_ENABLE_FORK_SUPPORT is "
            f"{switch!r}: unset it, or start the child by spawn instead of fork",
            reason="UNAVAILABLE",
        )
