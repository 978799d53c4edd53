#!/usr/bin/env bash
# Builds Kubernetes, etcd and CoreDNS for the test cluster, unless the cache
# already has them from the same sources, toolchain and flags; prints the
# directory they are in. From nothing it takes ten minutes of two cores.
set -euo pipefail
. "$(dirname "$0")/settings.sh"
export CGO_ENABLED=0 GOWORK=off GOFLAGS=-buildvcs=false
# What /version, kubectl and the nodes report; the default is no version at all.
v=k8s.io/component-base/version
ldflags="-s -w -X $v.gitVersion=v$kubernetes_version -X $v.gitMajor=1 -X $v.gitMinor=34 -X $v.gitTreeState=clean -X $v.gitCommit=seine -X $v.buildDate=1970-01-01T00:00:00Z"
stamp=$( (go version && echo "$ldflags" && cd "$here/kube" && find . -type f | LC_ALL=C sort | xargs sha256sum) | sha256sum | cut -c1-16)
out=$CLUSTER_CACHE/$stamp
if [ ! -e "$out/complete" ]; then
  mkdir -p "$out"
  echo "building Kubernetes $kubernetes_version into $out …" >&2
  # One build at a time, and one link: two of them would not fit in small machines' memory.
  (cd "$here/kube" && flock "$out" nice go build -p 2 -mod=readonly -trimpath -tags grpcnotrace -gcflags=all=-dwarf=false -ldflags "$ldflags" -o "$out/" ./... >&2)
  for name in kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet kubectl etcd; do
    ln -sfn kubernetes "$out/$name"
  done
  touch "$out/complete"
fi
echo "$out"
