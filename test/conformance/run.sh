#!/usr/bin/env bash
# Runs the Gateway API's conformance suite for meshes and writes report.yaml here.
# With KUBECONFIG on that cluster, which must have Seine, and the Gateway API's
# definitions in the suite's version; without it on a cluster of one node made
# here, and taken away after (KEEP=1 keeps it; root). REPORT=file writes it
# elsewhere. Arguments go to go test: run.sh -run TestMesh/MeshPorts
set -euo pipefail
cd "$(dirname "$0")"
export CONFORMANCE_REPORT=${REPORT:-$PWD/report.yaml}
tests=(go test -tags conformance -count=1 -timeout 10m -v "$@" .)
if [ -n "${KUBECONFIG:-}" ]; then exec "${tests[@]}"; fi

export CLUSTER=${CLUSTER:-conformance} NODES=1
cluster=$(realpath ../cluster/cluster.sh) built=$(mktemp -d)
finish() {
  rm -r "$built"
  [ -n "${KEEP:-}" ] || "$cluster" down
}
trap finish EXIT
(cd ../.. && CGO_ENABLED=0 go build -o "$built/" ./cmd/seine && go run ./install/images --arch "$(go env GOARCH)" --out "$built")
./image.sh "$built/echo.tar"
go test -tags conformance -c -o /dev/null . # compile while the machine is quiet
"$cluster" up
"$cluster" import "$built"/*.tar
definitions=$(go list -m -f '{{.Dir}}' sigs.k8s.io/gateway-api)/config/crd/standard
"$cluster" exec kubectl apply --server-side -f "$definitions" >/dev/null
"$cluster" exec "$built/seine" install --apply --set image.tag=dev
"$cluster" exec "${tests[@]}"
