"""One call as everything around the methods sees it: who makes it, what it may do, what it moved, and how it ended.

    arrived → who calls → admitted → may it? → the method → ended, and observers are told

`interceptors.py` goes through these steps for every call.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from tensorus_server.access.rights import EVERYTHING, LOCAL_CALLER, Rights

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import grpc
    from google.protobuf.message import Message

    from tensorus_server.access.rights import Caller, Role
    from tensorus_server.meters import Trace
    from tensorus_server.rpc.admission import Admission

__all__ = ["Call", "CallObserver", "Gate"]

CALL_ID_HEADER = "x-request-id"
_CALL_ID_CHARACTERS_MAX = 128


class CallObserver(Protocol):
    """Is told of calls. Must be fast, must not raise, and is called on the calls' threads."""

    def began(self, call: Call) -> None:
        """Note that a call arrived; who makes it is not known yet."""

    def tensor(self, call: Call, tensor_id: str, error: Exception | None) -> None:
        """Note the outcome of one tensor that an insert, a deletion or another change named."""

    def ended(self, call: Call, error: Exception | None) -> None:
        """Note that a call ended, and the error that made it fail."""


class Call:
    """One call. Written by the threads of the call alone."""

    __slots__ = (
        "_context",
        "_gate",
        "caller",
        "dataset",
        "inserted_bytes",
        "method",
        "read_bytes",
        "received_bytes",
        "sent_bytes",
        "started_s",
        "tensors",
        "trace",
    )

    def __init__(self, method: str, gate: Gate, context: grpc.ServicerContext) -> None:
        """Note when the call arrived."""
        self.method = method
        """For example "Insert"."""
        self._gate = gate
        self._context = context
        self.started_s = time.monotonic()
        self.caller: Caller = LOCAL_CALLER
        """Who makes the call, once that is known."""
        self.dataset = ""
        """The dataset that it is about; empty: none, or not known yet."""
        self.tensors = 0
        """Tensors that it inserted, read or changed."""
        self.received_bytes = 0
        """Of messages, as gRPC delivers them."""
        self.sent_bytes = 0
        self.inserted_bytes = 0
        """Canonical bytes of the values that it received to store."""
        self.read_bytes = 0
        """Canonical bytes of the values that it sent, after slices and casts."""
        self.trace: Trace | None = None
        """Is told of its stages; None: nobody traces the call."""

    @property
    def peer(self) -> str:
        """The client's address, as gRPC writes it, such as "ipv4:127.0.0.1:40312"."""
        return self._context.peer()

    @property
    def call_id(self) -> str:
        """The id that the client gave the call in its metadata; empty: none, or one that is not allowed."""
        for name, value in self._context.invocation_metadata():
            if name == CALL_ID_HEADER and isinstance(value, str):
                return value if len(value) <= _CALL_ID_CHARACTERS_MAX and value.isprintable() else ""
        return ""

    @property
    def is_cancelled(self) -> bool:
        """Whether the client went away before the end; says so only at the end of a call without an error."""
        return not self._context.is_active()

    def header(self, name: str) -> str:
        """Return what the client's metadata have under a name; empty: nothing."""
        for key, value in self._context.invocation_metadata() or ():
            if key == name and isinstance(value, str):
                return value
        return ""

    def received(self, message: bytes) -> bytes:
        """Count a message that arrived, and return it."""
        self.received_bytes += len(message)
        return message

    def count_read(self, canonical_bytes: int) -> None:
        """Count values that are sent."""
        self.read_bytes += canonical_bytes

    def may(self, role: Role, dataset: str) -> bool:
        """Return whether the caller has a role on a dataset."""
        return self._gate.rights().allows(self.caller, role, dataset)

    def require(self, role: Role, dataset: str) -> None:
        """Check that the caller has a role on a dataset, now.

        Raises:
            PermissionDeniedError: it has not.
        """
        self._gate.rights().require(self.caller, role, dataset)

    def note_tensor(self, tensor_id: str, error: Exception | None) -> None:
        """Tell the observers of the outcome of one tensor."""
        self.tensors += error is None
        for observer in self._gate.observers:
            observer.tensor(self, tensor_id, error)


class Gate:
    """What every call has to pass, and who is told of it."""

    def __init__(
        self,
        admission: Admission,
        *,
        authenticate: Callable[[grpc.ServicerContext], Caller] = lambda _: LOCAL_CALLER,
        rights: Callable[[], Rights] = Rights,
        observers: Sequence[CallObserver] = (),
    ) -> None:
        """Let calls pass.

        Args:
            admission: limits how many there are.
            authenticate: returns who makes a call; raises `UnauthenticatedError`.
            rights: returns the rights that hold now.
            observers: told of every call.
        """
        self.admission = admission
        self._authenticate = authenticate
        self.rights = rights
        self.observers = tuple(observers)

    def arrived(self, method: str, context: grpc.ServicerContext) -> Call:
        """Return a call that has just arrived."""
        call = Call(method, self, context)
        for observer in self.observers:
            observer.began(call)
        return call

    def identify(self, call: Call, context: grpc.ServicerContext) -> None:
        """Find out who makes the call.

        Raises:
            UnauthenticatedError: nobody that is known.
        """
        call.caller = self._authenticate(context)

    def authorize(self, call: Call, request: Message, needs: Callable[[Message], Sequence[tuple[Role, str]]]) -> None:
        """Check that the caller has the rights that a request needs.

        Raises:
            PermissionDeniedError: it lacks one.
        """
        needed = needs(request)
        if needed and needed[0][1] != EVERYTHING:
            call.dataset = needed[0][1]
        if not call.caller.is_local:
            rights = self.rights()
            for role, dataset in needed:
                rights.require(call.caller, role, dataset)

    def ended(self, call: Call, error: Exception | None) -> None:
        """Tell the observers that a call ended."""
        for observer in self.observers:
            observer.ended(call, error)
