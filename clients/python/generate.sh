#!/usr/bin/env bash
# Generates msa/v1/*_pb2.py and *_pb2_grpc.py from proto/ into this folder, or into $1.
# Needs: pip install grpcio-tools
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-$here}
mkdir -p "$out"
"${PYTHON:-python3}" -m grpc_tools.protoc -I "$here/../../proto" --python_out="$out" \
  --grpc_python_out="$out" "$here"/../../proto/msa/v1/*.proto
