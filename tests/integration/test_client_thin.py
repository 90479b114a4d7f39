"""The thin client: the base dependencies alone, and everything that a server can do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorus
from support.arrays import DTYPE_NAMES, canonical, normal, random_bits
from support.client import run_process, thin_environment
from tensorus_codecs.presets import PRESETS
from tensorus_server.processes.server import Server

ABSENT = [
    "lz4",
    "numcodecs",
    "backports.zstd",
    "compression.zstd",
    "apsw",
    "torch",
    "click",
    "rich",
    "safetensors",
    "grpc_health",
]
"""What a server, the command line or torch bring. (`compression.zstd` is in the standard library from Python 3.14 on.)"""

Thin = Callable[..., Any]


@pytest.fixture(scope="module")
def thin_command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return thin_environment(tmp_path_factory.mktemp("thin"))


@pytest.fixture
def thin(thin_command: list[str]) -> Thin:
    """Run lines of Python without any extra installed; what they bind to `result` comes back."""

    def run(source: str) -> Any:
        done = run_process(thin_command, source=f"{source}\nimport json\nprint(json.dumps(result))")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture(scope="module")
def alone(thin_command: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what a thin process finds without a server. One process finds all of it, since each imports everything anew."""
    store = tmp_path_factory.mktemp("none") / "store"
    source = f"""
import importlib, json, sys
import tensorus
found = {{"loaded": sorted({{name.partition(".")[0] for name in sys.modules}} & {{"grpc", "tensorus_server", "google"}})}}
from tensorus._arrays.decode import accepted_codecs
found["codecs"] = accepted_codecs()
try:
    tensorus.open({str(store)!r})
except ImportError as error:
    found["opening"] = [str(error), type(error.__cause__).__name__]
found["absent"] = []
for name in {ABSENT!r}:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        found["absent"].append(name)
if sys.version_info >= (3, 14):
    found["absent"].append("compression.zstd")
print(json.dumps(found))
"""
    done = run_process(thin_command, source=source)
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stdout), "made a store": store.exists()}


def test_the_libraries_of_the_extras_are_not_there(alone: dict[str, Any]) -> None:
    # Otherwise the other tests here would show nothing.
    assert set(alone["absent"]) == set(ABSENT)


def test_importing_the_package_loads_neither_grpc_nor_the_engine(alone: dict[str, Any]) -> None:
    assert alone["loaded"] == []


def test_opening_a_folder_says_what_brings_the_engine(alone: dict[str, Any]) -> None:
    message = "apsw is not installed, which the engine needs: pip install 'tensorus[server]'"
    assert alone["opening"] == [message, "ModuleNotFoundError"]
    assert not alone["made a store"]


def test_only_codecs_of_the_standard_library_and_numpy_can_be_decoded(alone: dict[str, Any]) -> None:
    quantizers = {
        "fp16",
        "bf16",
        "int4_block",
        "int8_block",
        "int16_block",
        "nf4",
        "fp8_e4m3fn",
        "fp8_e5m2",
        "bitround",
    }
    filters = {"planes", "rotated_planes", "delta", "bitmap", "packbits", "constant", "bf16_planes"}
    assert set(alone["codecs"]) - {"zstd"} == quantizers | filters | {"gzip"}


@pytest.fixture(scope="module")
def stored(remote: tensorus.Client) -> str:
    """A dataset with a tensor of every dtype for every preset and for every compressor, several chunks each."""
    dataset = "thin"
    remote.create_dataset(dataset)
    encodings: list[list[Any]] = [["gzip"], ["lz4"], ["planes", "zstd"], ["fp16", "gzip"], ["int8_block", "lz4"]]
    policies = [tensorus.Policy(preset=preset, chunk_bytes=4096) for preset in PRESETS]
    policies += [tensorus.Policy(encoding=encoding, chunk_bytes=4096) for encoding in encodings]
    uploads = []
    for number, policy in enumerate(policies):
        for dtype in DTYPE_NAMES:
            array = random_bits(dtype, (50, 60), number)
            if array.dtype.kind not in "iub":
                array = normal((50, 60), seed=number).astype(array.dtype)
            uploads.append(tensorus.NewTensor(array, f"{number} {dtype}", {"number": number}, policy))
    remote.insert_many(dataset, uploads)
    return dataset


