#!/usr/bin/env bash
# Runs the end-to-end tests on the cluster that KUBECONFIG names, whose nodes
# can pull SEINE_REPOSITORY's images and SEINE_TEST_IMAGE; without KUBECONFIG on
# a cluster of two nodes made here, and taken away after (KEEP=1 keeps it).
# Arguments go to go test: test/kube/run.sh -run TestFirstDay
# SEINE_OLD=COMMIT has TestVersions run that commit's images beside these.
set -euo pipefail
cd "$(dirname "$0")/../.."
tests=(go test -tags kube -count=1 -timeout 20m -v "$@" ./test/kube/...)
if [ -n "${KUBECONFIG:-}" ]; then exec "${tests[@]}"; fi

export CLUSTER=${CLUSTER:-e2e} NODES=${NODES:-2}
cluster=$PWD/test/cluster/cluster.sh built=$(mktemp -d)
finish() {
  if [ -d "$built/old" ]; then git worktree remove --force "$built/old"; fi
  rm -r "$built"
  [ -n "${KEEP:-}" ] || $cluster down
}
trap finish EXIT
CGO_ENABLED=0 go build -o "$built/" ./cmd/seine
go run ./install/images --arch "$(go env GOARCH)" --out "$built"
if [ -n "${SEINE_OLD:-}" ]; then
  git worktree add --detach "$built/old" "$SEINE_OLD"
  mkdir "$built/images-old"
  (cd "$built/old" && go run ./install/images --arch "$(go env GOARCH)" --tag old --out "$built/images-old")
  for f in "$built"/images-old/*.tar; do mv "$f" "$built/old-$(basename "$f")"; done
  export SEINE_OLD_TAG=old
fi
go test -tags kube -c -o /dev/null ./test/kube # compile while the machine is quiet
$cluster up
$cluster import "$built"/*.tar
# What only a cluster of our own has: a wire to listen on, an API server to stop.
export SEINE=$built/seine SEINE_CLUSTER=$cluster
[ "$NODES" = 1 ] || export SEINE_WIRE=node2
$cluster exec "${tests[@]}"
