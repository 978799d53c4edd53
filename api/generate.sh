#!/bin/sh
# Regenerates the Go code of every .proto below this folder. Needs protoc
# (Debian: protobuf-compiler); the Go plugin is pinned in go.mod.
set -eu
cd "$(dirname "$0")"
bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
go build -o "$bin/protoc-gen-go" google.golang.org/protobuf/cmd/protoc-gen-go
mkdir -p "$bin/include/google/rpc"
cat >"$bin/include/google/rpc/status.proto" <<'P'
syntax = "proto3";
package google.rpc;
import "google/protobuf/any.proto";
option go_package = "google.golang.org/genproto/googleapis/rpc/status;status";
message Status { int32 code = 1; string message = 2; repeated google.protobuf.Any details = 3; }
P
protoc -I. -I"$bin/include" --plugin="$bin/protoc-gen-go" --go_out=. --go_opt=paths=source_relative \
  seine/v1/mesh.proto seine/v1/peer.proto seine/v1/tap.proto xds/v3/discovery.proto ca/v1/ca.proto
