"""Fuzzes the decoder of chunk records with coverage as its guide. By hand, or for a bounded time:

    .venv/bin/python -m pip install atheris
    .venv/bin/python tests/fuzz/decode_chunk.py -max_total_time=60

atheris, libFuzzer for Python, is no dependency of the project, and has wheels for Linux alone. Its flags are libFuzzer's. It
starts from the golden records, keeps what it finds in memory, or in a folder that is its only argument, and writes the bytes of
a failure to the current folder: the name of that file, as the only argument, runs it again.
`tests/codecs/test_decode_mutations.py` checks the same of golden records that are changed at random, without atheris.
"""

from __future__ import annotations

import sys
import tracemalloc
from pathlib import Path

TESTS = Path(__file__).parents[1]
SEEDS = TESTS / "golden" / "chunk_records"

MEMORY_MIB_MAX = 1024
"""Of the whole process: Python, NumPy and what libraries in C take beside the bytes that the check itself counts."""


def main() -> None:
    """Fuzz until a flag of libFuzzer, or a failure, ends it."""
    try:
        import atheris  # noqa: PLC0415 - nothing but this script needs it
    except ImportError as error:
        raise SystemExit("atheris is not installed; pip install atheris") from error
    sys.path.insert(0, str(TESTS))
    with atheris.instrument_imports(include=["tensorus_codecs"]):
        from contract.codec_decoding import assert_refused_or_decoded, rebased, repaired  # noqa: PLC0415 - instrumented so
        from tensorus_codecs.registry import available_codecs  # noqa: PLC0415 - likewise

        # Codecs are imported when they are first asked for, which would be too late.
        assert available_codecs()

    def check(data: bytes) -> None:
        assert_refused_or_decoded(data)
        assert_refused_or_decoded(repaired(data))
        assert_refused_or_decoded(rebased(repaired(data)))

    # Once, instead of for every input: see `allocating_at_most`.
    tracemalloc.start()
    program, *arguments = sys.argv
    seeds = ",".join(map(str, sorted(SEEDS.glob("*.bin"))))
    atheris.Setup([program, f"-rss_limit_mb={MEMORY_MIB_MAX}", f"-seed_inputs={seeds}", *arguments], check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
