#!/usr/bin/env bash
# Runs the end-to-end tests on the cluster that KUBECONFIG names, whose nodes
# can pull SEINE_REPOSITORY's images and SEINE_TEST_IMAGE; without KUBECONFIG on
# a cluster of two nodes made here, and taken away after (KEEP=1 keeps it).
# Arguments go to go test: test/kube/run.sh -run TestFirstDay
set -euo pipefail
cd "$(dirname "$0")/../.."
tests=(go test -tags kube -count=1 -timeout 20m -v "$@" ./test/kube/...)
if [ -n "${KUBECONFIG:-}" ]; then exec "${tests[@]}"; fi

export CLUSTER=${CLUSTER:-e2e} NODES=${NODES:-2}
cluster=test/cluster/cluster.sh
[ -n "${KEEP:-}" ] || trap '$cluster down' EXIT
images=$(mktemp -d)
go run ./install/images --arch "$(go env GOARCH)" --out "$images"
go test -tags kube -c -o /dev/null ./test/kube # compile while the machine is quiet
$cluster up
$cluster import "$images"/*.tar
rm -r "$images"
$cluster exec "${tests[@]}"
