"""What a call to a server asks of whoever drives it: calls are written once, without I/O, and driven by both clients.

A call is a generator that yields steps. Its driver does each one, waits where that takes waiting, and sends back what came of
it; what the step raised, it raises where the step was yielded. So the generator says when a stream is opened, what its answers
mean, when another attempt is made and when the call has failed; the driver knows gRPC, threads or an event loop, and nothing
of tensors. `inserts.py`, `reads.py` and `calls.py` have the calls, `remote.py` and `aio_remote.py` the drivers.

A call that is ended from outside, by Ctrl-C, by a cancelled task or because nobody wants the rest, is told by what ended it,
raised at its last step. It may still yield steps then, to leave nothing at the server.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeAlias, TypeVar

from google.protobuf.message import DecodeError

from tensorus._grpc import tracing
from tensorus._grpc.servers import is_servers_fault
from tensorus._request_ids import current_id
from tensorus.errors import InternalError
from tensorus_protos.framing import MalformedMessageError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from google.protobuf.message import Message

    from tensorus._connection import Connection
    from tensorus._grpc.patience import Patience
    from tensorus._grpc.servers import Server, Servers
    from tensorus.errors import TensorusError

__all__ = [
    "Ask",
    "AttemptFailedError",
    "Call",
    "Close",
    "Driver",
    "Give",
    "Open",
    "Pause",
    "Read",
    "Send",
    "Step",
    "Steps",
    "Work",
    "as_answer",
]

B = TypeVar("B", bound="Backend")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
R = TypeVar("R")

_KEYS = ("dataset", "name", "request_id")
"""Fields of requests that say what they are about; the first that is set counts."""


def _path(service: str, method: str) -> str:
    return f"/tensorus.v1.{service}/{method}"


@dataclass(frozen=True)
class Call(Generic[T]):
    """One short call: a request, and one answer."""

    name: str
    request: Message
    parse: Callable[[bytes], Any]
    """The answer from its bytes. `Any`: a message of the type that `value` takes."""
    value: Callable[[Any], T]
    """What the answer says."""
    repeat: Callable[[Any], T] | None = None
    """What the answer to another attempt says, after one whose outcome is unknown; None: the call must not be repeated."""
    timeout_s_max: float = math.inf
    """Of an attempt, where the client allows more."""
    timeout_s_min: float = 0.0
    """Of an attempt that may take long, where the client allows less."""
    service: str = "TensorService"

    @property
    def path(self) -> str:
        """The method as gRPC names it."""
        return _path(self.service, self.name)

    @property
    def key(self) -> str:
        """What it is about, by which its server is chosen: a dataset, or an insert."""
        return next((found for name in _KEYS if (found := getattr(self.request, name, ""))), "")

    def timeout_s(self, wanted_s: float) -> float:
        """Return the timeout of an attempt, where the client allows `wanted_s`."""
        return max(min(wanted_s, self.timeout_s_max), self.timeout_s_min)


@dataclass(frozen=True)
class Send:
    """Make one attempt of a short call; the reply is its answer as bytes, or `AttemptFailedError`."""

    call: Call[Any]  # `Any`: what it answers is its caller's


@dataclass(frozen=True)
class Ask:
    """Make a short call, as often as it takes; the reply is what it answers."""

    call: Call[Any]  # `Any`: as above


@dataclass(frozen=True)
class Open:
    """Begin a stream, and end the one before; may raise `AttemptFailedError`. The last one ends with the call."""

    name: str
    requests: bytes | Iterator[bytes]
    """The only one, or all of them, which may take long to make."""
    key: str
    """What it is about, by which its server is chosen: all streams with this key go to the same one, while it works."""

    @property
    def path(self) -> str:
        """The method as gRPC names it."""
        return _path("TensorService", self.name)


@dataclass(frozen=True)
class Read:
    """Wait for the stream's next answer; the reply is its bytes, None at the end of the stream, or `AttemptFailedError`."""


@dataclass(frozen=True)
class Give(Generic[T_co]):
    """Hand values to the caller, who may have them taken one by one. Making them may take long."""

    values: Iterable[T_co]


@dataclass(frozen=True)
class Pause:
    """Wait before another attempt; the reply is how many have failed. Where there is to be no other, `error` is raised."""

    error: TensorusError
    """Why the last attempt failed."""
    place: tuple[int, ...]
    """How far the call is: see `Patience`."""


@dataclass(frozen=True)
class Work:
    """Call a function that may take long, or wait for someone else; the reply is what it returns."""

    function: Callable[[], Any]  # `Any`: the call knows


@dataclass(frozen=True)
class Close:
    """End the stream, if there is one."""


