"""Assemblers of tensors, which decode on threads or where the tensors are taken."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tensorus._arrays.assemble import Assembler


@pytest.fixture(params=[2, 0], ids=["on threads", "by who takes"])
def assembler(request: pytest.FixtureRequest) -> Iterator[Assembler]:
    made = Assembler(request.param)
    yield made
    made.close()


@pytest.fixture
def threaded() -> Iterator[Assembler]:
    """An assembler that decodes on threads."""
    made = Assembler(2)
    yield made
    made.close()
