#!/usr/bin/env bash
# Writes the image that the suite's manifests name to the archive $1: Istio's echo
# application, built here, and the certificate that its arguments name.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=$(realpath -m "${1:?the archive to write}")
cd "$here"
suite=$(go list -m -f '{{.Dir}}' sigs.k8s.io/gateway-api/conformance)
name=$(sed -n 's/^ *image: *//p' "$suite/mesh/manifests.yaml" | sort -u)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
CGO_ENABLED=0 go -C echo build -trimpath -ldflags '-s -w' -o "$work/" istio.io/istio/pkg/test/echo/cmd/client istio.io/istio/pkg/test/echo/cmd/server
(cd "$work" && go run "$(go env GOROOT)/src/crypto/tls/generate_cert.go" --host echo --duration 87600h >/dev/null 2>&1)
cd "$here/../.."
go run ./test/cluster/tool image -o "$out" -tag "$name" -entrypoint /usr/local/bin/server \
  /usr/local/bin/server="$work/server" /usr/local/bin/client="$work/client" /cert.crt="$work/cert.pem" /cert.key="$work/key.pem"
echo "$name: $out"
