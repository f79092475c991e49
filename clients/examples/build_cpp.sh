#!/usr/bin/env bash
# build_cpp.sh OUT: generates the stubs and compiles example.cc into the folder OUT.
# Needs: protobuf-compiler-grpc, libgrpc++-dev, pkg-config, a C++17 compiler.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:?usage: build_cpp.sh OUT}
mkdir -p "$out"
proto=$here/../../proto
protoc -I "$proto" --cpp_out="$out" --grpc_out="$out" --plugin=protoc-gen-grpc="$(command -v grpc_cpp_plugin)" \
  "$proto"/msa/v1/*.proto
# shellcheck disable=SC2046
"${CXX:-g++}" -std=c++17 -O1 -I "$out" "$here/example.cc" "$out"/msa/v1/*.cc -o "$out/example" \
  $(pkg-config --cflags --libs grpc++ protobuf)
