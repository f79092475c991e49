#!/usr/bin/env bash
# generate_ruby.sh OUT: generates the stubs into the folder OUT. Needs: protobuf-compiler-grpc; to run, ruby-grpc.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:?usage: generate_ruby.sh OUT}
mkdir -p "$out"
proto=$here/../../proto
protoc -I "$proto" --ruby_out="$out" --grpc_out="$out" --plugin=protoc-gen-grpc="$(command -v grpc_ruby_plugin)" \
  "$proto"/msa/v1/*.proto
