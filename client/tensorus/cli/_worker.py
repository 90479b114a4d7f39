"""A worker process of `tensorus serve --workers`. Only the supervisor starts it."""

from __future__ import annotations

import logging
import os
import sys

from tensorus._allocator import tune_allocator
from tensorus._missing import engine_missing
from tensorus_server.config import ServerConfig
from tensorus_server.processes.control import Channel, Kind, Message
from tensorus_server.processes.supervisor import SETTINGS

__all__ = ["main"]


def main(level: str, descriptor: str) -> int:
    """Serve with the settings in the environment variable `SETTINGS`, and return the exit code of the process.

    Args:
        level: log level.
        descriptor: file descriptor of the connection to the supervisor.
    """
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s [%(process)d] %(name)s: %(message)s")
    tune_allocator(arenas_max=2)
    channel = Channel.inherited(int(descriptor))
    try:
        from tensorus_server.errors import StoreUnavailableError  # noqa: PLC0415 - a missing library is reported to the supervisor
        from tensorus_server.processes.worker import work  # noqa: PLC0415
    except ImportError as error:
        channel.send(Message(Kind.NOT_INSTALLED, str(engine_missing(error))))
        return 1
    try:
        work(ServerConfig.from_json(os.environ.pop(SETTINGS)), channel)
    except StoreUnavailableError:
        # `work` has told the supervisor, which logs the error.
        return 4
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
