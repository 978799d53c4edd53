#!/usr/bin/env bash
# What takes too long for every change: each step's last result, with its date
# and machine, is in CONTRIBUTING.md.
set -euo pipefail
cd "$(dirname "$0")/.."
./test/deps.sh
./test/kube/run.sh -run TestLife
# Causes of slow requests, provoked for real: an idle machine, a quarter of an hour.
go test -tags 'e2e nightly' -count=1 -timeout 40m -v -run TestProvoked ./test/e2e
make soak
./test/fuzz.sh 2m
