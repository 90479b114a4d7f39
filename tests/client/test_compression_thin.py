"""Compression where only the base dependencies are: NumPy, no torch, and no library of a codec but the standard ones."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from support.client import run_process, thin_environment
from tensorus.compression import LZ4Compression, TensorCompression
from tensorus_codecs.presets import PRESETS

pytestmark = pytest.mark.slow

Thin = Callable[[str], Any]


@pytest.fixture(scope="module")
def thin_command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return thin_environment(tmp_path_factory.mktemp("thin"))


@pytest.fixture
def thin(thin_command: list[str]) -> Thin:
    """Run lines of Python without any extra installed; what they bind to `result` comes back."""

    def run(source: str) -> Any:
        done = run_process(
            thin_command,
            source=f"import numpy as np\nfrom tensorus.compression import *\n{source}\nimport json\nprint(json.dumps(result))",
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def test_importing_loads_neither_torch_nor_a_codec_s_library_nor_grpc() -> None:
    # In an environment where all of them are installed.
    source = (
        "import sys, tensorus.compression as c; c.CompressionConfig('brotli', 'int8').to_policy(); c.LZ4Compression(); "
        "heavy = ('torch', 'lz4', 'numcodecs', 'backports.zstd', 'compression.zstd', 'brotli', 'pcodec', 'zlib_ng', 'grpc', "
        "'google', 'tensorus_server'); print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_numpy_arrays_go_in_and_come_out(thin: Thin) -> None:
    source = """
values = np.random.default_rng(0).standard_normal((300, 400)).astype(np.float32)
compressed, metadata = TensorCompression(GZIPCompression(), INT8Quantization()).compress_tensor(values)
found = TensorCompression().decompress_tensor(compressed, metadata)
codes, params = FP16Quantization().quantize(values)
again = FP16Quantization().dequantize(codes, params)
result = [type(found).__name__, found.dtype.name, bool(np.abs(found - values).max() == metadata["max_absolute_error"]),
          type(codes).__name__, codes.dtype.name, bool(np.abs(again - values).max() < 1e-2)]
"""
    assert thin(source) == ["ndarray", "float32", True, "ndarray", "float16", True]


def test_without_lz4_gzip_works_and_lz4_says_what_brings_it(thin: Thin) -> None:
    source = """
result = [GZIPCompression().decompress(GZIPCompression().compress(b"text")).decode()]
values = np.ones((9, 9), np.float32)
for algorithm in (LZ4Compression(), BloscLZ4Compression(), BrotliCompression(), PcodecCompression()):
    for use in (lambda: algorithm.compress(b"text"), lambda: algorithm.decompress(b"text"),
                lambda: TensorCompression(algorithm).compress_tensor(values)):
        try:
            use()
        except ImportError as error:
            result.append(str(error))
        except CompressionError as error:
            result.append("damage")
"""
    found = thin(source)
    assert found.pop(0) == "text"
    extras = {"lz4": "codecs", "blosc_lz4": "codecs", "brotli": "archive", "pcodec": "archive"}
    for number, message in enumerate(found):
        name, extra = list(extras.items())[number // 3]
        if name in {"blosc_lz4", "pcodec"} and number % 3 == 1:
            # Their bytes say what they are, and these are none.
            assert message == "damage"
            continue
        assert f"codec '{name}' needs the library" in message
        assert f"pip install 'tensorus[{extra}]' installs it" in message


def test_presets_do_without_what_is_missing_and_say_so(thin: Thin) -> None:
    source = """
result = {}
values = np.random.default_rng(0).standard_normal((300, 400)).astype(np.float32)
for name, config in COMPRESSION_PRESETS.items():
    compressed, metadata = config.create_tensor_compression().compress_tensor(values)
    found = TensorCompression().decompress_tensor(compressed, metadata)
    assert metadata["lossy"] or found.tobytes() == values.tobytes()
    assert config.to_policy().preset == name
    result[name] = metadata["fallback"]
"""
    fallbacks = thin(source)
    assert set(fallbacks) == set(PRESETS)
    assert "codec 'blosc_lz4' needs the library" in fallbacks["fast"]
    assert fallbacks["none"] is fallbacks["fp16_only"] is fallbacks["int8_only"] is None


def test_what_needs_a_missing_library_to_be_read_says_what_brings_it(thin: Thin) -> None:

    compressed, _ = TensorCompression(LZ4Compression()).compress_tensor(np.zeros(1000))
    source = f"""
try:
    TensorCompression().decompress_tensor(bytes.fromhex({compressed.hex()!r}))
except CompressionError as error:
    result = [error.reason, str(error)]
"""
    reason, message = thin(source)
    assert reason == "UNSUPPORTED_CODEC"
    assert message.startswith("chunk 0 of a compressed tensor: codec 'lz4' needs the library")
