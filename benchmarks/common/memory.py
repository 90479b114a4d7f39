"""Touches the machine's memory before anything is measured."""

from __future__ import annotations

import numpy as np
import psutil

from common.settings import MIB

__all__ = ["warm_up"]

MEBIBYTES_MAX = 8 * 1024


def warm_up(mebibytes: int) -> None:
    """Touch as much memory as the runs will use, at most half of the free memory, and release it.

    On a virtual machine, the first access to memory that was never used costs several times more than later ones.
    """
    free = psutil.virtual_memory().available // 2 // MIB
    np.full(min(mebibytes, free, MEBIBYTES_MAX) * MIB, 1, np.uint8)
