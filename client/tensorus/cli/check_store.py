"""tensorus check-store."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from tensorus.cli._engine import engine_errors
from tensorus.cli._options import json_option
from tensorus.cli._output import counted, print_json, print_table, print_text
from tensorus.cli._server_config import server_config
from tensorus.cli._setting_options import SettingsCommand, settings_options
from tensorus.cli._setting_sources import DEFAULT

if TYPE_CHECKING:
    from tensorus.cli._setting_sources import Chosen
    from tensorus_server.app.checking import Check

__all__ = ["check_store"]

_EXIT_UNAVAILABLE = 4
"""What `tensorus serve` would exit with."""


@click.command(cls=SettingsCommand)
@settings_options
@json_option
def check_store(chosen: tuple[Chosen, ...], *, as_json: bool) -> None:
    """Check whether a server with these settings could open its store, before it starts.

    Nothing is created or migrated. The port is checked if --listen, the environment or the file names it. An object store is
    tried as at every start: a few small objects are stored, and deleted again.

    The exit code is 0 if the server could start, also with warnings, and 4 if not.

    \b
    Examples:
      tensorus check-store --data-dir /srv/tensors
      tensorus check-store --config /etc/tensorus/server.toml --json
      tensorus check-store --catalogue postgresql://host/db --chunks s3://bucket/prefix
    """  # noqa: D301 - click's mark for lines that are not rewrapped
    config = server_config(chosen)
    with engine_errors():
        from tensorus_server.app.checking import Check  # noqa: PLC0415 - not part of the thin client
        from tensorus_server.processes.checking import check_server  # noqa: PLC0415 - likewise

        names_port = any(one.setting.name == "listen" and one.origin != DEFAULT for one in chosen)
        checks = [Check("settings", "ok", _origins(chosen)), *check_server(config, port=names_port)]
    failed = any(check.outcome == "failed" for check in checks)
    if as_json:
        print_json({"ok": not failed, "checks": [asdict(check) for check in checks]})
    else:
        _print(checks)
    if failed:
        sys.exit(_EXIT_UNAVAILABLE)


def _origins(chosen: tuple[Chosen, ...]) -> str:
    count = Counter(one.origin for one in chosen if one.origin not in {DEFAULT, one.setting.flag, one.setting.variable})
    parts = [f"{given} of {origin}" for origin, given in count.items()]
    flags = sum(one.origin == one.setting.flag for one in chosen)
    variables = sum(one.origin == one.setting.variable for one in chosen)
    parts += [counted(variables, "variable")] * bool(variables) + [counted(flags, "flag")] * bool(flags)
    return ", ".join(parts) or "the defaults"


def _print(checks: list[Check]) -> None:
    print_table(["check", "outcome", "detail"], ((check.name, check.outcome, check.detail) for check in checks))
    outcomes = Counter(check.outcome for check in checks)
    if outcomes["failed"]:
        print_text(f"{counted(outcomes['failed'], 'check')} failed: a server would not start.")
    else:
        also = f", with {counted(outcomes['warning'], 'warning')}" if outcomes["warning"] else ""
        print_text(f"A server can start{also}.")