Step: TypeAlias = "Send | Ask | Open | Read | Give[T] | Pause | Work | Close"
Steps: TypeAlias = "Generator[Step[T], Any, R]"
"""A call that gives the caller `T`s, and returns an `R`. `Any`: each step says what its reply is."""


class AttemptFailedError(Exception):
    """The connection broke, or the server refused. Raised by drivers, for the call alone: `error` is what its caller gets."""

    def __init__(self, error: TensorusError, cause: BaseException) -> None:
        """Say so by an error of ours, and what gRPC raised."""
        super().__init__(str(error))
        self.error = error
        error.__cause__ = cause


class Backend(Protocol):
    """What a driver has to know of its client."""

    servers: Servers
    connection: Connection
    heard: bool
    """Whether any server has answered: until then, the address may be wrong."""
    closed: bool

    def failed(self, server: Server, error: TensorusError) -> None:
        """Note that a call to a server has failed."""


class Driver(Generic[B, T, R]):
    """One call on its way: what both drivers share."""

    patience: Patience
    result: R
    """What it returned, once it has ended."""

    def __init__(self, backend: B, steps: Steps[T, R]) -> None:
        """Stand before the first step."""
        self._backend = backend
        self._steps = steps
        self._stream: Any = None  # `Any`: a call of gRPC's; without serializers the stubs cannot tell
        self._server: Server | None = None
        self._failures = 0
        self._request_id: str | None = None
        self._span: tracing.CallSpan | None = None
        self._is_begun = False

    @property
    def _has_ended(self) -> bool:
        """Whether the call has ended: what it raised is then its result, or its error."""
        return self._steps.gi_frame is None  # type: ignore[attr-defined]  # every generator has it

    def _begin(self, path: str) -> None:
        """Note that an attempt of the method with this path begins."""
        if not self._is_begun:
            self._is_begun, self._span = True, tracing.begin(path)

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        """Return the metadata of an attempt. All attempts of a call have the same id; each has the token of its time.

        Raises:
            ValueError: the user's function returned no token.
        """
        if self._request_id is None:
            self._request_id = current_id()
        found = self._backend.connection.metadata(self._request_id)
        return found if self._span is None else (*found, *self._span.metadata)

    def _sent_to(self, server: Server) -> Server:
        """Note which server the attempt goes to, and return it."""
        self._server, self._failures = server, server.failures
        if self._span is not None:
            self._span.sent_to(server)
        return server

    def _heard(self) -> None:
        """Note that the server has answered."""
        self._backend.heard = True
        if self._server is not None:
            self._backend.servers.answered(self._server, self._failures)

    def _failed(self, error: TensorusError, cause: BaseException) -> AttemptFailedError:
        """Note that the attempt has failed, and return how the call is told."""
        if self._request_id is not None:
            # A server that could say nothing, or a proxy, has not.
            error.facts.setdefault("request_id", self._request_id)
        if self._server is not None:
            self._backend.failed(self._server, error)
        if error.reason == "RATE_LIMITED":
            self._backend.heard = True
        if self._span is not None:
            self._span.attempt_failed(error)
        return AttemptFailedError(error, cause)

    def _wait_s(self, pause: Pause) -> float:
        """Return how long to wait before another attempt: not at all if it is the next server's turn.

        Raises:
            TensorusError: that of the last attempt, where there is to be no other.
        """
        backend, others = self._backend, self._backend.servers.count - 1
        if backend.closed or (not backend.heard and self.patience.at_same_place >= others):
            raise pause.error
        wait_s = self.patience.wait_s(pause.error, pause.place)
        # Each server is asked once at once; then they are all waited for, so that nobody hammers them.
        is_next = self.patience.at_same_place <= others and is_servers_fault(pause.error)
        return 0.0 if is_next else wait_s

    def _close(self) -> None:
        """End the stream: whoever ends a call early wants no answer, and the server would go on for it."""
        if self._stream is not None:
            self._stream.cancel()
            self._stream = None

    def _end(self) -> None:
        """End the stream, and the call with what is being raised, if anything is."""
        self._close()
        if self._span is not None:
            self._span.end(sys.exception())
            self._span = None


class as_answer:  # noqa: N801 - a context manager
    """Turns what parsing an answer raises into an error of ours. A class: it takes a third of the time of a generator."""

    def __init__(self, call: str) -> None:
        """Parse an answer of `call`."""
        self._call = call

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        """Raise the error of ours."""
        if isinstance(error, (MalformedMessageError, DecodeError)):
            raise InternalError(f"an answer of {self._call} is no message of the contract: {error}") from error
