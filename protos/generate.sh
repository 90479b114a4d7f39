#!/bin/sh
# Generate Python code from the contract: generate.sh PYTHON FOLDER writes below FOLDER/tensorus_protos/v1.
set -eu
python=$1
folder=$2
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"$python" -m grpc_tools.protoc -Iprotos --python_out="$scratch" --pyi_out="$scratch" --grpc_python_out="$scratch" \
    tensorus/v1/tensorus.proto tensorus/v1/access.proto
# Every client, and reflection, knows the files as tensorus/v1/*.proto. protoc derives the Python module from such a name,
# but `tensorus` is the client's package, so the generated code moves to `tensorus_protos`.
mkdir -p "$folder/tensorus_protos/v1"
for file in tensorus_pb2.py tensorus_pb2.pyi tensorus_pb2_grpc.py access_pb2.py access_pb2.pyi access_pb2_grpc.py; do
    sed -e 's/^from tensorus\.v1 import/from tensorus_protos.v1 import/' -e "s/'tensorus\.v1\.\([a-z]*\)_pb2'/'tensorus_protos.v1.\1_pb2'/" \
        "$scratch/tensorus/v1/$file" > "$folder/tensorus_protos/v1/$file"
done
