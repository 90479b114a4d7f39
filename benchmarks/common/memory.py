"""Memory of the machine before anything is measured."""

from __future__ import annotations

import numpy as np
import psutil

from common.settings import MIB

__all__ = ["warm_up"]

MEBIBYTES_MAX = 8 * 1024


def warm_up(mebibytes: int) -> None:
    """Touch as much memory as the runs will use, half of what is free at most, and give it back.

    On a virtual machine the first touch of memory that it never used costs several times more than later ones.
    """
    free = psutil.virtual_memory().available // 2 // MIB
    np.full(min(mebibytes, free, MEBIBYTES_MAX) * MIB, 1, np.uint8)
