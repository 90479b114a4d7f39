"""The command group, and the exit codes of errors."""

from __future__ import annotations

import sys
from typing import Any

import click

from tensorus._version import __version__
from tensorus.cli._output import print_error
from tensorus.cli.backup import backup
from tensorus.cli.bench import bench
from tensorus.cli.check_store import check_store
from tensorus.cli.copies import cp, mv
from tensorus.cli.copy import copy
from tensorus.cli.df import df
from tensorus.cli.edit import append, write
from tensorus.cli.explain import explain
from tensorus.cli.gc import gc
from tensorus.cli.get import get
from tensorus.cli.history import drop_snapshot, restore, retention, snapshot, snapshots
from tensorus.cli.import_ import import_
from tensorus.cli.info import info
from tensorus.cli.ls import ls
from tensorus.cli.put import put
from tensorus.cli.recover import recover
from tensorus.cli.rights import chown, grant, grants, quota, quotas, revoke
from tensorus.cli.rm import rm
from tensorus.cli.serve import serve
from tensorus.cli.stats import stats
from tensorus.cli.status import status
from tensorus.cli.tls import tls
from tensorus.cli.token import token
from tensorus.cli.verify import verify
from tensorus.errors import NotFoundError, TensorusError, UnavailableError

__all__ = ["app"]

EXIT_FAILED = 1
EXIT_NOT_FOUND = 3
EXIT_UNAVAILABLE = 4


class _App(click.Group):
    """Prints errors as one line, and ends with their exit code."""

    def invoke(self, context: click.Context) -> Any:  # `Any`: as in click; commands return nothing
        """Run the command."""
        try:
            return super().invoke(context)
        except BrokenPipeError:
            # The reader closed the pipe, as `head` does. Click then ends the process silently.
            raise
        except UnavailableError as error:
            print_error(error)
            sys.exit(EXIT_UNAVAILABLE)
        except NotFoundError as error:
            print_error(error)
            sys.exit(EXIT_NOT_FOUND)
        except (TensorusError, OSError, ValueError, TypeError, IndexError, ImportError, MemoryError) as error:
            print_error(error)
            sys.exit(EXIT_FAILED)


@click.group(cls=_App, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="tensorus")
def app() -> None:
    """Store tensors and read them back.

    \b
    Example:
      tensorus serve --data-dir ./data &
      tensorus put weights model.safetensors --preset balanced
      tensorus ls weights
      tensorus get weights -o back.safetensors

    \b
    Commands use the server at 127.0.0.1:7733. To use another, pass --server HOST:PORT, with TLS
    --server grpcs://HOST:PORT, or set TENSORUS_ADDRESS. Its token comes from --token-file,
    TENSORUS_TOKEN or a profile in ~/.config/tensorus/config.toml (--profile). --store DIR works on
    a folder, without a server. explain and import --dry-run need neither.

    \b
    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 server unavailable,
    5 imported without some metadata.
    """  # noqa: D301 - click's mark for lines that are not rewrapped


for _command in (
    *(
        serve,
        put,
        append,
        write,
        get,
        ls,
        info,
        stats,
        cp,
        mv,
        rm,
        snapshot,
        snapshots,
        drop_snapshot,
        restore,
        retention,
    ),
    *(explain, bench, import_, copy, backup, status, df, gc, verify, recover, check_store),
    *(tls, token, grant, revoke, grants, quota, quotas, chown),
):
    app.add_command(_command)
