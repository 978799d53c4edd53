#!/usr/bin/env bash
# Installs the chart by the helm program on a cluster made here, changes it, rolls it
# back and removes it, and asks `seine` what it thinks of that; as root. Helm is built
# from its module: the first time takes minutes, later ones seconds.
set -euo pipefail
cd "$(dirname "$0")/../.."
export CLUSTER=${CLUSTER:-helm} NODES=1
cluster=$PWD/test/cluster/cluster.sh built=$(mktemp -d)
finish() {
  rm -r "$built"
  $cluster down
}
trap finish EXIT
CGO_ENABLED=0 go build -o "$built/" ./cmd/seine
CGO_ENABLED=0 go -C test/helm build -o "$built/helm" helm.sh/helm/v4/cmd/helm
go run ./install/images --arch "$(go env GOARCH)" --out "$built"
$cluster up
$cluster import "$built"/*.tar
run() { HOME=$built $cluster exec timeout 240 "$@"; } # helm keeps its files there
helm() { run "$built/helm" "$@" -n seine-system; }
seine() { run "$built/seine" "$@"; }
fail() { echo "FAILED: $*" >&2 && exit 1; }
refused() { # SENTENCE COMMAND…: it fails, and says that
  local out
  if out=$("${@:2}" 2>&1); then fail "${*:2} was not refused"; fi
  grep -qF "$1" <<<"$out" || fail "${*:2} says: $out"
}
healthy() { # within a minute: helm does not wait for the caBundle; and the release is named
  local out end=$((SECONDS + 60))
  until out=$(seine check); do
    [ $SECONDS -lt $end ] || fail "seine check: $out"
    sleep 1
  done
  grep 'release: Helm release seine in seine-system' <<<"$out" || fail "seine check: $out"
}
run "$built/helm" lint install/chart
refused "additional properties 'tagg' not allowed" helm install seine install/chart --create-namespace --set image.tagg=dev
helm install seine install/chart --create-namespace --set image.tag=dev --wait --timeout 3m
healthy
refused 'use helm upgrade' seine install --apply
helm upgrade seine install/chart --set image.tag=dev --set replicas=2 --wait --timeout 3m
healthy
helm rollback seine 1 --wait --timeout 3m
healthy
helm uninstall seine --wait --timeout 1m
# The root stays for the next installation, and the definitions for their resources.
left=$(run kubectl get clusterroles,clusterrolebindings,mutatingwebhookconfigurations,validatingwebhookconfigurations -o name | grep -i seine || true)
[ -z "$left" ] || fail "left behind: $left"
run kubectl get secret seine-ca -n seine-system
helm install seine install/chart --set image.tag=dev --wait --timeout 3m
healthy
echo "helm: all of it passed"
