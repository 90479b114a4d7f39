"""The example shows what it promises."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "compression_demo.py"


def test_the_demo_of_compression_shows_all_four_parts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    shown = capsys.readouterr().out
    rows = {words[0]: words[1:] for line in shown.splitlines() if (words := line.split())}
    for compressor in ("gzip-6", "lz4-1", "zstd-3"):
        assert rows[compressor][-1] == "yes"
    errors = [float(rows[quantizer][1]) for quantizer in ("fp16", "int8_block", "int8")]
    assert errors[0] < 1e-3 < errors[1] < 1e-2 < errors[2] < 2e-2
    assert rows["fast"][5] == "exact"
    ratios = [float(rows[preset][4]) for preset in ("none", "fast", "fp16_only", "balanced", "int8_only", "maximum")]
    assert ratios == sorted(ratios)
    assert "ints stay lossless" in shown
    assert "%" in shown
