#!/usr/bin/env bash
# build_go.sh OUT: generates the stubs (package msa/v1) and compiles example.go into the folder OUT, with Debian's
# packages: golang-go, golang-google-grpc-dev, protoc-gen-go-1-5, protoc-gen-go-grpc, protobuf-compiler.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=$(mkdir -p "${1:?usage: build_go.sh OUT}" && cd "$1" && pwd)
proto=$here/../../proto
mapping=
for file in "$proto"/msa/v1/*.proto; do mapping+=Mmsa/v1/$(basename "$file")=msa/v1,; done
mkdir -p "$out/src"
protoc -I "$proto" --go_out="${mapping}:$out/src" --go-grpc_out="${mapping}:$out/src" "$proto"/msa/v1/*.proto
GO111MODULE=off GOFLAGS= GOPATH="$out:/usr/share/gocode" GOCACHE="$out/cache" go build -o "$out/example" "$here/example.go"
