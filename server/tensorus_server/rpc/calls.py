"""One call as everything around the methods sees it: who makes it, what it may do, what it moved, and how it ended.

    arrived → who calls → admitted → may it? → the method → ended, and observers are told

`interceptors.py` goes through these steps for every call.
"""

from __future__ import annotations

import secrets
import time
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Protocol

from tensorus_server.access.rights import EVERYTHING, LOCAL_CALLER, Caller, Rights

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import grpc
    from google.protobuf.message import Message

    from tensorus_server.access.rights import Role
    from tensorus_server.errors import StreamStalledError
    from tensorus_server.meters import Trace
    from tensorus_server.rpc.admission import Admission, Place
    from tensorus_server.rpc.quotas import Budget, Quotas

__all__ = ["OK", "Call", "CallObserver", "Gate", "TensorObserver"]

CALL_ID_HEADER = "x-request-id"
_CALL_ID_CHARACTERS_MAX = 128

OK = "OK"
"""The outcome of what did not fail; that of what failed is the reason of its error."""

_UNKNOWN_CALLER = Caller("unknown:")
"""Whoever makes a call, until authentication has found out."""


class CallObserver(Protocol):
    """Is told of calls. Must be fast, must not raise, and is called on the calls' threads."""

    def began(self, call: Call) -> None:
        """Note that a call arrived; who makes it is not known yet."""

    def ended(self, call: Call, error: Exception | None) -> None:
        """Note that a call ended, and the error that made it fail. It was not told to the client yet."""


class TensorObserver(Protocol):
    """Is told of every tensor that a call changes, before the client is. Like a `CallObserver` otherwise."""

    def tensors(self, call: Call, outcomes: Sequence[tuple[str, str]]) -> None:
        """Note tensors that an insert, a deletion or another change named: ids, each with its outcome, `OK` or a reason."""


