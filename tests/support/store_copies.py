"""What the tests of `tensorus copy` share: the command, what it reports, and comparing two stores."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import tensorus
from support.arrays import assert_same_bits
from support.client import run_command
from tensorus._moving.exact import STORED_BEFORE
from tensorus.embedded import EmbeddedBackend

__all__ = ["Meddling", "assert_copied", "copied", "sums"]


def copied(*arguments: object) -> dict[str, Any]:
    """Run the command, which succeeds, and return its report."""
    ran = run_command("copy", *arguments, "--json")
    assert ran.exit_code == 0, ran.errors
    found: dict[str, Any] = json.loads(ran.output)
    return found


def sums(report: dict[str, Any]) -> dict[str, int]:
    """Return the counts of a report that are not zero, over all datasets."""
    names = ("copied", "shared", "replaced", "updated", "present", "conflict", "failed", "gone")
    found = {name: sum(one[name] for one in report["datasets"]) for name in names}
    return {name: count for name, count in found.items() if count}


def assert_copied(source: tensorus.Client, copy: tensorus.Client, *datasets: str) -> None:
    """Fail unless the copy has the same tensors, bit for bit, and the same settings."""
    for name in datasets:
        one, other = source.dataset(name), copy.dataset(name)
        assert (one.policy, one.schema, one.retention) == (other.policy, other.schema, other.retention)
        infos = {info.id: info for info in copy.list(name)}
        assert infos.keys() == {info.id for info in source.list(name)}
        for record in source.query(name, as_="numpy"):
            info = infos[record.info.id]
            assert_same_bits(copy.get(name, info.id, as_="numpy"), record.tensor)
            metadata = sorted((key, value) for key, value in info.metadata.items() if key != STORED_BEFORE)
            assert repr(metadata) == repr(sorted(record.info.metadata.items())), info.id
            assert (STORED_BEFORE in info.metadata) == record.info.lossy, info.id
            assert info.relative_error == 0


class Meddling(EmbeddedBackend):
    """A source in which something happens right before tensors are read."""

    before_read: Callable[[list[str]], None] = staticmethod(lambda _: None)

    def get(self, dataset: str, ids: Any, part: Any, *, with_data: bool, at: Any = None) -> Any:
        """Let it happen, and read."""
        if with_data:
            self.before_read(list(ids))
        return super().get(dataset, ids, part, with_data=with_data, at=at)