def test_every_tensor_is_read_exactly_as_the_full_client_reads_it_and_torch_is_asked_for_by_its_extra(
    thin: Thin, server: Server, remote: tensorus.Client, stored: str
) -> None:
    source = f"""
import hashlib, tensorus
with tensorus.connect({server.address!r}) as client:
    result = {{
        record.info.id: [type(record.tensor).__name__, record.tensor.dtype.name, list(record.tensor.shape),
                         hashlib.sha256(record.tensor.tobytes()).hexdigest(), record.info.value_checksum]
        for record in client.query({stored!r})
    }}
    try:
        client.get({stored!r}, "0 float32", as_="torch")
    except ImportError as error:
        result = [result, str(error)]
"""
    found, refusal = thin(source)
    assert refusal == "torch is not installed: pip install 'tensorus[torch]', or ask for as_='numpy'"
    expected = {
        record.info.id: [
            "ndarray",
            record.tensor.dtype.name,
            list(record.tensor.shape),
            _sha256(record.tensor),
            record.info.value_checksum,
        ]
        for record in remote.query(stored, as_="numpy")
    }
    assert len(expected) == (len(PRESETS) + 5) * len(DTYPE_NAMES)
    assert found == expected


def _sha256(array: np.ndarray[Any, Any]) -> str:
    import hashlib  # noqa: PLC0415 - the other side of the comparison imports it, too

    return hashlib.sha256(canonical(array)).hexdigest()


def test_what_it_inserts_is_stored_as_anybody_s(
    thin: Thin, server: Server, remote: tensorus.Client, dataset: str
) -> None:
    source = f"""
import numpy as np, tensorus
with tensorus.connect({server.address!r}) as client:
    client.create_dataset({dataset!r}, preset="maximum", schema=tensorus.Schema(metadata={{"layer": int}}))
    values = np.random.default_rng(5).standard_normal((700, 600)).astype(np.float32)
    one = client.insert({dataset!r}, values, id="one", metadata={{"layer": 1}})
    many = client.insert_many({dataset!r}, [tensorus.NewTensor(np.arange(9).T[::-1], "two", {{"layer": 2}})])
    try:
        client.insert({dataset!r}, values, id="three")
    except tensorus.errors.SchemaMismatchError as error:
        reason = error.reason
    result = [one.id, one.lossy, many[0].source_checksum, reason,
              [record.info.id for record in client.query({dataset!r}, {{"layer": [2, 3]}})],
              client.get({dataset!r}, "two", index=slice(0, 2)).tolist(), client.delete({dataset!r}, "two")]
"""
    first, lossy, checksum, reason, found, part, deleted = thin(source)
    assert (first, lossy, reason, found, part, deleted) == ("one", True, "SCHEMA_MISMATCH", ["two"], [8, 7], 1)
    info = remote.info(dataset, "one")
    assert {codec for share in info.encodings for codec in share.codecs} == {"int8_block", "zstd"}
    assert remote.insert(dataset, np.arange(9)[::-1], id="two", metadata={"layer": 2}).source_checksum == checksum


def test_the_command_line_says_what_brings_it(thin_command: list[str]) -> None:
    done = run_process(thin_command, source="import tensorus.cli; tensorus.cli.main()")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == "click is not installed: pip install 'tensorus[cli]'\n"


def test_the_package_run_as_a_module_says_what_brings_its_command_line(thin_command: list[str]) -> None:
    # `python -m tensorus` works where the folder of scripts is not on the search path.
    source = "import runpy, sys; sys.argv = ['tensorus', '--help']; runpy.run_module('tensorus', run_name='__main__')"
    done = run_process(thin_command, source=source)
    assert (done.returncode, done.stderr) == (1, "click is not installed: pip install 'tensorus[cli]'\n")


