#!/bin/sh
# Check the contract: check.sh PYTHON BUF fails if the committed Python code differs from newly generated code, if the copies of
# Google's files differ from the originals, or if the contract breaks buf's rules (buf.yaml).
set -eu
python=$1
buf=$2
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
sh protos/generate.sh "$python" "$scratch"
for file in tensorus_pb2.py tensorus_pb2.pyi tensorus_pb2_grpc.py access_pb2.py access_pb2.pyi access_pb2_grpc.py; do
    diff -u "protos/tensorus_protos/v1/$file" "$scratch/tensorus_protos/v1/$file" || {
        echo "protos-check: $file is not what protos/tensorus/v1 generates; run 'make protos'" >&2
        exit 1
    }
done
include=$("$python" -c 'import google.rpc.status_pb2, pathlib; print(pathlib.Path(google.rpc.status_pb2.__file__).parents[2])')
for file in status.proto error_details.proto; do
    diff -u "$include/google/rpc/$file" "protos/google/rpc/$file" || {
        echo "protos-check: protos/google/rpc/$file is not Google's, as googleapis-common-protos has it" >&2
        exit 1
    }
done
"$buf" lint
