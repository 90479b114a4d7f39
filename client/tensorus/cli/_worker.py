"""A worker process of `tensorus serve --workers`. Only the supervisor starts it."""

from __future__ import annotations

import os
import sys

from tensorus._allocator import tune_allocator
from tensorus._missing import engine_missing
from tensorus_server.config import ServerConfig
from tensorus_server.logs.setup import log_to_stderr
from tensorus_server.processes.control import Channel, Kind, Message
from tensorus_server.processes.supervisor import SETTINGS

__all__ = ["main"]


def main(descriptor: str) -> int:
    """Serve with the settings in the environment variable `SETTINGS`, and return the exit code of the process.

    Args:
        descriptor: file descriptor of the connection to the supervisor.
    """
    config = ServerConfig.from_json(os.environ.pop(SETTINGS))
    log_to_stderr(config.logs, names_process=True)
    tune_allocator(arenas_max=2)
    channel = Channel.inherited(int(descriptor))
    try:
        from tensorus_server.errors import StoreUnavailableError  # noqa: PLC0415 - a missing library is reported to the supervisor
        from tensorus_server.processes.worker import work  # noqa: PLC0415
    except ImportError as error:
        channel.send(Message(Kind.NOT_INSTALLED, str(engine_missing(error))))
        return 1
    try:
        work(config, channel)
    except StoreUnavailableError:
        # `work` has told the supervisor, which logs the error.
        return 4
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
