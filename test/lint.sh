#!/usr/bin/env bash
# gofmt, go vet and staticcheck (pinned in go.mod) over the whole module.
set -euo pipefail
cd "$(dirname "$0")/.."

unformatted=$(git ls-files --cached --others --exclude-standard '*.go' | xargs gofmt -l)
if [ -n "$unformatted" ]; then
  printf 'not gofmt-ed; run gofmt -w on:\n%s\n' "$unformatted" >&2
  exit 1
fi
go vet ./...
go vet -tags e2e,kube,nightly,soak ./test/...
go tool staticcheck ./...
# One word too many in the module file is one dependency too many.
go mod tidy -diff
