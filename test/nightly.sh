#!/usr/bin/env bash
# What takes too long for every change: each step's last result, with its date
# and machine, is in CONTRIBUTING.md.
set -euo pipefail
cd "$(dirname "$0")/.."
./test/deps.sh
# Beside what the mesh was fifty commits ago, where the history is there.
SEINE_OLD=$(git rev-parse --verify --quiet HEAD~50 || true) ./test/kube/run.sh -run 'TestLife|TestVersions|TestNightly'
# The redirect beside the other kube-proxy.
PROXY_MODE=iptables NODES=1 ./test/kube/run.sh -run 'TestCallsItself|TestExclusions|TestCNI'
# The chart by the helm program.
./test/helm/run.sh
# Causes of slow requests, provoked for real: an idle machine, a quarter of an hour.
go test -tags 'e2e nightly' -count=1 -timeout 40m -v -run TestProvoked ./test/e2e
# The same requests through a real Envoy, a minute.
make envoy
make soak
./test/fuzz.sh 2m
