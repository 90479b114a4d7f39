#!/bin/sh
# Generate Python code from the contract: generate.sh PYTHON FOLDER writes below FOLDER/tensorus_protos/v1.
set -eu
python=$1
folder=$2
include=$("$python" -c 'import google.rpc.status_pb2, pathlib; print(pathlib.Path(google.rpc.status_pb2.__file__).parents[2])')
# Mapping the folder to the import package gives the generated code the right imports, with no repair afterwards.
"$python" -m grpc_tools.protoc -Itensorus_protos/v1=protos/tensorus/v1 -I"$include" \
    --python_out="$folder" --pyi_out="$folder" --grpc_python_out="$folder" tensorus_protos/v1/tensorus.proto
