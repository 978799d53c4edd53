#!/usr/bin/env bash
# The dashboard: installs what package-lock.json pins, checks types, lint, unit
# tests and that dist/ is what the sources give, and walks through the pages in
# Chromium, over recorded answers and over a real demo.
set -euo pipefail
cd "$(dirname "$0")"

npm ci --no-progress
npm run --silent check
npm run --silent lint
npm run --silent test
npm run --silent build -- --logLevel warn
if [ -n "$(git status --porcelain -- dist)" ]; then
  git status --short -- dist >&2
  echo "ui: dist/ is not what the sources give: run make ui and commit it" >&2
  exit 1
fi
make -s -C .. build
CGO_ENABLED=0 go build -C .. -trimpath -o bin/billing ./examples/billing/app
npm run --silent browser