class Call:
    """One call. Written by the threads of the call alone."""

    __slots__ = (
        "_call_id",
        "_context",
        "_gate",
        "_touch",
        "caller",
        "cut_by",
        "dataset",
        "details",
        "failure_number",
        "inserted_bytes",
        "method",
        "read_bytes",
        "received_bytes",
        "request",
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
        self._touch: Callable[[], None] | None = None
        """Set for streams whose bandwidth is limited."""
        self.request: Message | None = None
        """Of a call with one request, once its rights were checked."""
        self.details: Mapping[str, str] | None = None
        """What the request does not say of a change, such as the id of a new token, for the audit log. Never a secret."""
        self.cut_by: Exception | None = None
        """Why the server cancelled the call; its client gets no reason."""
        self.failure_number = ""
        """The number of an unexpected error that made it fail."""
        self._call_id = ""
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
        """The id that the client gave the call in its metadata, or, if it gave none or one that is not allowed, a new one."""
        if not self._call_id:
            given = self.header(CALL_ID_HEADER)
            is_allowed = 0 < len(given) <= _CALL_ID_CHARACTERS_MAX and given.isascii() and given.isprintable()
            self._call_id = given if is_allowed else secrets.token_hex(6)
        return self._call_id

    @property
    def credential(self) -> str:
        """The kind of credential that the client showed, never its value: "token", "JWT", "certificate", "other" or "none"."""
        scheme, _, shown = self.header("authorization").partition(" ")
        if not scheme:
            return "certificate" if self._context.auth_context().get("x509_common_name") else "none"
        if scheme.lower() != "bearer":
            return "other"
        return "token" if shown.startswith("tns_") else "JWT" if shown.count(".") == 2 else "other"

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

    def fields(self) -> dict[str, str | int | float]:
        """Return what every line about the call has in the log."""
        found: dict[str, str | int | float] = {
            "method": self.method,
            # Without the kind, and without the escapes of an IPv6 address.
            "peer": self.peer.partition(":")[2].replace("%5B", "[").replace("%5D", "]"),
            "principal": self.caller.principal,
            "request_id": self.call_id,
        }
        if self.dataset:
            found["dataset"] = self.dataset
        return found

    def received(self, message: bytes) -> bytes:
        """Count a message of a stream that arrived, and return it; waits if the caller's bandwidth is used up."""
        self.received_bytes += len(message)
        if self._touch is not None:
            self._pass(len(message), self._touch)
        return message

    def sent(self, message: bytes) -> bytes:
        """Count a message of a stream that is to be sent, and return it; waits as `received` does."""
        self.sent_bytes += len(message)
        if self._touch is not None:
            self._pass(len(message), self._touch)
        return message

    def limit_bandwidth(self, touch: Callable[[], None]) -> None:
        """Keep the stream within its caller's bandwidth from now on, if that is limited.

        Args:
            touch: called while the stream waits for that, which is no silence of the client.
        """
        quotas = self._gate.quotas
        if quotas is not None and quotas.limits_bandwidth(self.caller.principal):
            self._touch = touch

    def budget_of(self, dataset: str) -> Budget | None:
        """Return what may be stored in a dataset; None: nothing limits that."""
        return None if self._gate.quotas is None else self._gate.quotas.budget_of(dataset)

    def _pass(self, count: int, touch: Callable[[], None]) -> None:
        def is_active() -> bool:
            touch()
            return self._context.is_active()

        assert self._gate.quotas is not None
        self._gate.quotas.pass_bytes(self.caller.principal, count, is_active)

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

    @property
    def wants_tensors(self) -> bool:
        """Whether anybody is to be told of tensors."""
        return bool(self._gate.tensor_observers)

    def note_tensors(self, outcomes: Sequence[tuple[str, str]]) -> None:
        """Tell what became of tensors that the call changed or meant to change: ids, each with `OK` or a reason."""
        for observer in self._gate.tensor_observers:
            observer.tensors(self, outcomes)


class Gate:
    """What every call has to pass, and who is told of it."""

    def __init__(
        self,
        admission: Admission,
        *,
        authenticate: Callable[[grpc.ServicerContext], Caller] = lambda _: LOCAL_CALLER,
        rights: Callable[[], Rights] = Rights,
        quotas: Quotas | None = None,
        observers: Sequence[CallObserver] = (),
        tensor_observers: Sequence[TensorObserver] = (),
    ) -> None:
        """Let calls pass.

        Args:
            admission: limits how many there are.
            authenticate: returns who makes a call; raises `UnauthenticatedError`.
            rights: returns the rights that hold now.
            quotas: keeps callers within theirs; None: nobody has one.
            observers: told of every call.
            tensor_observers: told of every tensor that a call changes.
        """
        self.admission = admission
        self._authenticate = authenticate
        self.rights = rights
        self.quotas = quotas
        self.observers = tuple(observers)
        self.tensor_observers = tuple(tensor_observers)

    def arrived(self, method: str, context: grpc.ServicerContext) -> Call:
        """Return a call that has just arrived."""
        call = Call(method, self, context)
        for observer in self.observers:
            observer.began(call)
        return call

    def identify(self, call: Call, context: grpc.ServicerContext) -> None:
        """Find out who makes the call, and count it.

        Raises:
            UnauthenticatedError: nobody that is known.
            RateLimitedError: the caller makes too many.
        """
        call.caller = _UNKNOWN_CALLER
        call.caller = self._authenticate(context)
        if self.quotas is not None:
            self.quotas.admit(call.caller.principal)

    @contextmanager
    def stream(
        self, call: Call, end: Callable[[StreamStalledError], None], *, is_active: Callable[[], bool]
    ) -> Iterator[Place]:
        """Admit a stream for the duration of the block; see `Admission.stream`.

        Raises:
            RateLimitedError: the caller has too many open.
        """
        counted = nullcontext() if self.quotas is None else self.quotas.stream(call.caller.principal)
        with counted, self.admission.stream(end, is_active=is_active) as place:
            call.limit_bandwidth(place.touch)
            yield place

    def authorize(self, call: Call, request: Message, needs: Callable[[Message], Sequence[tuple[Role, str]]]) -> None:
        """Check that the caller has the rights that a request needs.

        Raises:
            PermissionDeniedError: it lacks one.
        """
        call.request = request
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
