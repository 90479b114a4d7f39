"""Collects what a verification finds, and tells the caller of it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from tensorus.errors import InternalError
from tensorus.types import Damage, VerifyReport

if TYPE_CHECKING:
    from collections.abc import Callable

    from tensorus._backend import Finding
    from tensorus.types import VerifyProgress

__all__ = ["DAMAGES_MAX", "OnDamage", "OnVerifyProgress", "Verifying"]

DAMAGES_MAX = 10_000
"""Damages of a `VerifyReport`. A damaged disk may have millions, of about 1 KiB each."""

OnDamage: TypeAlias = "Callable[[Damage], object] | None"
"""Called with each damage."""

OnVerifyProgress: TypeAlias = "Callable[[VerifyProgress], object] | None"
"""Called with the progress."""


class Verifying:
    """One verification, as its caller sees it."""

    def __init__(self, on_damage: OnDamage, on_progress: OnVerifyProgress) -> None:
        """Start without findings."""
        self._on_damage = on_damage
        self._on_progress = on_progress
        self._damages: list[Damage] = []
        self._report: VerifyReport | None = None

    def take(self, finding: Finding) -> None:
        """Take what a backend gives, and call the callback for it; what that raises ends the verification."""
        if isinstance(finding, Damage):
            if len(self._damages) < DAMAGES_MAX:
                self._damages.append(finding)
            if self._on_damage is not None:
                self._on_damage(finding)
        elif isinstance(finding, VerifyReport):
            self._report = finding
        elif self._on_progress is not None:
            self._on_progress(finding)

    @property
    def report(self) -> VerifyReport:
        """The report of a verification that has ended."""
        if self._report is None:
            raise InternalError("the verification ended without a report")
        return replace(self._report, damages=tuple(self._damages))
