#!/bin/sh
# Check the contract: check.sh PYTHON BUF fails if the committed Python code is not what the contract generates, or if the
# contract breaks buf's rules (buf.yaml).
set -eu
python=$1
buf=$2
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
sh protos/generate.sh "$python" "$scratch"
for file in tensorus_pb2.py tensorus_pb2.pyi tensorus_pb2_grpc.py; do
    diff -u "protos/tensorus_protos/v1/$file" "$scratch/tensorus_protos/v1/$file" || {
        echo "protos-check: $file is not what protos/tensorus/v1/tensorus.proto generates; run 'make protos'" >&2
        exit 1
    }
done
include=$("$python" -c 'import google.rpc.status_pb2, pathlib; print(pathlib.Path(google.rpc.status_pb2.__file__).parents[2])')
"$python" -m grpc_tools.protoc -Iprotos -I"$include" --include_imports --include_source_info \
    --descriptor_set_out="$scratch/contract.binpb" tensorus/v1/tensorus.proto
"$buf" lint "$scratch/contract.binpb" --config buf.yaml
