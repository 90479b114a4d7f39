"""`python -m tensorus`: the command line."""

from __future__ import annotations

from tensorus.cli import main

main()