def test_the_api_of_tensorus_0_x_works_over_a_server(thin: Thin, server: Server, dataset: str) -> None:
    source = f"""
import numpy as np
from tensorus.tensor_storage import TensorStorage
with TensorStorage("grpc://{server.address}", compression_preset="balanced") as storage:
    storage.create_dataset({dataset!r})
    record_id = storage.insert({dataset!r}, np.ones((3, 5), np.float32), {{"label": "x"}})
    (record,) = storage.query_by_metadata({dataset!r}, "label", "x")
    result = [type(record["tensor"]).__name__, record["tensor"].shape, record["metadata"]["record_id"] == record_id]
"""
    assert thin(source) == ["ndarray", [3, 5], True]


WITHOUT_THE_SERVER = "import sys; sys.modules['tensorus_server'] = None"
"""Makes every import of the server's package fail, as if it were not installed."""


@pytest.fixture
def old_folder(tmp_path: Path, dataset: str) -> Path:
    """A folder with a dataset of Tensorus 0.1, with a name, metadata and values that have to be checked and converted."""
    # Files of Tensorus 0.1 are written with torch, which not every Python of CI has.
    torch = pytest.importorskip("torch")
    from support.old_tensorus import Written  # noqa: PLC0415

    written = Written()
    written.insert(torch.arange(12.0).reshape(3, 4), "plain", seen={2, 1})
    written.insert(torch.arange(12.0).reshape(3, 4), "plain")
    written.insert(torch.tensor([-5, 0, 7], dtype=torch.int8), "compressed", "gzip-9", "int8")
    written.save(tmp_path / f"{dataset}.pt")
    return tmp_path


def test_bytes_of_tensorus_0_1_are_read_without_the_server_s_package(thin: Thin) -> None:
    torch = pytest.importorskip("torch")
    from support.old_tensorus import compressed  # noqa: PLC0415

    data, metadata = compressed(torch.tensor([0.0, 1.0, 255.0]), "gzip-6", "int8")
    source = f"""
{WITHOUT_THE_SERVER}
import numpy
from tensorus.compression import INT8Quantization, TensorCompression
codes, params = INT8Quantization().quantize(numpy.array([0.0, 1.0, 255.0], "float32"))
result = [TensorCompression().decompress_tensor(bytes.fromhex({data.hex()!r}), {metadata!r}).tolist(),
          INT8Quantization().dequantize(codes, params).tolist()]
"""
    assert thin(source) == [[0, 1, 255]] * 2


def test_a_dataset_of_tensorus_0_1_is_stored_on_a_server_without_the_server_s_package(
    thin: Thin, server: Server, remote: tensorus.Client, old_folder: Path, dataset: str
) -> None:
    source = f"""
{WITHOUT_THE_SERVER}
import tensorus
from tensorus.old_files.storing import import_file
with tensorus.connect({server.address!r}) as client:
    report = import_file(client, {str(old_folder / f"{dataset}.pt")!r})
result = [report.error, report.counts, [outcome.id for outcome in report.outcomes]]
"""
    error, counts, ids = thin(source)
    assert (error, ids) == ("", ["plain", "plain-2", "compressed"])
    assert {status: count for status, count in counts.items() if count} == {"imported": 2, "repaired": 1}
    assert remote.info(dataset, "plain").metadata["seen"] == [1, 2]
    assert remote.get(dataset, "compressed", as_="numpy").tolist() == [-5, 0, 7]


def test_the_command_line_imports_old_files_to_a_server_without_the_server_s_package(
    tmp_path_factory: pytest.TempPathFactory, server: Server, remote: tensorus.Client, old_folder: Path, dataset: str
) -> None:
    command = thin_environment(tmp_path_factory.mktemp("cli"), "click", "rich")
    source = f"""
{WITHOUT_THE_SERVER}
sys.argv = ["tensorus", "import", {str(old_folder)!r}, "--server", {server.address!r}]
import tensorus.cli; tensorus.cli.main()
"""
    done = run_process(command, source=source)
    assert (done.returncode, done.stderr) == (0, "")
    assert "3 records in 1 dataset: 2 imported, 1 repaired" in done.stdout
    assert {info.id for info in remote.list(dataset)} == {"plain", "plain-2", "compressed"}
