"""The contract compiles in other languages from `protos/` alone, and in every one it is the contract that the server has."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import google.protobuf
import pytest
from google.protobuf import descriptor_pb2

from support.client import run_process
from support.tools import require_tools
from tensorus_protos.v1 import tensorus_pb2 as pb

pytestmark = pytest.mark.slow

PROTOS = Path(__file__).parents[2] / "protos"
CONTRACT = "tensorus/v1/tensorus.proto"
FILES = (CONTRACT, "google/rpc/status.proto", "google/rpc/error_details.proto")
"""The contract, what it imports, and the ErrorInfo that errors carry."""

GO_LIBRARIES = "/usr/share/gocode/src/google.golang.org/protobuf"
JAVA_LIBRARY = "/usr/share/java/protobuf.jar"
QUICK_JAVAC = (
    "-J-XX:TieredStopAtLevel=1",
    "-J-XX:+UseSerialGC",
    "-XDshould-stop.ifNoError=FLOW",
    "-nowarn",
    "-proc:none",
)
"""Every check of the compiler, but no class files, and a Java that does not optimize itself: a third of the time."""
BUF = Path(sys.executable).parent / "buf"


def run(*command: str | Path, **settings: Any) -> None:
    """Run a program that must succeed and must not warn."""
    ran = run_process([str(part) for part in command], **settings)
    assert (ran.returncode, ran.stderr) == (0, "")


def generated(folder: Path, language: str) -> list[Path]:
    """Generate code for a language, and return the files that were written."""
    folder.mkdir()
    run("protoc", f"--{language}_out={folder}", *FILES, cwd=PROTOS)
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_the_contract_compiles_to_what_the_server_has(tmp_path: Path) -> None:
    run(BUF, "build", PROTOS, "--as-file-descriptor-set", "--exclude-source-info", "-o", tmp_path / "files.binpb")
    compiled = descriptor_pb2.FileDescriptorSet.FromString((tmp_path / "files.binpb").read_bytes())
    found = {file.name: file for file in compiled.file}
    assert set(FILES) <= set(found)
    served = descriptor_pb2.FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(served)
    # Only some compilers write down the names in JSON, which follow from the others.
    clear_json_names(found[CONTRACT].message_type)
    assert served == found[CONTRACT]


def clear_json_names(messages: Iterable[descriptor_pb2.DescriptorProto]) -> None:
    for message in messages:
        for field in message.field:
            field.ClearField("json_name")
        clear_json_names(message.nested_type)


def test_it_says_where_generated_code_belongs() -> None:
    options = pb.DESCRIPTOR.GetOptions()
    assert options.go_package == "tensorus/v1;tensorusv1"
    assert (options.java_package, options.java_multiple_files) == ("tensorus.v1", True)
    assert options.csharp_namespace == "Tensorus.V1"


def test_it_compiles_in_python_and_needs_protobuf_alone(tmp_path: Path) -> None:
    require_tools("protoc")
    generated(tmp_path / "out", "python")
    # The protobuf library, and nothing else that is installed: neither Tensorus nor Google's generated files.
    (tmp_path / "site" / "google").mkdir(parents=True)
    (library,) = google.protobuf.__path__
    for name in ("protobuf", "_upb"):
        (tmp_path / "site" / "google" / name).symlink_to(Path(library).parent / name)
    source = f"""
import sys
sys.path[:0] = [{str(tmp_path / "out")!r}, {str(tmp_path / "site")!r}]
from google.rpc import error_details_pb2
from tensorus.v1 import tensorus_pb2

message = tensorus_pb2.InsertRequest(open=tensorus_pb2.OpenInsert(dataset="d"))
assert tensorus_pb2.InsertRequest.FromString(message.SerializeToString()).open.dataset == "d"
assert error_details_pb2.ErrorInfo(reason="DATASET_NOT_FOUND").reason
"""
    run(sys.executable, "-I", "-S", "-c", source)


def test_it_compiles_in_java(tmp_path: Path) -> None:
    require_tools("protoc", "javac", JAVA_LIBRARY)
    sources = generated(tmp_path / "sources", "java")
    # A class of its own for each message.
    for name in ("tensorus/v1/InsertRequest", "tensorus/v1/ErrorReason", "com/google/rpc/ErrorInfo"):
        assert tmp_path / "sources" / f"{name}.java" in sources
    ran = run_process(["javac", *QUICK_JAVAC, "-cp", JAVA_LIBRARY, *map(str, sources)])
    assert ran.returncode == 0, ran.stderr


def test_it_compiles_in_go(tmp_path: Path) -> None:
    require_tools("protoc", "protoc-gen-go", "go", GO_LIBRARIES)
    generated(tmp_path / "src", "go")
    environment = {
        "GO111MODULE": "off",
        "GOPATH": os.pathsep.join([str(tmp_path), str(Path(GO_LIBRARIES).parents[2])]),
        "GOFLAGS": "",
    }
    packages = ["tensorus/v1", "google.golang.org/genproto/googleapis/rpc/errdetails"]
    run("go", "build", *packages, environment=environment)
    listed = run_process(["go", "list", "-f", "{{.Name}}", packages[0]], environment=environment)
    assert listed.stdout == "tensorusv1\n"


@pytest.mark.parametrize(
    ("language", "names"),
    [
        ("cpp", {"tensorus.pb.h", "status.pb.h", "error_details.pb.h"}),
        ("csharp", {"Tensorus.cs", "Status.cs", "ErrorDetails.cs"}),
        ("objc", {"Tensorus.pbobjc.h", "Status.pbobjc.h", "ErrorDetails.pbobjc.h"}),
        ("php", {"InsertRequest.php", "Status.php", "ErrorInfo.php"}),
        ("ruby", {"tensorus_pb.rb", "status_pb.rb", "error_details_pb.rb"}),
    ],
)
def test_code_for_it_is_generated(tmp_path: Path, language: str, names: set[str]) -> None:
    require_tools("protoc")
    assert names <= {path.name for path in generated(tmp_path / "out", language)}
