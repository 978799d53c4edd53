#!/usr/bin/env bash
# Runs every check that CI runs, one step after the other, and prints each
# step's time against its written budget (minutes, cold, on two cores).
# Fails at the first step that fails, and says which.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { # NAME BUDGET-MINUTES COMMAND…
  local name=$1 budget=$2 start=$SECONDS
  shift 2
  printf '\n=== %s (budget %s min)\n' "$name" "$budget"
  if ! "$@"; then
    printf '\n=== FAILED: %s after %d s\n' "$name" $((SECONDS - start)) >&2
    exit 1
  fi
  printf '=== %s: %d s of %d s\n' "$name" $((SECONDS - start)) $((budget * 60))
}

# The cluster needs root: its nodes are made of network namespaces and cgroups.
cluster() {
  if [ "$(id -u)" != 0 ]; then
    echo "skipped, for it needs root: $*"
    return
  fi
  "$@"
}

# A cluster is dozens of programs on two cores, and a stalled machine can fail a
# wait in any of them. So its tests get a second cluster; the first failure
# stands in the output, under a line that says so.
twice() {
  "$@" && return
  printf '\n=== FLAKY OR BROKEN, once more on a fresh cluster: %s\n' "$*" >&2
  "$@"
}

step 'machine: what the tests need' 1 ./test/deps.sh
step 'modules' 1 go mod download
step 'lint: gofmt, vet, staticcheck' 5 ./test/lint.sh
step 'unit tests, race detector, fuzz seeds' 9 go test -race -timeout 9m ./...
step 'dashboard: the bundle byte for byte, and its pages in Chromium' 5 ./ui/run.sh
step 'wire: h2spec and gRPC interoperability through the listeners' 2 \
  go -C test/wire test -count=1 -timeout 2m .
step 'tracing: a real OpenTelemetry Collector' 3 \
  go -C test/trace test -count=1 -parallel 8 -timeout 2m .
step 'end to end: the demo as root and as an ordinary user' 6 \
  go test -tags e2e -count=1 -timeout 10m -v ./test/e2e/...
step 'Kubernetes for the test cluster, unless the cache has it' 12 cluster ./test/cluster/build.sh
step 'end to end: a real cluster' 11 cluster twice ./test/kube/run.sh -skip 'TestLife|TestNightly'
step 'conformance: Gateway API for meshes' 4 cluster twice env REPORT=/dev/null ./test/conformance/run.sh
printf '\nall steps passed in %d s\n' "$SECONDS"
