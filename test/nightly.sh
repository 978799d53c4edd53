#!/usr/bin/env bash
# What takes too long for every change: each step's last result, with its date
# and machine, is in CONTRIBUTING.md.
set -euo pipefail
cd "$(dirname "$0")/.."
./test/deps.sh
./test/kube/run.sh -run TestLife
./test/fuzz.sh 2m
