"""Writes a line to the log when a call ends: of each call that fails, and of each other one if the operator asks for it.

Lines of failures have a limit per reason (`log_rate.py`), unless every call has a line. The fields are those of
`docs/OPERATIONS.md`.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from tensorus_server.errors import reason_of
from tensorus_server.rpc.calls import OK
from tensorus_server.rpc.status import code_of, log_failure

if TYPE_CHECKING:
    from tensorus_server.logs.formats import Field
    from tensorus_server.rpc.calls import Call

__all__ = ["CANCELLED", "CallLog"]

CANCELLED = "CANCELLED"
"""The outcome of a call whose client went away before its end."""

_log = logging.getLogger("tensorus_server.calls")


class CallLog:
    """A `CallObserver`; see the module's description."""

    def __init__(self, *, every_call: bool) -> None:
        """Log failures.

        Args:
            every_call: whether to log the calls that succeed, too.
        """
        self._every_call = every_call

    def began(self, call: Call) -> None:
        """Do nothing: a call has its line at its end."""

    def ended(self, call: Call, error: Exception | None) -> None:
        """Log the end of a call."""
        if error is not None:
            reason = reason_of(error)
            fields = {"code": code_of(error).name, "reason": reason, **_measured(call)}
            log_failure(call, error, call.failure_number, fields, always=self._every_call)
        elif self._every_call and _log.isEnabledFor(logging.INFO):
            code = CANCELLED if call.is_cancelled else OK
            fields = {**call.fields(), "code": code, **_measured(call)}
            _log.info("%s: %s", call.method, code, extra={"fields": fields})


def _measured(call: Call) -> dict[str, Field]:
    return {
        "tensors": call.tensors,
        "duration_ms": round(1000 * (time.monotonic() - call.started_s), 3),
        "received_bytes": call.received_bytes,
        "sent_bytes": call.sent_bytes,
    }
